"""Slots follow the experts' numbers, and rows are copied from where a table says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.weights.experts.slots import (
    alignment_of,
    assign_slots,
    device_address,
    gather_rows,
)

CPU = torch.device("cpu")


@given(
    experts=st.integers(1, 20),
    chosen=st.lists(st.integers(-1, 21), min_size=1, max_size=30),
    spare=st.integers(0, 3),
)
def test_each_distinct_expert_has_one_slot_in_the_order_of_numbers(
    experts: int, chosen: list[int], spare: int
) -> None:
    index = torch.tensor(chosen)
    slots = torch.full((min(len(chosen), experts) + spare,), 99)
    remapped = torch.full((len(chosen),), 99)
    usage = torch.ones(experts, dtype=torch.int32)
    assign_slots(index, remapped, slots, usage, experts)

    wanted = sorted({each for each in chosen if 0 <= each < experts})
    assert slots.tolist() == wanted + [-1] * (len(slots) - len(wanted))
    none = len(slots)
    assert remapped.tolist() == [
        wanted.index(each) if 0 <= each < experts else none for each in chosen
    ]
    assert usage.tolist() == [2 if each in wanted else 1 for each in range(experts)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
@pytest.mark.parametrize("shape", [(3, 5), (16,), (1,), (33, 64)])
def test_rows_are_those_that_index_select_gives(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    near = torch.randint(0, 100, (6, *shape)).to(dtype)
    far = torch.randint(100, 200, (6, *shape)).to(dtype)
    row_bytes = near[0].numel() * near.element_size()
    table = torch.tensor(
        [each.data_ptr() + row_bytes * n for n, each in enumerate([near, far] * 3)]
    )
    both = torch.stack([(near, far)[n % 2][n] for n in range(6)])
    chosen = torch.tensor([4, -1, 1, 4, 0])
    out = torch.full((5, *shape), 7).to(dtype)
    gather_rows(table, chosen, out, alignment_of(table.tolist(), row_bytes))
    assert torch.equal(out[[0, 2, 3, 4]], both.index_select(0, chosen[[0, 2, 3, 4]]))
    assert (out[1] == 7).all()


def test_the_widest_load_divides_addresses_and_rows() -> None:
    assert alignment_of([512, 1024], 4096) == 16
    assert alignment_of([512, 1032], 4096) == 8
    assert alignment_of([512], 6) == 2
    assert alignment_of([512], 7) == 1


def test_memory_of_the_cpu_has_its_own_address_there() -> None:
    tensor = torch.zeros(3)
    assert device_address(tensor, CPU) == tensor.data_ptr()
    assert device_address(tensor, torch.device("cuda")) is None
