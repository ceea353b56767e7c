"""The same on a CUDA device, where pages cross on a stream of their own; skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from ollm_widgets.kv.budget import KVBudget
from tests.kv.tiers.test_layer import TIERED, AgainstDynamicCache
from tests.kv.tiers.tiered import cache_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class AgainstDynamicCacheOnGpu(AgainstDynamicCache):
    """See its base."""

    device = "cuda"


TestAgainstDynamicCacheOnGpu = AgainstDynamicCacheOnGpu.TestCase
TestAgainstDynamicCacheOnGpu.settings = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    # Finding the shortest sequence would take minutes of a device that others wait for.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("strategy", TIERED)
def test_slots_are_not_overwritten_while_attention_may_still_read_them(
    strategy: str, tmp_path: Path
) -> None:
    tokens, layers, heads, width = 4096, 6, 8, 128
    whole = layers * tokens * heads * width * 2 * 2
    generator = torch.Generator("cuda").manual_seed(0)
    with cache_of(strategy, KVBudget(whole * 3 // 4, whole // 8), tmp_path, layers, 64) as cache:
        plain: list[list[torch.Tensor]] = [[] for _ in range(layers)]
        busy = torch.randn(2048, 2048, device="cuda")
        for new in (tokens - 200, 100, *([1] * 20), 60):
            seen = []
            for index in range(layers):
                keys, values = (
                    torch.rand(
                        1,
                        heads,
                        new,
                        width,
                        device="cuda",
                        dtype=torch.float16,
                        generator=generator,
                    )
                    for _ in range(2)
                )
                plain[index].append(keys)
                given, _ = cache.update(keys, values, index)
                # The device is behind by far when the next layers' pages are on their way.
                for _ in range(20):
                    busy = (busy @ busy).clamp_(-1, 1)
                seen.append(given.float().sum((0, 1, 3)))
            for index, sums in enumerate(seen):
                wanted = torch.cat(plain[index], dim=2).float().sum((0, 1, 3))
                atol = 0.0 if strategy != "quantized-cold-tier" else 3.0
                torch.testing.assert_close(sums, wanted, rtol=0, atol=atol)
        assert cache.stats().prefetch_hits > 0
        cache.flush()
        assert cache.stats().disk_bytes > 0
