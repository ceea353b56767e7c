"""Waiting for a session to come to a state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ollm_widgets import Session

PATIENCE_S = 15.0


def until(
    session: Session, holds: Callable[[], object], each: Callable[[], None] | None = None
) -> None:
    """Wait until `holds`, looked at after each change of the session, and now and then.

    Parameters
    ----------
    each
        Done each time it does not hold yet.
    """
    changed = threading.Event()
    unwatch = session.watch(lambda _part, _job: changed.set())
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            changed.clear()
            if holds():
                return
            assert time.monotonic() < deadline, "it never came true"
            if each is not None:
                each()
            changed.wait(0.1)
    finally:
        unwatch()


def choose(session: Session, reference: str) -> None:
    """Choose a model and wait for its plan."""
    session.choose(reference)
    until(session, lambda: session.plan is not None or session.desk.problem)


def settled(session: Session) -> None:
    """Wait until no load and no answer runs."""
    until(session, lambda: not session.running)


def load(session: Session, reference: str) -> str:
    """Choose a model and load it; gives the runtime's id."""
    choose(session, reference)
    session.load()
    until(session, lambda: not session.loading.active)
    assert session.loading.state == "loaded", session.loading.error
    assert session.runtime_id is not None
    return session.runtime_id


def last_turn(session: Session):  # type: ignore[no-untyped-def]
    """The turn at the end of the conversation."""
    return session.conversation.transcript.turns[-1]
