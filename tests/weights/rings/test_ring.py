"""Rings of buffers: whatever happens to a pass, a layer that is taken has its own bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ollm_widgets.errors import Cancelled, CheckpointChangedError, WeightReadError
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.reading.reader import WeightReader
from ollm_widgets.weights.rings.ring import ReadingRing, refill_order, successor
from tests.weights.checkpoints import as_it_is, index_of

cycles = st.integers(1, 40).flatmap(
    lambda layers: st.tuples(st.integers(1, layers), st.just(layers))
)


@given(cycle=cycles)
def test_every_layer_follows_exactly_one_layer_and_both_pass_through_one_slot(
    cycle: tuple[int, int],
) -> None:
    slots, layers = cycle
    following = [successor(index, slots, layers) for index in range(layers)]
    assert sorted(following) == list(range(layers))
    assert all(after % slots == before % slots for before, after in enumerate(following))


@given(cycle=cycles)
def test_every_layer_of_a_slot_comes_around(cycle: tuple[int, int]) -> None:
    slots, layers = cycle
    for slot in range(slots):
        index, seen = slot, set[int]()
        while index not in seen:
            seen.add(index)
            index = successor(index, slots, layers)
        assert seen == set(range(slot, layers, slots))


@given(cycle=cycles, start=st.integers(0, 39))
def test_the_slots_are_filled_in_the_order_in_which_a_pass_needs_them(
    cycle: tuple[int, int], start: int
) -> None:
    slots, layers = cycle
    start %= layers
    order = refill_order(start, slots, layers)
    assert order[0] == start
    assert sorted(index % slots for index in order) == list(range(slots))
    needed = [(index - start) % layers for index in order]
    assert needed == sorted(needed)
    for index in order:
        earlier = [(start + step) % layers for step in range((index - start) % layers)]
        assert not [one for one in earlier if one % slots == index % slots]


@given(cycle=cycles, passes=st.integers(1, 4))
def test_passes_find_every_layer_in_its_slot_without_starting_over(
    cycle: tuple[int, int], passes: int
) -> None:
    slots, layers = cycle
    holds = {index % slots: index for index in refill_order(0, slots, layers)}
    for _ in range(passes):
        for index in range(layers):
            assert holds[index % slots] == index
            holds[index % slots] = successor(index, slots, layers)


# ---------------------------------------------------------------------- over real files

LAYERS = 7


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointIndex:
    """Layers of different sizes, in one file."""
    torch.manual_seed(0)
    return index_of(
        tmp_path_factory.mktemp("ring"),
        **{f"layers.{n}.weight": torch.randn(64 + 500 * (n % 3), 9) for n in range(LAYERS)},
    )


class Layers:
    """Layouts of a checkpoint's layers, their bytes, and its file to damage."""

    def __init__(self, index: CheckpointIndex) -> None:
        self.layouts = [
            LayerLayout.of(f"layers.{n}", [as_it_is(index.spans[f"layers.{n}.weight"])])
            for n in range(LAYERS)
        ]
        (self.path,) = index.identities
        self.status = self.path.stat()
        self.whole = self.path.read_bytes()
        with WeightReader(index, threads=1) as reader:
            self.bytes = [self._read(layout, reader) for layout in self.layouts]

    def _read(self, layout: LayerLayout, reader: WeightReader) -> torch.Tensor:
        buffer = torch.zeros(layout.size_bytes, dtype=torch.uint8)
        reader.read(layout, buffer).wait()
        return layout.views(buffer)["weight"].clone()

    def truncate(self, share: float) -> None:
        os.truncate(self.path, int(len(self.whole) * share))

    def restore(self) -> None:
        self.path.write_bytes(self.whole)
        os.utime(self.path, ns=(self.status.st_atime_ns, self.status.st_mtime_ns))

    def assert_in(self, ring: ReadingRing, index: int) -> None:
        assert torch.equal(
            self.layouts[index].views(ring.buffer(index))["weight"], self.bytes[index]
        )


@contextmanager
def ring_over(index: CheckpointIndex, slots: int) -> Iterator[tuple[ReadingRing, Layers]]:
    layers = Layers(index)
    with WeightReader(index, threads=3) as reader:
        ring = ReadingRing(reader, layers.layouts, slots)
        try:
            yield ring, layers
        finally:
            ring.close()
            layers.restore()


def run_pass(ring: ReadingRing, layers: Layers, until: int = LAYERS) -> None:
    """Take layers 0 to `until`; a pass that ends early does not give its last layer back."""
    for index in range(until):
        ring.take(index, None, None)
        layers.assert_in(ring, index)
        if index < until - 1 or until == LAYERS:
            ring.give_back(index)


def run_passes(ring: ReadingRing, layers: Layers) -> None:
    """Two passes: what the first has read ahead is gone by the second."""
    for _ in range(2):
        run_pass(ring, layers)


@pytest.mark.parametrize("slots", [1, 2, 3, LAYERS, LAYERS + 3])
def test_passes_take_every_layer_with_its_bytes(checkpoint: CheckpointIndex, slots: int) -> None:
    with ring_over(checkpoint, slots) as (ring, layers):
        addresses = [ring.buffer(index).data_ptr() for index in range(LAYERS)]
        for _ in range(3):
            run_pass(ring, layers)
        assert [ring.buffer(index).data_ptr() for index in range(LAYERS)] == addresses
        largest = max(layout.size_bytes for layout in layers.layouts)
        assert ring.slot_bytes == min(slots, LAYERS) * largest


