from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.kv import beginnings
from ollm_widgets.kv.beginnings import BLOCK_TOKENS, PromptBeginnings

blocks = st.lists(st.integers(0, 2), max_size=6)


def as_ids(blocks: list[int]) -> list[int]:
    return [block for block in blocks for _ in range(BLOCK_TOKENS)]


@given(st.lists(blocks, max_size=8))
def test_what_is_shared_is_the_longest_beginning_of_any_earlier_prompt(
    prompts: list[list[int]],
) -> None:
    known = PromptBeginnings()
    for index, prompt in enumerate(prompts):
        longest = max(
            (
                n
                for n in range(len(prompt) + 1)
                if any(earlier[:n] == prompt[:n] for earlier in prompts[:index])
            ),
            default=0,
        )
        assert known.note(as_ids(prompt)) == longest * BLOCK_TOKENS


def test_a_last_part_of_a_block_counts_for_nothing() -> None:
    known = PromptBeginnings()
    assert known.note(range(100)) == 0
    assert known.note(range(100)) == BLOCK_TOKENS


def test_a_prompt_longer_than_the_memory_is_known_by_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beginnings, "_BLOCKS", 4)
    known = PromptBeginnings()
    known.note(range(10 * BLOCK_TOKENS))
    assert known.note(range(10 * BLOCK_TOKENS)) == 4 * BLOCK_TOKENS
