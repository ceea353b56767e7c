"""Another kernel on this machine, as the shelf shows it and asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import RuntimeClosedError, RuntimeManager, Session
from ollm_widgets.protocol.views import view_memory
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from tests.runtime.residency.other_kernel import OtherKernel, other_kernels
from tests.session.gates import GatedLoader
from tests.session.waiting import until

GIB = 1024**3
HELD = ["llama3-8B-chat", "idle", 300.0, {"ram": 8 * GIB}]


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[OtherKernel]:
    with other_kernels(tmp_path, "analysis.ipynb") as (kernel,):
        yield kernel


@pytest.fixture
def session(loader: GatedLoader, tmp_path: Path) -> Iterator[Session]:
    manager = RuntimeManager(loader, neighbours=KernelNeighbours(tmp_path, "mine.ipynb"))
    session = Session(manager)
    yield session
    session.close()
    manager.close()


def test_another_kernel_is_shown_with_what_it_holds_until_it_ends(
    session: Session, theirs: OtherKernel
) -> None:
    assert view_memory(session).others == ()
    theirs.tell("publish", HELD)
    (other,) = view_memory(session).others
    assert (other.id, other.title, other.asked) == (str(theirs.pid), "analysis.ipynb", False)
    assert other.text == "holds 8.0 GiB of RAM, idle 5 min"
    theirs.kill()
    assert view_memory(session).others == ()


def test_it_is_asked_once_and_the_view_says_so(session: Session, theirs: OtherKernel) -> None:
    theirs.tell("publish", HELD)
    (other,) = view_memory(session).others
    session.keeping.ask(other.id)
    until(session, lambda: view_memory(session).others[0].asked)
    assert view_memory(session).effect == "Asked analysis.ipynb for memory."
    (plea,) = theirs.tell("pleas")
    assert (plea["asker_title"], plea["place"]) == ("mine.ipynb", "ram")
    assert plea["needed_bytes"] == 8 * GIB


def test_what_holds_nothing_any_more_cannot_be_asked(session: Session, theirs: OtherKernel) -> None:
    theirs.tell("publish", HELD)
    (other,) = view_memory(session).others
    theirs.kill()
    with pytest.raises(RuntimeClosedError, match="holds no memory"):
        session.keeping.ask(other.id)
