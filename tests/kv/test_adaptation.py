from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from ollm_widgets.kv.adaptation import (
    LEAST_REQUESTS,
    MOST_REQUESTS,
    KVAdvisor,
    KVFacts,
    KVRecommendation,
    KVSetting,
    Observation,
    automatic_step,
    recommendations,
)
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.ids import KVCacheLifecycle, KVStrategyId
from ollm_widgets.planning.kv_presets import preset_of

STRATEGIES: tuple[KVStrategyId, ...] = get_args(KVStrategyId)
MIB = 2**20
TOKEN_BYTES = 100_000  # so that 10,000 tokens are a gigabyte


def facts(setting: KVSetting, *, context_tokens: int = 8000) -> KVFacts:
    return KVFacts(setting, context_tokens, 1000 * TOKEN_BYTES, STRATEGIES)


def request(
    tokens: int,
    *,
    hot: int | None = None,
    room_mib: int = 0,
    hits: int = 0,
    misses: int = 0,
    alike: int = 0,
    earlier: KVStats | None = None,
) -> Observation:
    """A request after which the cache holds `tokens`, all hot unless said."""
    before = earlier or KVStats()
    hot = tokens if hot is None else hot
    after = replace(
        before,
        tokens=tokens,
        hot_tokens=hot,
        accelerator_bytes=hot * TOKEN_BYTES,
        host_bytes=(tokens - hot) * TOKEN_BYTES,
        prefetch_hits=before.prefetch_hits + hits,
        prefetch_misses=before.prefetch_misses + misses,
    )
    return Observation(
        prompt_tokens=tokens - 10,
        new_tokens=10,
        before=before,
        after=after,
        room_bytes=room_mib * MIB,
        shared_tokens=alike,
        seconds_per_token=0.1,
    )


def first(setting: KVSetting, seen: Observation, **planned: int) -> KVRecommendation | None:
    found = recommendations(facts(setting, **planned), [seen] * LEAST_REQUESTS)
    return found[0] if found else None


# ---------------------------------------------------------------------- the rules


def test_a_resident_cache_that_fills_its_room_should_have_pages() -> None:
    found = first(KVSetting("resident"), request(9000, room_mib=50))
    assert found is not None
    assert found.strategy == "paged"
    assert found.budget_bytes == int(0.8 * (9000 * TOKEN_BYTES + 50 * MIB))
    assert found.why == (
        "A resident cache takes 858 MiB of the 908 MiB there are, and paged keeps what is beyond "
        "its budget elsewhere."
    )


def test_a_resident_cache_with_room_stays() -> None:
    assert first(KVSetting("resident"), request(8000, room_mib=4000)) is None


def test_where_cold_pages_were_waited_for_the_budget_takes_the_room_there_is() -> None:
    setting = KVSetting("paged", budget_bytes=100 * MIB)
    found = first(setting, request(8000, hot=1000, room_mib=200, hits=4, misses=6))
    assert found is not None
    assert found.then == replace(setting, budget_bytes=100 * MIB + 160 * MIB)
    assert "18 of 30 times a layer waited" in found.why
    assert automatic_step(found) == found.then


def test_the_budget_grows_by_no_more_than_is_cold() -> None:
    setting = KVSetting("paged", budget_bytes=100 * MIB)
    found = first(setting, request(3000, hot=2000, room_mib=4000, hits=1, misses=9))
    assert found is not None
    assert found.budget_bytes == 100 * MIB + 1000 * TOKEN_BYTES


def test_without_room_pages_that_came_from_disk_should_be_in_host_memory() -> None:
    setting = KVSetting("chunked", budget_bytes=100 * MIB)
    found = first(setting, request(8000, hot=1000, hits=1, misses=9))
    assert found is not None
    assert found.then == replace(setting, strategy="tiered-write-back")
    assert "chunked reads from disk and tiered-write-back keeps in host memory" in found.why


