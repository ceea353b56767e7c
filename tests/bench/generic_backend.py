"""What the runtime adds to transformers: ``python tests/bench/generic_backend.py``.

Prints seconds for starting up and tokens per second for answering, each beside what plain
IPython or transformers' own `generate` takes in the same run.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHELL = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
start = time.perf_counter()
{code}
print(time.perf_counter() - start)
"""
QUESTION = "Tell me a story about a lighthouse."
NEW_TOKENS = 64
ROUNDS = 5


def in_a_fresh_shell(code: str) -> float:
    program = SHELL.format(code=code)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(ran.stdout.split()[-1])


def median_s(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(what: str, ours: str, theirs: str, ratio: str) -> None:
    print(f"{what:34} {ours:>14} {theirs:>14} {ratio:>8}")


def main() -> None:
    from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, median of {ROUNDS}"
    )
    row("", "ollm-widgets", "alone", "ratio")
    for what, code in {
        "%load_ext ollm": "shell.run_line_magic('load_ext', 'ollm')",
        "import ollm_widgets": "import ollm_widgets",
    }.items():
        seconds = statistics.median(in_a_fresh_shell(code) for _ in range(ROUNDS))
        row(what, f"{seconds * 1000:.1f} ms", "", "")

    config = RuntimeConfig("smollm2-135m", device="cpu", dtype="float32")
    loader = RuntimeLoader()
    loader.plan(config)
    row("plan, again", f"{median_s(lambda: loader.plan(config)) * 1000:.1f} ms", "", "")
    with loader.load(config) as runtime:
        prompt = runtime.tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS)
        theirs = median_s(
            lambda: runtime.model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)
        )

        def anew() -> None:
            runtime.reset_kv_cache_instances()  # the prompt is not to be reused
            runtime.complete(QUESTION, generation)

        ours = median_s(anew)
        row(
            f"{NEW_TOKENS} tokens, float32",
            f"{NEW_TOKENS / ours:.1f} tok/s",
            f"{NEW_TOKENS / theirs:.1f} tok/s",
            f"{theirs / ours:.2f}",
        )


if __name__ == "__main__":
    main()
