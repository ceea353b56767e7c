from __future__ import annotations

from typing import Any

import pytest
import torch

from ollm_widgets import KVStrategyError
from ollm_widgets.kv.window import window_cache, window_of
from ollm_widgets.kv.window.cache import WindowCache
from tests.kv.window.reference import (
    TOKENS,
    assert_same,
    expected,
    feed,
    prompt,
    tiny,
    visible,
)

WINDOWS = [(window, sinks) for window in (1, 4, 16) for sinks in (0, 2, 4)]
TURNS = (14, 12, 10)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_three_turns_and_another_third_one(batch: int, chunk: int) -> None:
    model = tiny("llama")
    ids, real = prompt(batch)
    other = ids.clone()
    other[:, -TURNS[2] :] = prompt(batch, seed=2)[0][:, -TURNS[2] :]
    for window, sinks in WINDOWS:
        past = window_cache(model, window, sinks)
        seen = visible(real, window, sinks)
        wanted = expected(model, ids, real, seen)
        found = [_turn(model, past, ids, real, turn, chunk) for turn in range(3)]
        assert_same(torch.cat(found, 1), wanted, real)

        # The last turn is written anew: taken back where that is possible, else from the start.
        start = TOKENS - TURNS[2]
        if past.is_croppable:
            past.crop(-TURNS[2])
        else:
            with pytest.raises(KVStrategyError, match="taken back to 26"):
                past.crop(-TURNS[2])
            assert past.get_seq_length() == TOKENS
            past.reset()
            feed(model, past, ids[:, :start], real[:, :start], [start])
        again = _turn(model, past, other, real, 2, chunk)
        assert_same(again, expected(model, other, real, seen)[:, start:], real[:, start:])


def _turn(
    model: Any, past: WindowCache, ids: torch.Tensor, real: torch.Tensor, turn: int, chunk: int
) -> torch.Tensor:
    start, end = sum(TURNS[:turn]), sum(TURNS[: turn + 1])
    return feed(model, past, ids[:, start:end], real[:, :end], [chunk] * (end - start))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("window", "sinks"), [(1, 2), (4, 0), (4, 4), (16, 2)])
def test_tokens_are_taken_back_as_far_as_was_asked_for_in_time(
    window: int, sinks: int, batch: int
) -> None:
    model = tiny("llama")
    ids, real = prompt(batch)
    wanted = expected(model, ids, real, visible(real, window, sinks))
    past = window_cache(model, window, sinks)
    feed(model, past, ids[:, :20], real[:, :20], [20])
    assert not past.is_croppable
    past.activate_past_recording()
    assert past.is_croppable
    for end in (26, 30, 23):
        start = past.get_seq_length()
        feed(model, past, ids[:, start:end].flip(1), real[:, :end], [2, 1, 1, 64])
        past.crop(start - end)
        assert past.get_seq_length() == start
        found = feed(model, past, ids[:, start:end], real[:, :end], [1, 64])
        assert_same(found, wanted[:, start:end], real[:, start:end])
        past.crop(-(end - 21))
    with pytest.raises(KVStrategyError, match="earlier ones would be seen again"):
        past.crop(-8)
    for layer in past.layers:
        layer.record_past = False
    found = feed(model, past, ids[:, 21:], real, [1, 1, 2, 64])
    assert_same(found, wanted[:, 21:], real[:, 21:])
    assert past.layers[0].keys.shape[2] == sinks + window


@pytest.mark.parametrize("left", [1, 3, 6])
def test_sinks_that_were_taken_back_are_others_then(left: int) -> None:
    model = tiny("llama")
    ids, real = prompt(3)
    past = window_cache(model, 2, 5)
    past.activate_past_recording()
    feed(model, past, ids[:, :16].flip(1), real[:, :16], [16])
    past.crop(left - 16)
    ids[:, :left] = ids[:, :16].flip(1)[:, :left]
    real[2, left + 1] = 0
    wanted = expected(model, ids, real, visible(real, 2, 5))
    found = feed(model, past, ids[:, left:], real, [9, 1, 64])
    assert_same(found, wanted[:, left:], real[:, left:])


def test_what_nobody_takes_back_is_dropped_in_spite_of_the_record() -> None:
    model = tiny("llama")
    ids, real = prompt(1, 60)
    past = window_cache(model, 4, 2)
    past.activate_past_recording()
    for end in range(3, 61, 3):
        feed(model, past, ids[:, end - 3 : end], real[:, :end], [3])
        past.crop(0)
    assert past.layers[0].keys.shape[2] <= 2 + 4 + 3


def test_one_token_more_than_the_window_is_held_and_can_be_taken_back() -> None:
    model = tiny("llama")
    ids, real = prompt(1)
    wanted = expected(model, ids, real, visible(real, 4, 2))
    past = window_cache(model, 4, 2)
    feed(model, past, ids[:, :20], real[:, :20], [20])
    past.crop(-1)
    found = feed(model, past, ids[:, 19:], real, [1, 3, 64])
    assert_same(found, wanted[:, 19:], real[:, 19:])


def test_whatever_was_dropped_everything_can_be_taken_back() -> None:
    model = tiny("llama")
    ids, real = prompt(3)
    past = window_cache(model, 4, 2)
    feed(model, past, ids, real, [64])
    past.crop(-TOKENS)
    assert past.get_seq_length() == 0
    assert past.is_croppable
    shifted = real.flip(0)
    wanted = expected(model, ids, shifted, visible(shifted, 4, 2))
    assert_same(feed(model, past, ids, shifted, [7, 64]), wanted, shifted)


