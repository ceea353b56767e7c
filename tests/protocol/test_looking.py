"""What changes without a word: other kernels, and how full memories are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import RuntimeManager, Session
from ollm_widgets.protocol import outbox
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from ollm_widgets.runtime.residency.surroundings import MemoryLevel
from tests.protocol.page import Page
from tests.runtime.residency.other_kernel import other_kernels
from tests.session.gates import GatedLoader
from tests.session.tiny import CopyModel
from tests.session.waiting import load, settled

GIB = 1024**3


class SetGauge:
    """Memory as full as a test says."""

    def __init__(self) -> None:
        self.free_bytes = 6 * GIB

    def levels(self) -> dict[str, MemoryLevel]:
        return {"ram": MemoryLevel("ram", 8 * GIB, self.free_bytes)}


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> SetGauge:
    monkeypatch.setattr(outbox, "LOOK_S", 0.02)
    monkeypatch.setattr(outbox, "LOOK_AT_REST_S", 0.02)
    return SetGauge()


@pytest.fixture
def session(loader: GatedLoader, gauge: SetGauge, tmp_path: Path) -> Iterator[Session]:
    manager = RuntimeManager(loader, gauge=gauge, neighbours=KernelNeighbours(tmp_path))
    session = Session(manager)
    yield session
    session.close()
    manager.close()


def test_a_memory_that_others_fill_is_shown_without_a_word(
    session: Session, gauge: SetGauge
) -> None:
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))
        (chip,) = page.drawn["memory"]["chips"]
        assert chip == {"text": "RAM, 2.0 GiB of 8.0 GiB used", "tone": "neutral"}
        gauge.free_bytes = 100 * 1024**2
        page.until(lambda: page.drawn["memory"]["chips"][0]["tone"] == "warn")
        assert page.drawn["memory"]["chips"][0]["text"] == "RAM, 7.9 GiB of 8.0 GiB used"


def test_another_kernel_that_comes_is_shown_without_a_word(
    session: Session, tmp_path: Path
) -> None:
    with Page(session) as page, other_kernels(tmp_path, "theirs.ipynb") as (theirs,):
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))
        theirs.tell("publish", ["llama", "idle", 1.0, {"ram": GIB}])
        page.until(lambda: page.drawn["memory"]["others"])
        assert page.drawn["memory"]["others"][0]["title"] == "theirs.ipynb"


def test_time_alone_is_no_news(session: Session, copy_model: CopyModel) -> None:
    load(session, copy_model("tiny"))
    with Page(session) as page:
        page.ask("hello")
        settled(session)
        # The load gives its lease back a moment after it has ended.
        page.until(lambda: page.drawn["memory"]["items"][0]["state"] == "idle")
        page.until_in_step()
        looked = page.outbox._looked
        sent, published = len(page.events()), len(page.published)
        page.until(lambda: page.outbox._looked > looked + 0.2)
        assert len(page.events()) == sent
        assert len(page.published) == published
        before = page.drawn["memory"]
        assert page.ask("pin", runtime=session.runtime_id, pinned=True)["kind"] == "ack"
        page.until(lambda: page.drawn["memory"]["items"][0]["pinned"])
        assert page.drawn["memory"]["now_s"] > before["now_s"]