def test_without_room_nothing_that_is_kept_in_full_is_to_be_quantized() -> None:
    for strategy in ("paged", "tiered-write-back"):
        setting = KVSetting(strategy, budget_bytes=100 * MIB)
        assert first(setting, request(8000, hot=1000, hits=1, misses=9)) is None


def test_pages_that_were_there_in_time_change_nothing() -> None:
    setting = KVSetting("paged", budget_bytes=100 * MIB)
    assert first(setting, request(8000, hot=1000, room_mib=200, hits=95, misses=5)) is None


def test_what_stays_hot_and_clearly_fits_needs_no_pages() -> None:
    setting = KVSetting("paged", budget_bytes=1000 * MIB)
    found = first(setting, request(2000, room_mib=400))
    assert found is not None
    assert found.then == KVSetting("resident")
    assert "2,000 tokens stayed hot" in found.why
    assert first(setting, request(4000, room_mib=100)) is None


def test_what_outlives_the_runtime_keeps_its_pages() -> None:
    setting = KVSetting("paged", budget_bytes=400 * MIB, lifecycle="persistent")
    assert first(setting, request(2000, room_mib=4000)) is None


def test_a_window_that_forgets_much_could_keep_it_quantized_and_a_person_decides() -> None:
    setting = KVSetting("sliding-window-ring-buffer", window_tokens=256)
    found = first(setting, request(4000, room_mib=4000))
    assert found is not None
    assert found.strategy == "quantized-cold-tier"
    assert "Of up to 4,000 tokens the window keeps 256" in found.why
    assert automatic_step(found) is None
    assert first(setting, request(400, room_mib=4000)) is None


def test_prompts_that_begin_alike_could_persist_and_a_person_decides() -> None:
    found = first(KVSetting("resident"), request(1500, room_mib=4000, alike=1024))
    assert found is not None
    assert found.then == KVSetting("paged", lifecycle="persistent")
    assert "3,072 of the last 4,470 prompt tokens" in found.why
    assert automatic_step(found) is None
    seldom = request(1500, room_mib=4000, alike=128)
    assert first(KVSetting("resident"), seldom, context_tokens=2000) is None


def test_contexts_far_below_the_plan_need_a_smaller_budget() -> None:
    setting = KVSetting("paged", budget_bytes=1000 * MIB)
    found = first(setting, request(500, room_mib=10), context_tokens=8000)
    assert found is not None
    assert found.then == replace(setting, budget_bytes=1000 * TOKEN_BYTES)
    assert "At most 500 of 8,000 planned tokens" in found.why
    assert automatic_step(found) == found.then


def test_a_smaller_plan_of_a_resident_cache_is_for_a_person_to_make() -> None:
    found = first(KVSetting("resident"), request(500, room_mib=4000), context_tokens=8000)
    assert found is not None
    assert found.strategy == "resident"
    assert found.budget_bytes == 1000 * TOKEN_BYTES
    assert automatic_step(found) is None


def test_one_request_that_disagrees_is_enough_to_recommend_nothing() -> None:
    waited = request(8000, hot=1000, room_mib=200, hits=4, misses=6)
    there = request(8000, hot=1000, room_mib=200, hits=10)
    now = facts(KVSetting("paged", budget_bytes=100 * MIB))
    assert recommendations(now, [waited, there, waited]) == ()
    assert recommendations(now, []) == ()


def test_a_recommendation_shows_its_reason_and_what_it_follows_from() -> None:
    found = first(
        KVSetting("paged", budget_bytes=100 * MIB),
        request(8000, hot=1000, room_mib=200, hits=4, misses=6),
    )
    assert found is not None
    text = pretty(found)
    assert text.splitlines()[1] == "paged, 260 MiB hot"
    assert text.count("7,990 tokens read, 10 written; 95 MiB hot and 668 MiB in host") == 3
    assert "waited 6 of 10 times" in found.to_html()


# ---------------------------------------------------------------------- never what is kept

