"""The rules by which a KV cache should be kept in another way: pure functions of what was seen.

They are asked in this order, and each wants every request that it is shown to agree:

1. a resident cache that takes most of its room should be one with pages;
2. where cold pages were waited for, the hot part should grow, if there is room for it;
3. what stays hot, and would clearly fit, needs no pages;
4. a window that has dropped much of the history could keep it in quantized pages;
5. prompts that begin alike could start from what an earlier one left on disk;
6. a budget that is far above what is used can be smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ollm_widgets.kv.observation import KVFacts, KVSetting, Observation, said, told
from ollm_widgets.planning.ids import KVStrategyId
from ollm_widgets.planning.kv_presets import preset_of
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_memory

# What clearly fits takes half of the room; what is too tight, most of it. The gap between the
# two keeps a cache that sits in it where it is.
_CLEARLY = 0.5
_TIGHT = 0.85
_SAFE_SHARE = 0.8  # of the room left, that a larger budget may take
_WORTH_GROWING = 0.1  # of the cold bytes, that must become hot to be worth a change
_WAITED = 0.1  # of the layers whose cold pages were wanted
_OVERSIZED = 4  # budgets that are this many times what is used
_SPARE = 2  # times what is used, that a smaller budget keeps
_WORTH_SHRINKING_BYTES = 16 * 2**20
_SHARED_TOKENS = 256
_SHARED_SHARE = 0.3
# Cold pages in host memory come faster than from disk.
_THROUGH_HOST: tuple[KVStrategyId, ...] = ("tiered-write-back", "paged")
_WITH_PAGES: tuple[KVStrategyId, ...] = ("paged", "tiered-write-back", "chunked")


@dataclass(frozen=True, slots=True)
class KVRecommendation(Renderable):
    """Another way to keep the cache.

    Parameters
    ----------
    now, then
        How it is kept, and how it should be.
    why
        The reason, in one sentence with its numbers.
    evidence
        The requests it follows from, a sentence each, the newest last.
    """

    now: KVSetting
    then: KVSetting
    why: str
    evidence: tuple[str, ...] = ()

    @property
    def strategy(self) -> KVStrategyId:
        """The strategy to use."""
        return self.then.strategy

    @property
    def budget_bytes(self) -> int | None:
        """What may be hot; None = no bound."""
        return self.then.budget_bytes

    def card(self) -> Card:
        """What to change, and why."""
        return Card(
            title="KV cache: a recommendation",
            subtitle=said(self.then),
            rows=(
                Row("Why", self.why),
                Row("Now", said(self.now)),
                *(Row("Seen", line) for line in self.evidence),
            ),
        )


def recommendations(facts: KVFacts, seen: Sequence[Observation]) -> tuple[KVRecommendation, ...]:
    """Recommend what every one of `seen` speaks for, the most useful first.

    Parameters
    ----------
    facts
        What was planned, and how the cache is kept now.
    seen
        Requests since then, the newest last.
    """
    found = [rule(facts, seen) for rule in _RULES] if seen else []
    return tuple(
        KVRecommendation(facts.setting, then, why, tuple(map(told, seen)))
        for then, why in filter(None, found)
        if then != facts.setting
    )


_Found = tuple[KVSetting, str] | None


def _too_tight(facts: KVFacts, seen: Sequence[Observation]) -> _Found:
    """A resident cache that takes most of its room."""
    now = facts.setting
    pages = _held(facts, _WITH_PAGES)
    if now.strategy != "resident" or pages is None:
        return None
    if not all(each.after.accelerator_bytes > _TIGHT * _room_of_cache(each) for each in seen):
        return None
    last = seen[-1]
    room = min(_room_of_cache(each) for each in seen)
    why = (
        f"A resident cache takes {format_memory(last.after.accelerator_bytes)} of the "
        f"{format_memory(_room_of_cache(last))} there are, and {pages} keeps what is beyond its "
        "budget elsewhere."
    )
    return replace(now, strategy=pages, budget_bytes=int(_SAFE_SHARE * room)), why


def _waited(facts: KVFacts, seen: Sequence[Observation]) -> _Found:
    """Cold pages that came too late."""
    now = facts.setting
    if not all(each.waits > _WAITED * each.asked for each in seen):
        return None
    waits, asked = (sum(getattr(each, name) for each in seen) for name in ("waits", "asked"))
    late = f"{waits:,} of {asked:,} times a layer waited for its cold pages"
    cold = max(_full_bytes(facts, each.cold_tokens) for each in seen)
    room = int(_SAFE_SHARE * min(each.room_bytes for each in seen))
    if now.budget_bytes is not None and room >= _WORTH_GROWING * cold > 0:
        more = min(cold, room)
        why = f"{late}, and {format_memory(more)} more of them have room on the computing device."
        return replace(now, budget_bytes=now.budget_bytes + more), why
    preset = preset_of(now.strategy)
    in_host = _held(facts, _THROUGH_HOST)
    if preset.lossless and "host" not in preset.tiers and in_host is not None:
        why = f"{late}, which {now.strategy} reads from disk and {in_host} keeps in host memory."
        return replace(now, strategy=in_host), why
    return None


def _needs_no_pages(facts: KVFacts, seen: Sequence[Observation]) -> _Found:
    """Everything stays hot and would clearly fit."""
    now = facts.setting
    # What is to outlive the runtime needs its pages on disk.
    if now.strategy == "resident" or now.lifecycle == "persistent" or now.window_tokens is not None:
        return None
    if any(each.cold_tokens or not each.after.tokens for each in seen):
        return None
    most = max(_full_bytes(facts, each.after.tokens) for each in seen)
    room = min(_room_of_cache(each) for each in seen)
    if not 0 < most <= _CLEARLY * room or "resident" not in facts.strategies:
        return None
    why = (
        f"All of at most {max(each.after.tokens for each in seen):,} tokens stayed hot, and their "
        f"{format_memory(most)} are at most half of the {format_memory(room)} there are."
    )
    return replace(now, strategy="resident", budget_bytes=None), why


def _forgets(facts: KVFacts, seen: Sequence[Observation]) -> _Found:
    """A window that has dropped much of the history."""
    now = facts.setting
    window = now.window_tokens
    if window is None or "quantized-cold-tier" not in facts.strategies:
        return None
    lengths = [each.prompt_tokens + each.new_tokens for each in seen]
    if any(length < 2 * window for length in lengths):
        return None
    why = (
        f"Of up to {max(lengths):,} tokens the window keeps {window:,}; quantized-cold-tier would "
        "keep them all, the older ones quantized."
    )
    return replace(now, strategy="quantized-cold-tier", window_tokens=None), why


def _begin_alike(facts: KVFacts, seen: Sequence[Observation]) -> _Found:
    """Prompts that begin as earlier ones did."""
    now = facts.setting
    if now.lifecycle == "persistent" or now.window_tokens is not None:
        return None
    if not all(
        each.alike_tokens >= max(_SHARED_TOKENS, _SHARED_SHARE * each.prompt_tokens)
        for each in seen
    ):
        return None
    on_disk = preset_of(now.strategy).uses_disk
    strategy = now.strategy if on_disk else _held(facts, _WITH_PAGES)
    if strategy is None:
        return None
    alike, prompts = (
        sum(getattr(each, name) for each in seen) for name in ("alike_tokens", "prompt_tokens")
    )
    why = (
        f"{alike:,} of the last {prompts:,} prompt tokens were the beginning of an earlier prompt; "
        "a persistent cache starts behind them in a later kernel too."
    )
    return replace(now, strategy=strategy, lifecycle="persistent"), why


def _oversized(facts: KVFacts, seen: Sequence[Observation]) -> _Found:
    """A budget, or a planned context, far above what is used."""
    now = facts.setting
    planned = now.budget_bytes
    if now.strategy == "resident" and planned is None:
        planned = _full_bytes(facts, facts.context_tokens)
    if planned is None or now.window_tokens is not None:
        return None
    used_tokens = max(each.after.tokens for each in seen)
    used = max(_full_bytes(facts, used_tokens), *(each.after.accelerator_bytes for each in seen))
    wanted = _SPARE * used
    if not used or planned < _OVERSIZED * used or planned - wanted < _WORTH_SHRINKING_BYTES:
        return None
    why = (
        f"At most {used_tokens:,} of {facts.context_tokens:,} planned tokens were used; "
        f"{format_memory(wanted)} instead of {format_memory(planned)} are enough for twice as many."
    )
    return replace(now, budget_bytes=wanted), why


_RULES: tuple[Callable[[KVFacts, Sequence[Observation]], _Found], ...] = (
    _too_tight,
    _waited,
    _needs_no_pages,
    _forgets,
    _begin_alike,
    _oversized,
)


def _held(facts: KVFacts, wanted: tuple[KVStrategyId, ...]) -> KVStrategyId | None:
    return next((each for each in wanted if each in facts.strategies), None)


def _full_bytes(facts: KVFacts, tokens: int) -> int:
    """Bytes of so many tokens in full precision."""
    return tokens * facts.bytes_per_1k_tokens // 1000


def _room_of_cache(seen: Observation) -> int:
    """All that the cache could have on the computing device."""
    return seen.after.accelerator_bytes + max(seen.room_bytes, 0)
