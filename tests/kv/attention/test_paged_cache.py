"""Keys and values stay what they were, whatever is hot, cold or on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.attention.paged_cache import PagedCache, paged_cache, require_pages
from ollm_widgets.kv.attention.paged_layer import PagedLayer
from ollm_widgets.kv.attention.room import KVTiers
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.measuring import cache_stats

CPU = torch.device("cpu")
LAYERS, BATCH, HEADS, KEY, VALUE, PAGE, CAPACITY = 2, 2, 3, 6, 4, 4, 160
TOKEN_BYTES = BATCH * HEADS * (KEY + VALUE) * 4


def cache_of(hot_pages: int, codec: str = "full") -> PagedCache:
    """A cache that keeps so many pages of each layer hot."""
    held = CAPACITY + LAYERS * hot_pages * PAGE
    tiers = KVTiers(KVBudget(held * TOKEN_BYTES), codec, PAGE)
    config = LlamaConfig(num_hidden_layers=LAYERS)
    return require_pages(paged_cache(config, CAPACITY, CPU, tiers))


@dataclass
class Both:
    """A cache, and all that it should hold: keys and values ``[batch, heads, tokens, width]``."""

    cache: PagedCache
    history: list[list[torch.Tensor]] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        for _ in range(LAYERS):
            widths = (KEY, VALUE)
            self.history.append([torch.zeros(BATCH, HEADS, 0, width) for width in widths])

    def states(self, count: int) -> list[torch.Tensor]:
        shape = (BATCH, HEADS, count)
        return [torch.randn(*shape, width, generator=self.generator) for width in (KEY, VALUE)]

    def prompt(self, count: int) -> None:
        """Append tokens; what attention is handed must be the whole history."""
        self.cache.append(self.tokens)
        for number, held in enumerate(self.history):
            new = self.states(count)
            self._remember(number, new)
            handed = self.cache.update(new[0], new[1], number)
            assert torch.equal(handed[0], held[0])
            assert torch.equal(handed[1], held[1])
        self.tokens += count

    def restore(self, count: int) -> None:
        """Append tokens that come from elsewhere."""
        self.cache.append(self.tokens)
        for number, layer in enumerate(self.cache.fixed_layers):
            new = self.states(count)
            self._remember(number, new)
            none = (states[:, :, :0] for states in new)
            room = layer.reserve_tokens(*none, count)
            assert (room is not None) == layer.room.all_hot
            if room is None:
                layer.append_tokens(new[0], new[1])
            else:
                for place, states in zip(room, new, strict=True):
                    place.copy_(states)
        self.tokens += count

    def steps(self, count: int) -> None:
        """Write tokens as decode steps do."""
        self.cache.tick(self.tokens)
        for _ in range(count):
            self.cache.before_step(self.tokens)
            for number in range(LAYERS):
                new = self.states(1)
                self._remember(number, new)
                self.cache.update(new[0], new[1], number)
                layer = self.cache.layers[number]
                visible = layer.visible()
                if visible is not None:
                    assert torch.equal(visible[0], self.history[number][0])
                    assert torch.equal(visible[1], self.history[number][1])
            self.cache.clock.position.add_(1)
            self.tokens += 1

    def rewind(self, tokens: int) -> None:
        """Take the last tokens back."""
        self.tokens -= tokens
        for held in self.history:
            held[:] = [states[:, :, : self.tokens] for states in held]
        self.cache.append(self.tokens)

    def check(self, start: int, stop: int) -> None:
        """Read a range of every layer."""
        for held, layer in zip(self.history, self.cache.fixed_layers, strict=True):
            if layer.is_initialized:
                keys, values = layer.read_tokens(start, stop)
                assert torch.equal(keys, held[0][:, :, start:stop])
                assert torch.equal(values, held[1][:, :, start:stop])
        stats = self.cache.stats()
        assert stats.tokens == self.tokens
        assert self.cache.cold_pages * PAGE <= self.tokens

    def _remember(self, number: int, new: list[torch.Tensor]) -> None:
        held = self.history[number]
        held[:] = [torch.cat(pair, dim=2) for pair in zip(held, new, strict=True)]


SCHEDULES = st.lists(
    st.tuples(st.sampled_from(["prompt", "restore", "steps", "rewind"]), st.integers(1, 45)),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(
    schedule=SCHEDULES,
    hot=st.integers(4, 12) | st.just(CAPACITY // PAGE),
    share=st.floats(0, 1),
)
def test_every_token_is_where_it_should_be(
    schedule: list[tuple[str, int]], hot: int, share: float
) -> None:
    both = Both(cache_of(hot))
    for kind, count in schedule:
        if kind == "rewind":
            both.rewind(min(count, both.tokens))
        elif both.tokens + count <= CAPACITY:
            getattr(both, kind)(count)
        both.check(int(share * both.tokens), both.tokens)
        both.check(0, both.tokens)


def test_what_is_hot_keeps_within_the_budget() -> None:
    both = Both(cache_of(6))
    both.prompt(100)
    both.steps(40)
    stats = cache_stats(both.cache)
    assert stats.accelerator_bytes == LAYERS * 6 * PAGE * TOKEN_BYTES
    assert stats.hot_tokens <= 6 * PAGE
    assert stats.host_bytes >= LAYERS * (140 - 6 * PAGE) * TOKEN_BYTES
    assert stats.evicted_pages == LAYERS * both.cache.cold_pages
    both.cache.close()
    assert cache_stats(both.cache).host_bytes == 0


def test_a_reset_cache_is_filled_anew_at_the_same_addresses() -> None:
    both = Both(cache_of(6))
    both.prompt(100)
    places = [layer.keys.data_ptr() for layer in both.cache.fixed_layers]
    both.cache.reset()
    again = Both(both.cache)
    again.prompt(90)
    again.steps(30)
    again.check(0, 120)
    assert places == [layer.keys.data_ptr() for layer in both.cache.fixed_layers]


@pytest.mark.parametrize(("codec", "noise"), [("int8", 0.02), ("int4", 0.25)])
def test_quantized_pages_are_close_and_hot_ones_exact(codec: str, noise: float) -> None:
    cache = cache_of(6, codec)
    both = Both(cache)
    cache.append(0)
    for number in range(LAYERS):
        new = both.states(120)
        both._remember(number, new)
        # A first prompt attends to what it has computed.
        assert torch.equal(cache.update(new[0], new[1], number)[0], new[0])
    layer = cache.layers[0]
    assert isinstance(layer, PagedLayer)
    first_hot = layer.cold * PAGE
    keys, values = layer.read_tokens(0, 120)
    for ours, exact in ((keys, both.history[0][0]), (values, both.history[0][1])):
        assert torch.equal(ours[:, :, first_hot:], exact[:, :, first_hot:])
        assert not torch.equal(ours, exact)
        assert float((ours - exact).abs().max()) <= noise


def test_models_with_layers_of_their_own_are_refused_by_name() -> None:
    config = MistralConfig(num_hidden_layers=1, sliding_window=16)
    found = paged_cache(config, 64, CPU, KVTiers())
    assert found == "a StaticSlidingWindowLayer has no pages that a step could read"
    with pytest.raises(KVStrategyError, match="StaticSlidingWindowLayer"):
        require_pages(found)


def test_too_small_a_budget_is_an_error_when_the_shape_is_known() -> None:
    tiers = KVTiers(KVBudget(1000), "full", PAGE)
    cache = require_pages(paged_cache(LlamaConfig(num_hidden_layers=2), CAPACITY, CPU, tiers))
    states = torch.zeros(BATCH, HEADS, 3, KEY)
    with pytest.raises(KVStrategyError, match="160 tokens need"):
        cache.update(states, states[..., :VALUE], 0)
