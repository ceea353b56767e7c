"""Any order of operations, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ollm_widgets.kv.layouts.records import Extent
from tests.kv.layouts.records import RECORD_BYTES, SMALL, read, record


class Schedule(RuleBasedStateMachine):
    """Everything a caller may do, in any order, with nothing between a call and its effect."""

    layout: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = SMALL[self.layout](self.folder, "w")
        self.kept: dict[Extent, bytes] = {}
        self.count = 0
        self.moved: dict[Extent, Extent] = {}

    def teardown(self) -> None:
        self.files.close(delete=True)
        assert list(self.folder.iterdir()) == []
        shutil.rmtree(self.folder)

    @rule(sizes=st.lists(st.integers(1, 3 * RECORD_BYTES), max_size=8))
    def append(self, sizes: list[int]) -> None:
        payloads = [record(self.count + number, size) for number, size in enumerate(sizes)]
        self.count += len(sizes)
        extents = self.files.append(payloads)
        assert not set(extents) & self.kept.keys()
        self.kept.update(zip(extents, payloads, strict=True))

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        chosen = (
            data.draw(st.sets(st.sampled_from(sorted(self.kept, key=str)))) if self.kept else ()
        )
        self.files.free(list(chosen))
        for extent in chosen:
            del self.kept[extent]

    @rule(data=st.data())
    def read_some_in_any_order(self, data: st.DataObject) -> None:
        if self.kept:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.kept, key=str))))
            assert read(self.files, chosen) == [self.kept[extent] for extent in chosen]

    @rule()
    def compact(self) -> None:
        wasteful = self.files.file_bytes > 2 * self.files.live_bytes
        self.moved = dict(self.files.compact())
        if self.layout == "journal":
            assert bool(self.moved) == wasteful
            assert self.files.file_bytes <= 2 * self.files.live_bytes
        before = {after: old for old, after in self.moved.items() if old in self.kept}
        assert read(self.files, list(before.values())) == read(self.files, list(before))
        self.kept = {self.moved.get(extent, extent): data for extent, data in self.kept.items()}

    @rule()
    def sync(self) -> None:
        self.files.sync()

    @rule()
    def start_again(self) -> None:
        """A later process, which knows the extents from somewhere else."""
        self.files.close(delete=False)
        self.files = SMALL[self.layout](self.folder, "w")
        assert read(self.files, list(self.kept)) == list(self.kept.values())
        self.files.adopt(self.kept)
        for name in {path.name for path in self.folder.iterdir()}:
            if name not in {extent.file for extent in self.kept}:
                (self.folder / name).unlink()

    @invariant()
    def everything_kept_is_there(self) -> None:
        assert read(self.files, list(self.kept)) == list(self.kept.values())

    @invariant()
    def the_figures_are_those_of_the_disk(self) -> None:
        assert self.files.live_bytes == sum(map(len, self.kept.values()))
        on_disk = [path.stat().st_size for path in self.folder.iterdir()]
        # The last slot of a file need not be full.
        assert 0 <= self.files.file_bytes - sum(on_disk) <= RECORD_BYTES * len(on_disk)
        assert bool(on_disk) == bool(self.kept)


@pytest.mark.parametrize("layout", sorted(SMALL))
def test_any_order_of_operations_keeps_exactly_what_is_alive(layout: str) -> None:
    machine = type("Schedule", (Schedule,), {"layout": layout})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
