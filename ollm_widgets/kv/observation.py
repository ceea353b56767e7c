"""What is known of a KV cache: how it is kept, what was planned, what a request has shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.ids import KVCacheLifecycle, KVStrategyId
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits


@dataclass(frozen=True, slots=True)
class KVSetting:
    """How a KV cache is kept.

    Parameters
    ----------
    strategy
        The strategy.
    budget_bytes
        What may be hot on the computing device; None = no bound.
    window_tokens
        Tokens that are kept; None = all.
    lifecycle
        Whether it outlives the runtime.
    """

    strategy: KVStrategyId
    budget_bytes: int | None = None
    window_tokens: int | None = None
    lifecycle: KVCacheLifecycle = "runtime-scoped"


@dataclass(frozen=True, slots=True)
class KVFacts:
    """What was planned.

    Parameters
    ----------
    setting
        How the cache is kept now.
    context_tokens
        Tokens planned for.
    bytes_per_1k_tokens
        Growth in full precision per 1,000 tokens; 0 = not known.
    strategies
        Those that the backend holds.
    """

    setting: KVSetting
    context_tokens: int
    bytes_per_1k_tokens: int
    strategies: tuple[KVStrategyId, ...]

    @classmethod
    def of(cls, plan: RuntimePlan, traits: BackendTraits) -> KVFacts:
        """Take them from a plan and the backend that runs it."""
        kv = plan.kv
        lifecycle = plan.config.kv_cache_lifecycle
        return cls(
            KVSetting(kv.strategy, kv.device_budget_bytes, kv.window_tokens, lifecycle),
            kv.context_tokens,
            kv.bytes_per_1k_tokens,
            traits.kv_strategies,
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """What one request has shown.

    Parameters
    ----------
    prompt_tokens, new_tokens
        Tokens read and written.
    reused_tokens
        Of the prompt, those that were in a cache already.
    shared_tokens
        Of the prompt, those with which an earlier prompt began too, reused or not.
    before, after
        Figures of the cache when the request began and when it ended.
    seconds_per_token
        For each token after the first; 0 where there was one only.
    room_bytes
        What the computing device has left beside all that is there.
    """

    prompt_tokens: int
    new_tokens: int
    before: KVStats
    after: KVStats
    room_bytes: int
    reused_tokens: int = 0
    shared_tokens: int = 0
    seconds_per_token: float = 0.0

    @property
    def waits(self) -> int:
        """Layers whose cold pages were not there when they were wanted."""
        return max(self.after.prefetch_misses - self.before.prefetch_misses, 0)

    @property
    def asked(self) -> int:
        """Layers that wanted cold pages."""
        hits = max(self.after.prefetch_hits - self.before.prefetch_hits, 0)
        return hits + self.waits

    @property
    def cold_tokens(self) -> int:
        """Tokens that are not on the computing device in full precision."""
        return self.after.tokens - self.after.hot_tokens

    @property
    def alike_tokens(self) -> int:
        """Tokens of the prompt that an earlier one has begun with."""
        return max(self.reused_tokens, self.shared_tokens)


def told(seen: Observation) -> str:
    """One request in a sentence."""
    parts = [f"{seen.prompt_tokens:,} tokens read, {seen.new_tokens:,} written"]
    if seen.alike_tokens:
        parts.append(f"{seen.alike_tokens:,} begun with before")
    after = seen.after
    held = [f"{format_memory(after.accelerator_bytes)} hot"]
    held += [
        f"{format_memory(size)} {where}"
        for size, where in ((after.host_bytes, "in host memory"), (after.disk_bytes, "on disk"))
        if size
    ]
    parts.append(" and ".join(held))
    if seen.asked:
        parts.append(f"waited {seen.waits:,} of {seen.asked:,} times")
    return "; ".join(parts) + "."


def said(setting: KVSetting) -> str:
    """A setting in words."""
    words: list[str] = [setting.strategy]
    if setting.budget_bytes is not None:
        words.append(f"{format_memory(setting.budget_bytes)} hot")
    if setting.window_tokens is not None:
        words.append(f"the last {setting.window_tokens:,} tokens")
    if setting.lifecycle == "persistent":
        words.append("persistent")
    return ", ".join(words)
