"""Errors that hold no tensors: who keeps one keeps what it says, and no model."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ollm_widgets.errors import BackendsFailedError, OllmError

P = ParamSpec("P")
R = TypeVar("R")

_WHERE = "Where it happened, innermost last:"


def let_go(error: BaseException, before: BaseException | None = None) -> None:
    """Forget the frames that an error came through, and keep their lines as a note.

    A notebook keeps the last error, and with it every variable of every frame below the cell.
    Emptying the frames is not enough: each still holds its function, and what that closes over.

    Parameters
    ----------
    error
        With all that it was raised from, or while it was handled.
    before
        What was being handled already when the work began: it is somebody else's.
    """
    seen = {id(before)}
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        _note_lines(one)
        # Whoever has taken hold of a frame meanwhile holds an empty one.
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BackendsFailedError):
            waiting += one.errors
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def letting_go(call: Callable[P, R]) -> Callable[P, R]:
    """Have a function's errors hold nothing of what it worked with, its arguments included."""

    @functools.wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        before = sys.exception()
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            let_go(error, before)
            raise
        finally:
            # The error holds this frame too.
            del args, kwargs, before

    return called


def _note_lines(error: BaseException) -> None:
    """Note once where an error came from that does not say itself what to do about it."""
    if not isinstance(error, Exception) or isinstance(error, OllmError):
        return
    if not any(note.startswith(_WHERE) for note in getattr(error, "__notes__", ())):
        lines = "".join(traceback.format_tb(error.__traceback__)).rstrip()
        error.add_note(f"{_WHERE}\n{lines}")