strategies = st.sampled_from(STRATEGIES)
lifecycles: st.SearchStrategy[KVCacheLifecycle] = st.sampled_from(get_args(KVCacheLifecycle))
sizes = st.integers(0, 10_000 * MIB)
settings = st.builds(
    KVSetting,
    strategies,
    st.none() | sizes,
    st.none() | st.integers(1, 10_000),
    lifecycles,
)
counts = st.integers(0, 10_000)
stats = st.builds(KVStats, *[counts] * 2, *[sizes] * 5, *[counts] * 3)
observations = st.builds(
    Observation,
    prompt_tokens=counts,
    new_tokens=counts,
    before=stats,
    after=stats,
    room_bytes=sizes,
    reused_tokens=counts,
    shared_tokens=counts,
)


def assert_keeps_the_same(now: KVSetting, then: KVSetting) -> None:
    assert preset_of(now.strategy).lossless
    assert preset_of(then.strategy).lossless
    assert now.window_tokens is None
    assert then.window_tokens is None
    assert now.lifecycle == then.lifecycle
    assert now != then


@given(now=settings, then=settings)
def test_no_recommendation_whatever_makes_automatic_change_what_is_kept(
    now: KVSetting, then: KVSetting
) -> None:
    step = automatic_step(KVRecommendation(now, then, "because"))
    if step is not None:
        assert step == then
        assert_keeps_the_same(now, step)
    assert automatic_step(None) is None


@given(now=settings, seen=st.lists(observations, min_size=1, max_size=6))
def test_an_automatic_advisor_never_changes_what_is_kept_whatever_it_sees(
    now: KVSetting, seen: Sequence[Observation]
) -> None:
    advisor = KVAdvisor(facts(now), "automatic", least_requests=1)
    for each in seen:
        advisor.note(each)
        step = advisor.step()
        if step is not None:
            assert_keeps_the_same(advisor.facts.setting, step.then)
            advisor.applied(step)
    reached = advisor.facts.setting
    assert reached.window_tokens == now.window_tokens
    assert preset_of(reached.strategy).lossless == preset_of(now.strategy).lossless
    if not preset_of(now.strategy).lossless:
        assert reached == now


@given(
    now=settings,
    held=st.sets(strategies),
    seen=st.lists(observations, min_size=1, max_size=6),
)
def test_only_strategies_that_the_backend_holds_are_recommended(
    now: KVSetting, held: set[KVStrategyId], seen: Sequence[Observation]
) -> None:
    planned = replace(facts(now), strategies=tuple(held))
    for each in recommendations(planned, seen):
        assert each.strategy in held | {now.strategy}
        assert each.then != now
        assert len(each.evidence) == len(seen)
        if each.then.lifecycle == "persistent" != now.lifecycle:
            assert preset_of(each.strategy).uses_disk


def test_a_lossless_cache_is_never_recommended_to_lose_anything() -> None:
    @given(now=settings, seen=st.lists(observations, min_size=1, max_size=6))
    def check(now: KVSetting, seen: Sequence[Observation]) -> None:
        if now.window_tokens is None and preset_of(now.strategy).lossless:
            for each in recommendations(facts(now), seen):
                assert preset_of(each.strategy).lossless
                assert each.then.window_tokens is None

    check()


# ---------------------------------------------------------------------- evidence and flapping

WAITED = request(8000, hot=1000, room_mib=200, hits=4, misses=6)


def test_too_few_requests_recommend_nothing() -> None:
    advisor = KVAdvisor(facts(KVSetting("paged", budget_bytes=100 * MIB)))
    for _ in range(LEAST_REQUESTS - 1):
        advisor.note(WAITED)
        assert advisor.recommendation() is None
    advisor.note(WAITED)
    assert advisor.recommendation() is not None


@pytest.mark.parametrize(
    ("mode", "recommends", "applies"),
    [("disabled", False, False), ("observe-only", True, False), ("automatic", True, True)],
)
def test_each_mode_does_what_it_says(mode: str, recommends: bool, applies: bool) -> None:
    advisor = KVAdvisor(facts(KVSetting("paged", budget_bytes=100 * MIB)), mode)  # type: ignore[arg-type]
    for _ in range(LEAST_REQUESTS):
        advisor.note(WAITED)
    assert (advisor.recommendation() is not None) == recommends
    assert (advisor.step() is not None) == applies


