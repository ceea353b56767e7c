"""What a runtime's requests show of its KV cache, and what is made of it between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import free_on
from ollm_widgets.kv.adaptation import KVAdvisor
from ollm_widgets.kv.beginnings import PromptBeginnings
from ollm_widgets.kv.measuring import cache_stats
from ollm_widgets.kv.observation import KVFacts, Observation
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.kv_choice import kv_budget_bytes

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.planning.plan import KVPlan, RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has come to its end.

    Parameters
    ----------
    prompt_ids
        ``[1, prompt]``.
    new_tokens, reused_tokens
        Tokens written, and those of the prompt that were there.
    seconds_per_token
        For each token after the first; 0 where there was one only.
    """

    prompt_ids: torch.Tensor
    new_tokens: int
    reused_tokens: int
    seconds_per_token: float


class KVTuning:
    """Follows the requests of one runtime; used on its thread only.

    Parameters
    ----------
    plan, traits
        As loaded; the config says whether to look on, to recommend, or to apply.
    device
        That computes.
    """

    def __init__(self, plan: RuntimePlan, traits: BackendTraits, device: torch.device) -> None:
        self._advisor = KVAdvisor(KVFacts.of(plan, traits), plan.config.kv_cache_adaptation_mode)
        self._beginnings = PromptBeginnings()
        self._device = device
        self._asked_bytes = kv_budget_bytes(plan.config)
        self._before = KVStats()

    @property
    def off(self) -> bool:
        """Whether nothing is to be looked at."""
        return self._advisor.mode == "disabled"

    def recommendation(self) -> KVRecommendation | None:
        """What should change; None where nothing should, or too little was seen."""
        return self._advisor.recommendation()

    def note(self, answered: Answered, cache: Cache) -> None:
        """Take in what a request has done with its cache."""
        if self.off or answered.prompt_ids.shape[0] != 1:
            return
        after = cache_stats(cache)
        observation = Observation(
            prompt_tokens=answered.prompt_ids.shape[1],
            new_tokens=answered.new_tokens,
            # Another cache counts from nothing.
            before=self._before if self._before.read_bytes <= after.read_bytes else KVStats(),
            after=after,
            room_bytes=free_on(self._device),
            reused_tokens=answered.reused_tokens,
            shared_tokens=self._beginnings.note(answered.prompt_ids[0].tolist()),
            seconds_per_token=answered.seconds_per_token,
        )
        self._before = after
        self._advisor.note(observation)

    def change(self, kv: KVPlan) -> KVPlan | None:
        """Return the plan from here on, where a change may be applied unasked; else None."""
        step = self._advisor.step()
        if step is None or not self._within_what_was_asked(step.budget_bytes):
            return None
        self._advisor.applied(step)
        self._before = KVStats()
        return replace(
            kv,
            strategy=step.strategy,
            device_budget_bytes=step.budget_bytes,
            why=f"Changed between two requests. {step.why}",
        )

    def _within_what_was_asked(self, budget_bytes: int | None) -> bool:
        """Whether a budget is not above one that a person has set, which is theirs to raise."""
        if self._asked_bytes is None:
            return True
        return budget_bytes is not None and budget_bytes <= self._asked_bytes
