"""How fast a plan should run, from the bytes that move, what overlaps, and measured speeds."""

from __future__ import annotations

from dataclasses import replace

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.parts import KVPlan, LayerPlacement, StreamingPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.history import HistoryBytes, history_bytes
from ollm_widgets.planning.speed.loading import file_speeds, load_stages, loaded_file_bytes
from ollm_widgets.planning.speed.parts import prompt_parts, step_parts
from ollm_widgets.planning.speed.predicted import LoadStage, SpeedPrediction
from ollm_widgets.planning.speed.prompt import prompt_seconds, prompt_work
from ollm_widgets.planning.speed.step import step_seconds
from ollm_widgets.planning.speed.wires import reads_page_cache, unmeasured_wires
from ollm_widgets.planning.speed.words import (
    hot_expert_words,
    load_words,
    prompt_words,
    token_words,
)
from ollm_widgets.planning.speed.work import GENERATE_CALLS, TOKEN_CALLS, step_work
from ollm_widgets.planning.weights import WeightSizes

DEFAULT_PROMPT_TOKENS = 512
_NOWHERE = PlannedRun("cpu", LayerPlacement(), StreamingPlan())


def predict_speed(
    sizes: WeightSizes,
    shape: ModelShape | None,
    dtype: DType,
    bandwidth: Bandwidth,
    *,
    context_tokens: int,
    window_tokens: int | None = None,
    use_cache: bool = True,
    run: PlannedRun | None = None,
    kv: KVPlan | None = None,
    prompt_tokens: int | None = None,
    history_tokens: int = 0,
    generic: bool = False,
    text_only: bool = True,
    file_room_bytes: int | None = None,
    files_cached: bool = False,
) -> SpeedPrediction | None:
    """Predict decode, prefill and load.

    Decoding reads every active weight and the KV cache once a token, and does the small
    operations of each layer; a prompt does two float operations a parameter and token (Kaplan et
    al. 2020, section 2.1), and attention. Layers that stream cross their wires once a pass,
    while the others compute: the slowest of all these bounds it.

    Parameters
    ----------
    context_tokens, window_tokens
        Tokens planned for, and those the KV cache keeps.
    use_cache
        Without a KV cache every token costs a pass over all tokens before it.
    run
        Where the layers are; None for all of them in memory, on a CPU.
    kv
        How keys and values are kept; None for all of them where they are computed.
    prompt_tokens, history_tokens
        The prompt, and the tokens before it whose keys and values are known. None is a prompt of
        512 tokens, or of the context if that is shorter.
    generic
        Whether transformers loads and generates.
    text_only
        Whether there is nothing beside text, which is all that is predicted.
    file_room_bytes
        Memory that the page cache may take; None where the model's files are not here, so that
        its load is not predicted.
    files_cached
        Whether the page cache is known to hold the files; else they come from the disk where
        its speed is known.

    Returns
    -------
    SpeedPrediction or None
        None when the speed of a wire that something crosses is not known.
    """
    run = run or _NOWHERE
    if prompt_tokens is None:
        prompt_tokens = min(DEFAULT_PROMPT_TOKENS, context_tokens)

    def history_of(tokens: int) -> HistoryBytes:
        return history_bytes(
            shape,
            dtype,
            tokens if use_cache else 0,
            kv,
            window_tokens=window_tokens,
            on_accelerator=run.on_accelerator,
        )

    before, behind = history_of(history_tokens), history_of(history_tokens + prompt_tokens)
    if unmeasured_wires(sizes, bandwidth, run, behind):
        return None
    cached = reads_page_cache(run, bandwidth)
    calls_beside = GENERATE_CALLS if generic else TOKEN_CALLS
    prompt = prompt_work(
        sizes,
        shape,
        dtype,
        run,
        prompt_tokens,
        history_tokens=history_tokens,
        window_tokens=window_tokens,
        cold_kv_wire_bytes=before.over_wire,
        cold_kv_disk_bytes=before.from_disk,
        page_cached=cached,
        calls_beside=calls_beside,
    )
    step = step_work(
        sizes,
        run,
        history_bytes=behind.read,
        cold_kv_wire_bytes=behind.over_wire,
        cold_kv_disk_bytes=behind.from_disk,
        page_cached=cached,
        calls_beside=calls_beside,
    )
    first_s = prompt_seconds(prompt, bandwidth).total
    first_parts = prompt_parts(prompt, bandwidth, run)
    said = [prompt_words(prompt, bandwidth, sizes, prompt_tokens, run)]
    if use_cache:
        token_s, token_parts = step_seconds(step, bandwidth), step_parts(step, bandwidth, run)
        said.insert(0, token_words(step, bandwidth, sizes, run))
        said.append(hot_expert_words(sizes, run))
    else:
        token_s, token_parts = first_s, first_parts
        said.insert(0, "Without a KV cache each token costs a whole pass.")
    load: tuple[LoadStage, ...] = ()
    if file_room_bytes is not None:
        load, loads = _load(
            sizes,
            shape,
            replace(bandwidth, disk_bytes_per_s=None) if files_cached else bandwidth,
            run,
            file_room_bytes,
            step_s=token_s,
            generic=generic,
        )
        said.append(loads)
    if not text_only:
        said.append("Images and audio are not counted.")
    return SpeedPrediction(
        seconds_per_token=token_s,
        time_to_first_token_s=first_s,
        prompt_tokens=prompt_tokens,
        bandwidth=bandwidth,
        why=" ".join(filter(None, said)),
        load=load,
        token_parts=token_parts,
        first_token_parts=first_parts,
    )


def _load(
    sizes: WeightSizes,
    shape: ModelShape | None,
    bandwidth: Bandwidth,
    run: PlannedRun,
    room_bytes: int,
    *,
    step_s: float,
    generic: bool,
) -> tuple[tuple[LoadStage, ...], str]:
    """Predict a load with its files from where they surely are, and say it in words."""
    speeds = file_speeds(bandwidth, loaded_file_bytes(sizes, run), room_bytes)
    loads = [
        load_stages(sizes, shape, bandwidth, run, speed, step_s=step_s, generic=generic)
        for speed in speeds
    ]
    if not loads:
        return (), ""
    sooner_s = sum(each.seconds for each in loads[0]) if len(loads) > 1 else None
    return loads[-1], load_words(loads[-1], speeds[-1], sooner_s)
