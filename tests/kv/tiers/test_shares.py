"""How a budget is divided, in figures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.kv.tiers.shares import UNBOUNDED_TOKENS, Shares

MIB = 1 << 20


def test_without_a_budget_everything_is_hot() -> None:
    shares = Shares(None, 4, 64, on_host=True)
    shares.learn(0, 1024)
    assert shares.division(1 << 20).hot_tokens == UNBOUNDED_TOKENS


@given(
    budget=st.integers(8 * MIB, 1 << 34),
    sizes=st.lists(st.integers(64, 1 << 15), min_size=1, max_size=40),
    tokens=st.integers(1, 1 << 20),
    on_host=st.booleans(),
)
def test_hot_tails_slots_and_transfers_fit_in_the_budget_or_are_as_small_as_can_be(
    budget: int, sizes: list[int], tokens: int, on_host: bool
) -> None:
    shares = Shares(budget, len(sizes), 64, on_host=on_host)
    for layer, size in enumerate(sizes):
        shares.learn(layer, size)
        shares.pass_reaches(layer)
    division = shares.division(tokens)
    assert division.hot_tokens % 64 == 0
    slots = division.slots * max(sizes) * shares.slot_tokens(tokens)
    transfers = 2 * shares.transfer_bytes + (shares.pending_bytes if on_host else 0)
    taken = division.hot_tokens * sum(sizes) + slots + transfers
    assert taken <= budget or (division.hot_tokens, division.slots) == (128, 1)
    assert 1 <= division.slots <= 2


def test_layers_that_have_had_no_tokens_are_counted_until_a_pass_starts_over() -> None:
    shares = Shares(64 * MIB, 10, 64, on_host=True)
    shares.learn(0, 1024)
    shares.pass_reaches(0)
    alone = shares.division(100).hot_tokens
    shares.learn(4, 1024)
    shares.pass_reaches(4)
    assert abs(shares.division(100).hot_tokens - alone) <= 64
    shares.pass_reaches(0)
    assert shares.division(100).hot_tokens > 4 * alone


@given(tokens=st.integers(1, 1 << 24))
def test_a_slot_has_room_for_its_tokens_and_rarely_grows(tokens: int) -> None:
    shares = Shares(MIB, 2, 64, on_host=True)
    capacity = shares.slot_tokens(tokens)
    assert tokens <= capacity <= tokens + max(tokens // 8, 64)
