from __future__ import annotations

from ollm_widgets.kv.stats import KVStats

MIB = 1024**2


def test_figures_of_several_caches_add_up() -> None:
    both = KVStats(tokens=3, disk_bytes=5) + KVStats(tokens=4, evicted_pages=1)
    assert both == KVStats(tokens=7, disk_bytes=5, evicted_pages=1)


def test_the_hit_rate_is_of_those_that_were_cold() -> None:
    assert KVStats().hit_rate is None
    assert KVStats(prefetch_hits=3, prefetch_misses=1).hit_rate == 0.75


def test_a_cache_is_summed_up_in_words() -> None:
    assert KVStats().summary() == "empty"
    hot = KVStats(tokens=4096, hot_tokens=4096, accelerator_bytes=6 * MIB)
    assert hot.summary() == "4,096 tokens: 6 MiB hot"
    cold = KVStats(
        tokens=4096,
        hot_tokens=512,
        accelerator_bytes=6 * MIB,
        disk_bytes=40 * MIB,
        prefetch_hits=9,
        prefetch_misses=1,
    )
    assert cold.summary() == (
        "4,096 tokens, 512 of them hot: 6 MiB hot, 40 MiB on disk; 90% of cold reads in time"
    )
