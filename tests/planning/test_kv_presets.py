from __future__ import annotations

from typing import get_args

from ollm_widgets.planning.ids import KVStrategyId
from ollm_widgets.planning.kv_presets import DEFAULT_WINDOW_TOKENS, KV_PRESETS, preset_of


def test_every_strategy_id_is_one_row() -> None:
    assert [preset.strategy_id for preset in KV_PRESETS] == list(get_args(KVStrategyId))


def test_only_the_ring_forgets_and_it_keeps_256_tokens_by_default() -> None:
    assert [p.strategy_id for p in KV_PRESETS if p.window != "full"] == [
        "sliding-window-ring-buffer"
    ]
    assert DEFAULT_WINDOW_TOKENS == 256


def test_a_strategy_is_lossless_when_it_keeps_everything_in_full() -> None:
    for preset in KV_PRESETS:
        assert preset.lossless == (preset.window == "full" and preset.codec == "full")


def test_resident_and_the_ring_need_no_disk() -> None:
    assert [p.strategy_id for p in KV_PRESETS if not p.uses_disk] == [
        "resident",
        "sliding-window-ring-buffer",
    ]
    assert preset_of("paged").uses_disk
