"""A model from plain Python: what it is, what would run, load it, ask it, share it.

``python examples/plain_python.py [MODEL]``; a model is an alias, a hub id, a folder or a GGUF file.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from ollm_widgets import (
    GenerationConfig,
    LoadProgress,
    OllmError,
    RuntimeConfig,
    RuntimeLoader,
    RuntimeManager,
)

SHORT = GenerationConfig(max_new_tokens=40)


def look(loader: RuntimeLoader, config: RuntimeConfig) -> None:
    """Say what the model is and what would run; nothing is downloaded or loaded for it."""
    print(loader.resolve(config.model_reference))
    print(f"\n{loader.explain(loader.plan(config))}")


def ask(loader: RuntimeLoader, config: RuntimeConfig) -> None:
    """Load it, print an answer as it comes, and give the memory back."""
    stages: set[str] = set()

    def show(progress: LoadProgress) -> None:
        if progress.stage not in stages:
            stages.add(progress.stage)
            print(f"[{progress.stage}]", flush=True)

    with loader.load(config, progress=show) as runtime:
        for delta in runtime.stream("What is the capital of France?", SHORT):
            print(delta.text, end="", flush=True)
        print(f"\n[{delta.new_tokens} tokens, {delta.tokens_per_s:.1f} tokens/s]")


def share(loader: RuntimeLoader, config: RuntimeConfig) -> None:
    """Keep it for several callers: they get one runtime, loaded once, and take turns."""
    manager = RuntimeManager(loader)

    def answer(question: str) -> str:
        with manager.acquire(config) as lease:
            return f"{question} {lease.runtime.complete(question, SHORT).text.strip()}"

    questions = ("What is the capital of Japan?", "What is the capital of Germany?")
    with ThreadPoolExecutor(max_workers=len(questions)) as pool:
        for line in pool.map(answer, questions):
            print(line)
    loads = sum(event.kind == "loaded" for event in manager.history())
    print(f"[{len(questions)} callers, {loads} load]")
    for change in manager.unload_all():
        print(f"[{change.name} has left: {change.freed_bytes:,} bytes freed]")


def main() -> int:
    """Go through it with one model."""
    config = RuntimeConfig(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
    loader = RuntimeLoader()
    try:
        look(loader, config)
        print("\n-- load it and ask")
        ask(loader, config)
        print("\n-- share it")
        share(loader, config)
    except OllmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
