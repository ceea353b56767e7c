"""Retuning a KV cache between requests: what to recommend, and what may be applied unasked."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from ollm_widgets.kv.observation import KVFacts, KVSetting, Observation
from ollm_widgets.kv.recommending import KVRecommendation, recommendations
from ollm_widgets.planning.ids import KVAdaptationMode
from ollm_widgets.planning.kv_presets import preset_of

__all__ = [
    "KVAdvisor",
    "KVFacts",
    "KVRecommendation",
    "KVSetting",
    "Observation",
    "automatic_step",
    "recommendations",
]

LEAST_REQUESTS = 3
# Each applied change doubles the requests that the next one needs, up to this many.
MOST_REQUESTS = 48


def automatic_step(recommendation: KVRecommendation | None) -> KVSetting | None:
    """Return the change that may be applied without asking; None where a person must decide.

    What is kept never changes: both strategies are lossless and keep the full history. Whether
    anything outlives the runtime is a person's choice too, and what does is on disk in the
    layout of its strategy, which then stays.
    """
    if recommendation is None:
        return None
    now, then = recommendation.now, recommendation.then
    lossless = preset_of(now.strategy).lossless and preset_of(then.strategy).lossless
    windowed = now.window_tokens is not None or then.window_tokens is not None
    if not lossless or windowed or now.lifecycle != then.lifecycle:
        return None
    if now.lifecycle == "persistent" and now.strategy != then.strategy:
        return None
    # A resident cache has no budget, so there is nothing to apply.
    if now == then or now.strategy == then.strategy == "resident":
        return None
    return then


class KVAdvisor:
    """Remembers what requests have shown, and recommends.

    A change is recommended when at least `least_requests` requests in a row speak for it, and
    after each change that was applied twice as many as before: a cache whose load goes back and
    forth settles instead of following it.
    """

    def __init__(
        self,
        facts: KVFacts,
        mode: KVAdaptationMode = "observe-only",
        *,
        least_requests: int = LEAST_REQUESTS,
    ) -> None:
        self.facts = facts
        self.mode = mode
        self._needed = least_requests
        self._seen: deque[Observation] = deque(maxlen=max(MOST_REQUESTS, least_requests))

    @property
    def needed_requests(self) -> int:
        """Requests that must agree."""
        return self._needed

    def note(self, observation: Observation) -> None:
        """Remember one request."""
        if self.mode != "disabled":
            self._seen.append(observation)

    def recommendation(self) -> KVRecommendation | None:
        """What should change; None where nothing should, or too little was seen."""
        return next(iter(self._recommendations()), None)

    def step(self) -> KVRecommendation | None:
        """What to apply now, between two requests; None unless automatic.

        It may be another one than `recommendation`, where that is a person's to decide.
        """
        if self.mode != "automatic":
            return None
        return next((each for each in self._recommendations() if automatic_step(each)), None)

    def applied(self, change: KVRecommendation) -> None:
        """Go on from what a change has led to, of which nothing has been seen yet."""
        self.facts = replace(self.facts, setting=change.then)
        self._seen.clear()
        self._needed = max(self._needed, min(2 * self._needed, MOST_REQUESTS))

    def _recommendations(self) -> tuple[KVRecommendation, ...]:
        if len(self._seen) < self._needed:
            return ()
        return recommendations(self.facts, tuple(self._seen)[-self._needed :])