def test_what_a_person_must_decide_does_not_hide_what_may_be_applied() -> None:
    advisor = KVAdvisor(facts(KVSetting("paged", budget_bytes=1000 * MIB)), "automatic")
    for _ in range(LEAST_REQUESTS):
        advisor.note(request(500, room_mib=10, alike=448))
    shown = advisor.recommendation()
    assert shown is not None
    assert shown.then.lifecycle == "persistent"
    applied = advisor.step()
    assert applied is not None
    assert applied.then == KVSetting("paged", budget_bytes=1000 * TOKEN_BYTES)
    assert "planned tokens were used" in applied.why


def test_after_a_change_the_evidence_begins_anew_and_twice_as_much_is_needed() -> None:
    advisor = KVAdvisor(facts(KVSetting("paged", budget_bytes=100 * MIB)), "automatic")
    for _ in range(LEAST_REQUESTS):
        advisor.note(WAITED)
    step = advisor.step()
    assert step is not None
    advisor.applied(step)
    for _ in range(2 * LEAST_REQUESTS - 1):
        advisor.note(WAITED)
        assert advisor.step() is None
    advisor.note(WAITED)
    assert advisor.step() is not None


class World:
    """A device with so much room, on which a cache of a setting serves contexts of a length."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self.before = KVStats()

    def serve(self, setting: KVSetting, tokens: int) -> Observation:
        limit = self.room_bytes if setting.budget_bytes is None else setting.budget_bytes
        hot = min(tokens, min(limit, self.room_bytes) // TOKEN_BYTES)
        return request(
            tokens,
            hot=hot,
            room_mib=(self.room_bytes - hot * TOKEN_BYTES) // MIB,
            misses=20 if hot < tokens else 0,
        )


@given(
    room_mib=st.integers(50, 2000),
    budget_mib=st.integers(1, 1000),
    lengths=st.lists(st.integers(20, 9000), min_size=1, max_size=4),
    phase=st.integers(1, 40),
    strategy=st.sampled_from([each for each in STRATEGIES if preset_of(each).lossless]),
)
def test_a_load_that_goes_back_and_forth_does_not_make_the_setting_follow_it(
    room_mib: int, budget_mib: int, lengths: list[int], phase: int, strategy: KVStrategyId
) -> None:
    world = World(room_mib * MIB)
    budget = None if strategy == "resident" else budget_mib * MIB
    advisor = KVAdvisor(facts(KVSetting(strategy, budget)), "automatic")
    requests, changes = 400, 0
    for index in range(requests):
        tokens = lengths[index // phase % len(lengths)]
        advisor.note(world.serve(advisor.facts.setting, tokens))
        step = advisor.step()
        if step is not None:
            advisor.applied(step)
            changes += 1
    assert changes <= requests // MOST_REQUESTS + 5


@given(
    room_mib=st.integers(50, 2000),
    budget_mib=st.integers(1, 1000),
    tokens=st.integers(20, 9000),
    strategy=st.sampled_from([each for each in STRATEGIES if preset_of(each).lossless]),
)
def test_a_steady_load_ends_with_a_setting_that_stays(
    room_mib: int, budget_mib: int, tokens: int, strategy: KVStrategyId
) -> None:
    world = World(room_mib * MIB)
    setting = KVSetting(strategy, None if strategy == "resident" else budget_mib * MIB)
    advisor = KVAdvisor(facts(setting), "automatic", least_requests=1)
    changed = []
    for index in range(10 * MOST_REQUESTS):
        advisor.note(world.serve(advisor.facts.setting, tokens))
        step = advisor.step()
        if step is not None:
            advisor.applied(step)
            changed.append(index)
    assert len(changed) <= 12
