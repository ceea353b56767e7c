from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.ids import DeviceKind
from ollm_widgets.planning.search.rings import rings_for, stagings_for

kinds = st.sampled_from(["cpu", "cuda"])


@given(kinds, st.integers(2, 120), st.booleans())
def test_there_is_a_ring_of_two_slots_for_all_layers(
    kind: DeviceKind, layers: int, captured: bool
) -> None:
    rings = rings_for(kind, layers, captured=captured, asked=None)
    assert any(ring.slots == 2 and ring.streams(layers) for ring in rings)


@given(kinds, st.integers(1, 120), st.booleans(), st.data())
def test_no_ring_has_more_slots_than_layers_pass(
    kind: DeviceKind, layers: int, captured: bool, data: st.DataObject
) -> None:
    for ring in rings_for(kind, layers, captured=captured, asked=None):
        for count in range(1, layers + 1):
            assert not ring.streams(count) or ring.slots <= max(count, 2) or count == layers
    asked = data.draw(st.integers(1, layers))
    rings = rings_for(kind, layers, captured=captured, asked=asked)
    assert rings
    assert all(ring.slots <= asked and ring.streams(asked) for ring in rings)
    assert not rings[0].scarce


@given(st.integers(4, 200))
def test_a_captured_ring_divides_what_streams_or_has_four_slots(count: int) -> None:
    rings = rings_for("cuda", 400, captured=True, asked=None)
    taking = {ring.slots for ring in rings if ring.streams(count)}
    assert taking == {4, *(slots for slots in (5, 6, 3) if count % slots == 0)}


@pytest.mark.parametrize(("asked", "slots"), [(25, 5), (24, 4), (18, 6), (9, 3), (23, 4), (1, 1)])
def test_the_preferred_ring_divides_what_was_asked_to_stream(asked: int, slots: int) -> None:
    assert rings_for("cuda", 32, captured=True, asked=asked)[0].slots == slots


@given(st.integers(6, 100))
def test_more_layers_in_host_memory_have_no_fewer_buffers(layers: int) -> None:
    stagings = stagings_for(layers, asked_host=None)
    fewest = [
        min(each.slots for each in stagings if each.most_host >= host and each.most_disk >= layers)
        for host in range(layers + 1)
    ]
    assert fewest == sorted(fewest)
    assert fewest[0] == 2
    assert fewest[-1] <= 6