@pytest.mark.parametrize("until", range(LAYERS))
@pytest.mark.parametrize("slots", [1, 2, 3, LAYERS])
def test_a_pass_that_ended_at_any_layer_does_not_harm_the_next(
    checkpoint: CheckpointIndex, slots: int, until: int
) -> None:
    with ring_over(checkpoint, slots) as (ring, layers):
        run_pass(ring, layers)
        run_pass(ring, layers, until)
        run_pass(ring, layers)


def test_a_layer_that_has_been_read_ahead_is_known_to_be_there(
    checkpoint: CheckpointIndex,
) -> None:
    with ring_over(checkpoint, 2) as (ring, layers):
        assert not ring.holds(0)
        assert not ring.has_read(0)
        run_pass(ring, layers)
        assert ring.holds(0)
        assert ring.holds(1)
        ring.take(0, None, None)
        assert ring.has_read(0)
        assert not ring.has_read(2)


def test_a_take_that_is_cancelled_leaves_a_ring_that_works(checkpoint: CheckpointIndex) -> None:
    with ring_over(checkpoint, 3) as (ring, layers):
        cancel = threading.Event()
        cancel.set()
        for _ in range(20):
            try:
                ring.take(0, cancel, None)
            except Cancelled:
                assert not ring.holds(0)
            else:
                layers.assert_in(ring, 0)
            run_pass(ring, layers)


@pytest.mark.parametrize("until", [0, 1, 4, LAYERS])
def test_a_file_that_is_cut_off_between_layers_is_named_and_once_put_back_it_works(
    checkpoint: CheckpointIndex, until: int
) -> None:
    with ring_over(checkpoint, 2) as (ring, layers):
        run_pass(ring, layers, until)
        layers.truncate(0.5)
        with pytest.raises(
            (CheckpointChangedError, WeightReadError), match=layers.path.name
        ) as raised:
            run_passes(ring, layers)
        assert "bytes" in str(raised.value)
        layers.restore()
        run_passes(ring, layers)


def test_closing_ends_what_is_read_ahead(checkpoint: CheckpointIndex) -> None:
    with ring_over(checkpoint, 3) as (ring, layers):
        run_pass(ring, layers, 1)
        ring.close()
        assert ring.slot_bytes == 0


class RingUnderFire(RuleBasedStateMachine):
    """Takes and gives back in any order, with cancels and a file that comes and goes."""

    index: CheckpointIndex

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers(self.index)
        self.reader = WeightReader(self.index, threads=2)
        self.ring = ReadingRing(self.reader, self.layers.layouts, 3)
        self.damaged = self.ever_damaged = False
        self.taken: int | None = None

    @rule(index=st.integers(0, LAYERS - 1), cancelled=st.booleans())
    def take(self, index: int, cancelled: bool) -> None:
        cancel = threading.Event()
        if cancelled:
            cancel.set()
        self.taken = None
        try:
            self.ring.take(index, cancel, None)
        except Cancelled:
            assert cancelled
        except (CheckpointChangedError, WeightReadError):
            # Now, or while it was read ahead.
            assert self.ever_damaged
        else:
            self.taken = index
            self.layers.assert_in(self.ring, index)

    # No preconditions: whether a take succeeds is up to the threads, and what hypothesis draws
    # must not be.
    @rule()
    def give_back(self) -> None:
        if self.taken is not None:
            self.ring.give_back(self.taken)
        self.taken = None

    @rule()
    def whole_pass(self) -> None:
        self.taken = None
        if self.damaged:
            return
        try:
            run_pass(self.ring, self.layers)
        except (CheckpointChangedError, WeightReadError):
            # Read ahead while the file was cut off; said once, then read again.
            run_pass(self.ring, self.layers)

    @rule(share=st.sampled_from([0.0, 0.1, 0.5, 0.9]))
    def truncate(self, share: float) -> None:
        self.damaged = self.ever_damaged = True
        self.layers.truncate(share)

    @rule()
    def restore(self) -> None:
        if self.damaged:
            self.layers.restore()
        self.damaged = False

    @invariant()
    def what_was_taken_stays(self) -> None:
        if self.taken is not None:
            self.layers.assert_in(self.ring, self.taken)

    def teardown(self) -> None:
        self.ring.close()
        self.reader.close()
        self.layers.restore()


def test_no_order_of_takes_cancels_and_damage_gives_wrong_bytes(
    checkpoint: CheckpointIndex,
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Machine(RingUnderFire):
        index = checkpoint

    run_state_machine_as_test(
        Machine, settings=settings(deadline=None, max_examples=40, stateful_step_count=25)
    )


def test_the_folder_of_a_closed_reader_has_no_open_file(checkpoint: CheckpointIndex) -> None:
    with ring_over(checkpoint, 2) as (ring, layers):
        run_pass(ring, layers)
        folder = layers.path.parent
    held = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert not [path for path in held if path.is_relative_to(folder)]