@pytest.mark.parametrize(
    ("method", "argument", "rows"),
    [
        ("reorder_cache", torch.tensor([2, 0, 1]), [2, 0, 1]),
        ("batch_select_indices", torch.tensor([1]), [1]),
        ("batch_select_indices", torch.tensor([True, False, True]), [0, 2]),
        ("batch_repeat_interleave", 2, [0, 0, 1, 1, 2, 2]),
    ],
)
# Sinks may be known, or some of them still behind padding that is to come.
@pytest.mark.parametrize("before", [[3, 64], [1] * 20, [6]])
def test_rows_are_chosen_repeated_and_put_in_another_order(
    method: str, argument: Any, rows: list[int], before: list[int]
) -> None:
    model = tiny("llama")
    ids, real = prompt(3)
    start = min(sum(before), 20)
    for window, sinks in ((4, 2), (16, 4), (99, 0)):
        wanted = expected(model, ids, real, visible(real, window, sinks))[:, start:]
        past = window_cache(model, window, sinks)
        feed(model, past, ids[:, :start], real[:, :start], before)
        getattr(past, method)(argument)
        found = feed(model, past, ids[rows, start:], real[rows], [1, 3, 64])
        assert_same(found, wanted[rows], real[rows, start:])


def test_an_emptied_cache_takes_another_batch() -> None:
    model = tiny("llama")
    past = window_cache(model, 4, 2)
    for batch in (3, 1, 2):
        ids, real = prompt(batch)
        wanted = expected(model, ids, real, visible(real, 4, 2))
        assert_same(feed(model, past, ids, real, [5, 1, 64]), wanted, real)
        past.reset()
        assert past.stats().accelerator_bytes == 0
        assert past.get_seq_length() == 0


def test_sinks_are_found_late_where_a_row_begins_late() -> None:
    model = tiny("llama")
    ids, real = prompt(3)
    real[1, :20] = 0
    real[2, 5:9] = 0  # and a gap in a row
    wanted = expected(model, ids, real, visible(real, 4, 3))
    for chunks in ([1] * TOKENS, [3] * 12, [64], [2, 1, 16, 1, 64]):
        assert_same(feed(model, window_cache(model, 4, 3), ids, real, chunks), wanted, real)


def test_memory_stays_that_of_the_window_and_nothing_moves() -> None:
    model = tiny("llama")
    past = window_cache(model, 8, 2)
    ids, real = prompt(1, 120)
    feed(model, past, ids[:, :40], real[:, :40], [40])
    one = model.config.num_key_value_heads * 8 * 4 * 2 * 2  # dim, bytes, K and V, layers
    assert past.stats().accelerator_bytes == (8 + 2) * one
    places = [layer.keys.data_ptr() for layer in past.layers]
    returned = set()
    update = past.layers[0].update

    def watched(*args: Any, **kwargs: Any) -> Any:
        keys, values = update(*args, **kwargs)
        returned.add((keys.data_ptr(), tuple(keys.shape)))
        return keys, values

    past.layers[0].update = watched  # type: ignore[method-assign]
    feed(model, past, ids[:, 40:], real, [1] * 80)
    assert [layer.keys.data_ptr() for layer in past.layers] == places
    assert returned == {(places[0], (1, model.config.num_key_value_heads, 10, 8))}
    assert past.stats().accelerator_bytes == (8 + 2) * one


def test_a_wide_window_takes_memory_as_tokens_come() -> None:
    model = tiny("llama")
    past = window_cache(model, 1_000_000, 4)
    ids, real = prompt(1)
    feed(model, past, ids, real, [TOKENS])
    assert past.layers[0].keys.shape[2] < 500


def test_figures_tell_what_is_held_and_what_was_dropped() -> None:
    model = tiny("llama")
    past = window_cache(model, 8, 2)
    assert past.stats().tokens == 0
    ids, real = prompt(1)
    feed(model, past, ids[:, :9], real[:, :9], [9])
    figures = past.stats()
    assert (figures.tokens, figures.hot_tokens, figures.evicted_pages) == (9, 9, 0)
    feed(model, past, ids[:, 9:], real, [64])
    figures = past.stats()
    assert (figures.tokens, figures.hot_tokens) == (TOKENS, 10)
    assert figures.evicted_pages == (TOKENS - 10) * 2
    assert (window_of(past), past.sink_tokens, past.replaced_layers) == (8, 2, (0, 1))


def test_what_inference_mode_has_filled_is_used_outside_of_it() -> None:
    model = tiny("llama")
    ids, real = prompt(3)
    wanted = expected(model, ids, real, visible(real, 4, 2))
    past = window_cache(model, 4, 2)
    feed(model, past, ids[:, :20], real[:, :20], [20])
    for token in range(20, TOKENS):
        until = real[:, : token + 1]
        at = (until.cumsum(-1) - 1)[:, -1:]
        one = ids[:, token : token + 1]
        found = model(one, attention_mask=until, position_ids=at, past_key_values=past).logits
        assert_same(found.detach(), wanted[:, token : token + 1], until[:, -1:])
