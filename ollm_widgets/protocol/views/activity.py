"""Region `Activity`."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING, Literal

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.protocol.activity import (
    ActivityView,
    KVItem,
    KVView,
    PaceView,
    TracePart,
    TraceView,
    TruthItem,
)
from ollm_widgets.render.units import format_memory, format_seconds
from ollm_widgets.runtime.predicted_and_measured import FIRST_TOKEN, LOAD, SECONDS_PER_TOKEN
from ollm_widgets.runtime.token_time import (
    PART_MEANINGS,
    PART_NAMES,
    TokenTime,
    layer_seconds,
    precise,
    where,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.predicted_and_measured import PredictedAndMeasured
    from ollm_widgets.session.activity import AnswerMemory
    from ollm_widgets.session.pace import Pace
    from ollm_widgets.session.session import Session
    from ollm_widgets.session.tracing import TracedAnswer

_FIGURES = {SECONDS_PER_TOKEN: "One token", FIRST_TOKEN: "First token", LOAD: "Loading"}

# Within a tenth a prediction is as good as true.
NEARLY = 0.1


def view_activity(session: Session) -> ActivityView:
    """The pictures of the latest answer, of the conversation, and of the plan come true."""
    activity, tracing = session.activity, session.activity.tracing
    with session.lock:
        runtime = session.runtime
        state: Literal["off", "starting", "on"] = "off"
        if tracing.wanted:
            state = "on" if tracing.ready else "starting"
        truth = _truth(runtime)
        return ActivityView(
            pace=_pace(activity.pace),
            kv=_kv(tuple(activity.memory), runtime),
            trace=_trace(tracing.latest, activity.shown_token),
            truth=tuple(map(_truth_item, truth)),
            truth_text=_truth_text(truth),
            tracing=state,
            untraceable=_untraceable(runtime),
            problem=tracing.problem,
        )


# ---------------------------------------------------------------------- pace


def _pace(pace: Pace | None) -> PaceView | None:
    if pace is None:
        return None
    samples, last = pace.samples, pace.last
    if last is None or not samples:
        return _reading() if pace.running else None
    tokens, seconds = samples[-1]
    said = f"{tokens:,} token{'' if tokens == 1 else 's'} in {format_seconds(seconds)}"
    speed = f", {last.tokens_per_s:.1f} tokens/s after the first" if last.tokens_per_s else ""
    return PaceView(
        state="writing" if pace.running else "ended",
        prompt_tokens=last.prompt_tokens,
        reused_tokens=last.reused_tokens,
        first_token_s=last.time_to_first_token_s,
        new_tokens=tokens,
        seconds=seconds,
        tokens_per_s=last.tokens_per_s,
        tokens=tuple(count for count, _at in samples),
        at_s=tuple(round(at, 4) for _count, at in samples),
        text=f"{said}{speed}. {_read(last.prompt_tokens, last.reused_tokens)} "
        f"took {precise(last.time_to_first_token_s)}.",
    )


def _reading() -> PaceView:
    return PaceView(
        state="reading",
        prompt_tokens=0,
        reused_tokens=0,
        first_token_s=0.0,
        new_tokens=0,
        seconds=0.0,
        tokens_per_s=0.0,
        tokens=(),
        at_s=(),
        text="The prompt is being read.",
    )


def _read(prompt_tokens: int, reused_tokens: int) -> str:
    computed = prompt_tokens - reused_tokens
    read = f"Reading {computed:,} prompt token{'' if computed == 1 else 's'}"
    return f"{read}, with {reused_tokens:,} reused," if reused_tokens else read


# ---------------------------------------------------------------------- keys and values


def _kv(answers: Sequence[AnswerMemory], runtime: Runtime | None) -> KVView | None:
    if not answers:
        return None
    last = answers[-1]
    plan = runtime.plan.kv if runtime is not None else None
    limit_tokens = plan.context_tokens if plan is not None else 0
    limit_bytes = plan.total_bytes if plan is not None else 0
    text = f"After {_answers(last.number)} the KV cache holds {last.kv.summary()}."
    if limit_tokens and limit_bytes:
        text += f" {limit_tokens:,} tokens are planned for, {format_memory(limit_bytes)}."
    return KVView(
        items=tuple(map(_kv_item, answers)),
        limit_tokens=limit_tokens,
        limit_bytes=limit_bytes,
        text=text,
    )


def _kv_item(answer: AnswerMemory) -> KVItem:
    kv = answer.kv
    return KVItem(
        number=answer.number,
        tokens=kv.tokens,
        hot_tokens=kv.hot_tokens,
        hot_bytes=kv.accelerator_bytes,
        ram_bytes=kv.host_bytes,
        disk_bytes=kv.disk_bytes,
        text=f"Answer {answer.number} of {answer.model}: {kv.summary()}",
    )


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count:,} answers"


# ---------------------------------------------------------------------- a trace


# A trace stays as it is, while it is looked at twice a second by each view of a running model.
@functools.lru_cache(maxsize=2)
def _trace(traced: TracedAnswer | None, chosen: int | None) -> TraceView | None:
    if traced is None:
        return None
    steps = [token for token in traced.tokens if not token.prompt_tokens]
    shown = _shown(steps, chosen)
    parts = tuple(
        TracePart(
            kind=kind,
            name=name,
            help=PART_MEANINGS[kind],
            tokens_ms=tuple(_ms(token.parts[kind]) for token in steps),
            layers_ms=tuple(_ms(layer_seconds(layer, kind)) for layer in shown.layers)
            if shown
            else (),
        )
        for kind, name in PART_NAMES.items()
    )
    return TraceView(
        parts=parts,
        numbers=tuple(token.number for token in steps),
        shown=shown.number if shown else 0,
        prompt=_prompt(traced.tokens),
        note=_trace_note(traced),
        text=_trace_text(traced.model, steps),
    )


def _shown(steps: Sequence[TokenTime], chosen: int | None) -> TokenTime | None:
    """The chosen token, else the typical one: its time is the median."""
    for token in steps:
        if token.number == chosen:
            return token
    if not steps:
        return None
    median = statistics.median_low(token.total_s for token in steps)
    return next(token for token in steps if token.total_s == median)


def _prompt(tokens: Iterable[TokenTime]) -> str:
    for token in tokens:
        if token.prompt_tokens:
            read = f"Reading {token.prompt_tokens:,} prompt tokens took"
            return f"{read} {precise(token.total_s)}: {where(token.parts)}."
    return ""


def _trace_text(model: str, steps: Sequence[TokenTime]) -> str:
    if not steps:
        return f"No token of {model} after the first was recorded."
    total_s = sum(token.total_s for token in steps)
    together = {kind: sum(token.parts[kind] for token in steps) for kind in PART_NAMES}
    count = f"{len(steps):,} token{'' if len(steps) == 1 else 's'}"
    mean = precise(total_s / len(steps))
    return f"{count} of {model} took {mean} each on average: {where(together)}."


def _trace_note(traced: TracedAnswer) -> str:
    notes = [f"Run one operation at a time: {note}." for note in _notes(traced)]
    if traced.unrecorded:
        recorded = len(traced.tokens)
        every = recorded + traced.unrecorded
        notes.append(f"{recorded:,} of {every:,} passes were recorded, so that it costs little.")
    steps = [token for token in traced.tokens if not token.prompt_tokens]
    if steps and not any(token.parts["choose"] for token in steps):
        notes.append("What follows the layers, such as choosing the token, is not in these times.")
    return " ".join(notes)


def _notes(traced: TracedAnswer) -> Iterable[str]:
    return dict.fromkeys(token.note for token in traced.tokens if token.note)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _untraceable(runtime: Runtime | None) -> str:
    return "No model is loaded yet." if runtime is None else runtime.untraceable


# ---------------------------------------------------------------------- predicted and measured


def _truth(runtime: Runtime | None) -> tuple[PredictedAndMeasured, ...]:
    try:
        return runtime.truth.shown if runtime is not None else ()
    except RuntimeClosedError:
        return ()  # it may leave while it is looked at


def _truth_item(row: PredictedAndMeasured) -> TruthItem:
    what, predicted, measured, _ratio = row.cells()
    return TruthItem(
        name=_FIGURES.get(what, what),
        predicted=predicted,
        measured=measured,
        ratio=row.ratio,
        remark=row.remark,
    )


def _truth_text(rows: Sequence[PredictedAndMeasured]) -> str:
    if not rows:
        return ""
    nearly = sum(abs(row.ratio - 1) <= NEARLY for row in rows)
    count = f"{len(rows)} figure{'' if len(rows) == 1 else 's'}"
    return f"{nearly} of {count} came within {NEARLY:.0%} of what the plan predicted."
