"""Whatever is done to it, a tiered cache holds what transformers' dynamic cache holds."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from transformers.cache_utils import DynamicLayer

from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.kv_presets import KV_PRESETS, preset_of
from tests.kv.tiers.tiered import cache_of

TIERED = [preset.strategy_id for preset in KV_PRESETS if preset.uses_disk]
# Heads, key width and value width of each layer: grouped, latent, and alike.
GEOMETRIES = ((2, 4, 4), (1, 6, 3), (2, 4, 4))
TOKENS = st.integers(1, 11)


class AgainstDynamicCache(RuleBasedStateMachine):
    """Does the same to a tiered cache and to dynamic layers, and compares all they hand out."""

    device = "cpu"

    @initialize(
        strategy=st.sampled_from(TIERED),
        layers=st.integers(1, 3),
        accelerator=st.sampled_from((None, 0, 10_000, 20_000, 40_000)),
        host=st.sampled_from((None, 0, 2_000)),
        dtype=st.sampled_from((torch.float32, torch.bfloat16)),
        seed=st.integers(0, 1 << 16),
    )
    def build(
        self,
        strategy: str,
        layers: int,
        accelerator: int | None,
        host: int | None,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        budget = KVBudget(accelerator, host)
        self.cache = cache_of(strategy, budget, Path(self.folder.name), layers)
        self.lossless = preset_of(self.cache.strategy).lossless
        self.expected = [DynamicLayer() for _ in range(layers)]
        self.random = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.batch = 2

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            self.folder.cleanup()

    # ------------------------------------------------------------------ passes

    @rule(new=TOKENS)
    def a_pass_goes_through_all_layers(self, new: int) -> None:
        for index in range(len(self.expected)):
            self.update(index, new)

    @rule(chunks=st.lists(TOKENS, min_size=2, max_size=4))
    def a_prompt_goes_through_each_layer_in_chunks(self, chunks: list[int]) -> None:
        for index in range(len(self.expected)):
            for new in chunks:
                self.update(index, new)

    @rule(new=st.integers(0, 40))
    def tokens_are_restored(self, new: int) -> None:
        for layer, expected, states in self.states(new):
            layer.append_tokens(*states)
            expected.update(*states)
        self.compare_what_is_held()

    # ------------------------------------------------------------------ changes

    @rule(removed=st.integers(0, 30))
    def the_last_tokens_are_forgotten(self, removed: int) -> None:
        self.cache.crop(-removed)
        if removed >= self.length:
            self.expected = [DynamicLayer() for _ in self.expected]
        for expected in self.expected if self.length else ():
            expected.crop(-removed)
        self.compare_what_is_held()

    @precondition(lambda self: self.length)
    @rule(data=st.data())
    def beams_are_reordered(self, data: st.DataObject) -> None:
        row = st.integers(0, self.batch - 1)
        drawn = data.draw(st.lists(row, min_size=self.batch, max_size=self.batch))
        rows = torch.tensor(drawn, device=self.device)
        self.cache.reorder_cache(rows)
        for expected in self.expected:
            expected.reorder_cache(rows)
        self.compare_what_is_held()

    @precondition(lambda self: self.length and self.batch < 3)
    @rule()
    def each_sequence_is_repeated(self) -> None:
        self.cache.batch_repeat_interleave(2)
        for expected in self.expected:
            expected.batch_repeat_interleave(2)
        self.batch *= 2
        self.compare_what_is_held()

    @precondition(lambda self: self.length and self.batch > 1)
    @rule(data=st.data())
    def some_sequences_are_kept(self, data: st.DataObject) -> None:
        picked = data.draw(st.lists(st.booleans(), min_size=self.batch, max_size=self.batch))
        if not any(picked):
            return
        mask = torch.tensor(picked, device=self.device)
        rows = mask if data.draw(st.booleans()) else mask.nonzero()[:, 0]
        self.cache.batch_select_indices(rows)
        for expected in self.expected:
            expected.batch_select_indices(rows)
        self.batch = int(mask.sum())
        self.compare_what_is_held()

    @rule()
    def it_is_copied_and_the_first_one_closed(self) -> None:
        copied = copy.deepcopy(self.cache)
        self.cache.close()
        self.cache = copied
        self.compare_what_is_held()

    @rule()
    def it_is_emptied(self) -> None:
        self.cache.reset()
        self.expected = [DynamicLayer() for _ in self.expected]
        self.cache.flush()
        stats = self.cache.stats()
        assert stats.tokens == stats.disk_bytes == 0
        assert all(layer.host_bytes == 0 for layer in self.cache.tiered_layers())

    # ------------------------------------------------------------------ comparing

    @property
    def length(self) -> int:
        return int(self.expected[0].get_seq_length())

    @rule(data=st.data())
    def any_range_can_be_read(self, data: st.DataObject) -> None:
        if not self.length:
            return
        start = data.draw(st.integers(0, self.length))
        stop = data.draw(st.integers(start, self.length))
        for layer, expected in zip(self.cache.tiered_layers(), self.expected, strict=True):
            wanted = expected.keys[:, :, start:stop], expected.values[:, :, start:stop]
            self.compare(layer.read_tokens(start, stop), wanted)

    def compare_what_is_held(self) -> None:
        stats: KVStats = self.cache.stats()
        assert stats.tokens == self.length >= stats.hot_tokens
        assert self.cache.get_mask_sizes(3, 0) == (self.length + 3, 0)
        if not self.length:
            return
        assert self.cache.batch_size == self.batch
        for layer, expected in zip(self.cache.tiered_layers(), self.expected, strict=True):
            assert layer.get_seq_length() == expected.get_seq_length()
            self.compare((layer.keys, layer.values), (expected.keys, expected.values))

    def update(self, index: int, new: int) -> None:
        ((_, expected, states),) = self.states(new, only=index)
        given = self.cache.update(*states, index)
        self.compare(given, expected.update(*states))

    def compare(self, given: Any, wanted: Any) -> None:
        if self.lossless:
            torch.testing.assert_close(given, wanted, rtol=0, atol=0)
        else:
            # Twice half a step of 255 in a range of 2, in bfloat16 with its rounding.
            torch.testing.assert_close(given, wanted, rtol=0, atol=0.03)

    def states(self, new: int, only: int | None = None) -> list[Any]:
        """New keys and values of each layer, beside the layers that get them."""
        listed = []
        for index, layer in enumerate(self.cache.tiered_layers()):
            heads, key_width, value_width = GEOMETRIES[index]
            states = tuple(
                (torch.rand(self.batch, heads, new, width, generator=self.random) * 2 - 1).to(
                    self.device, self.dtype
                )
                for width in (key_width, value_width)
            )
            if only is None or index == only:
                listed.append((layer, self.expected[index], states))
        return listed


TestAgainstDynamicCache = AgainstDynamicCache.TestCase
TestAgainstDynamicCache.settings = settings(
    max_examples=120,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("strategy", TIERED)
def test_states_of_every_dtype_come_back_as_they_were(strategy: str, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        if not preset_of(strategy).lossless and dtype == torch.float64:  # type: ignore[arg-type]
            continue
        with cache_of(strategy, KVBudget(0), tmp_path, 1) as cache:
            keys, values = torch.randn(2, 2, 37, 4).to(dtype), torch.randn(2, 2, 37, 4).to(dtype)
            cache.update(keys, values, 0)
            read, _ = cache.tiered_layers()[0].read_tokens(0, 37)
            assert read.dtype == dtype
            if preset_of(cache.strategy).lossless:
                assert torch.equal(read, keys)
