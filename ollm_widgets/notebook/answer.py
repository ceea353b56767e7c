"""The answer of ``%%ollm``, printed as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ollm_widgets.notebook.printing import say
from ollm_widgets.render.terminal import TerminalText
from ollm_widgets.runtime.completion import Completion
from ollm_widgets.runtime.worker import ITSELF

if TYPE_CHECKING:
    from ollm_widgets.notebook.talk import Messages
    from ollm_widgets.planning.config import GenerationConfig
    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.manager import RuntimeManager


def print_answer(
    manager: RuntimeManager,
    runtime: Runtime,
    prompt: str | Messages,
    generation: GenerationConfig,
    *,
    caller: str,
) -> Completion | None:
    """Print an answer; an interrupt stops it and keeps what there is.

    Parameters
    ----------
    manager
        Who keeps the runtime, and knows why an answer was stopped.
    caller
        What others that wait for the same runtime see.

    Returns
    -------
    Completion or None
        None where it was interrupted before its first token.
    """
    pieces: list[Delta] = []
    shown = TerminalText()
    first, began = sum(one.caller != ITSELF for one in runtime.queue), time.time()
    if first:
        answers = "1 answer comes" if first == 1 else f"{first} answers come"
        say(f"[{runtime.name}: {answers} first]")
    try:
        for piece in runtime.stream(prompt, generation, caller=caller):
            pieces.append(piece)
            print(shown.feed(piece.text), end="", flush=True)
    except KeyboardInterrupt:
        print("\n[stopped]")
    else:
        print()
        if pieces and pieces[-1].finish_reason == "cancelled":
            say(f"[stopped{_why(manager, runtime, began)}]")
    return Completion.of(runtime.name, pieces) if pieces else None


def _why(manager: RuntimeManager, runtime: Runtime, began: float) -> str:
    """Say why somebody else ended an answer, where that was told."""
    ids = [one.id for one in manager.residents() if one.runtime is runtime]
    said = [
        event.detail
        for event in manager.history()
        if event.kind == "cancelled" and event.runtime_id in ids and event.at >= began
    ]
    return f": it {said[-1]}" if said else ""
