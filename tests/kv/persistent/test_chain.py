"""Prompts are told apart by every token up to the end of a block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.kv.persistent.chain import (
    BLOCK_TOKENS,
    chain_of,
    pack_ids,
    root_hash,
    shared_tokens,
)

ROOT = root_hash("model")
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=3 * BLOCK_TOKENS)


@given(IDS)
def test_blocks_cover_all_tokens_in_order(ids: list[int]) -> None:
    chain = chain_of(ROOT, pack_ids(ids))
    assert b"".join(block.ids for block in chain) == pack_ids(ids)
    assert [block.start for block in chain] == list(range(0, len(ids), BLOCK_TOKENS))
    assert all(block.tokens == BLOCK_TOKENS for block in chain[:-1])
    assert not chain or chain[-1].stop == len(ids)


@given(IDS, IDS)
def test_two_prompts_share_the_blocks_before_their_first_difference(
    one: list[int], other: list[int]
) -> None:
    pairs = zip(chain_of(ROOT, pack_ids(one)), chain_of(ROOT, pack_ids(other)), strict=False)
    for here, there in pairs:
        alike = one[: here.stop] == other[: there.stop]
        assert (here.hash == there.hash) == alike


@given(IDS, IDS, IDS)
def test_shared_tokens_end_at_the_first_difference(
    before: list[int], one: list[int], other: list[int]
) -> None:
    here, there = before + one, before + other
    expected = next(
        (at for at, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
        min(len(here), len(there)),
    )
    assert shared_tokens(pack_ids(here), pack_ids(there)) == expected


def test_another_model_has_other_blocks() -> None:
    ids = pack_ids([1, 2, 3])
    assert chain_of(root_hash("a", "b"), ids)[0].hash != chain_of(root_hash("ab", ""), ids)[0].hash


def test_numbers_of_other_libraries_are_token_ids_too() -> None:
    assert pack_ids(np.array([1, 2])) == pack_ids([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 1.5, "a"])
def test_what_is_no_token_id_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        pack_ids([1, wrong])  # type: ignore[list-item]
