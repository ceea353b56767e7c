"""The KV cache that a runtime fills by itself: given to each request, kept and tuned in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.kv.measuring import cache_stats
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.kv_choice import kv_folder
from ollm_widgets.runtime.caches import CacheShelf, make_cache, open_store
from ollm_widgets.runtime.reuse import PrefixReuse
from ollm_widgets.runtime.tuning import Answered, KVTuning

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Cache

    from ollm_widgets.backends.base import LoadedModel
    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.planning.plan import KVPlan, RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits


class OwnCaches:
    """The caches of one runtime.

    Parameters
    ----------
    plan
        Gives the runtime's plan as it is now.
    loaded
        What runs, with the steps that keep a cache of their own.
    model_path
        The model's files, which persistent pages belong to.
    traits
        What the backend can hold.
    """

    def __init__(
        self,
        plan: Callable[[], RuntimePlan],
        loaded: LoadedModel,
        model_path: Path,
        traits: BackendTraits,
    ) -> None:
        self._plan = plan
        self._model = loaded.model
        self._steps = loaded.steps
        self._model_path = model_path
        self._reuse: PrefixReuse | None = None
        self._tuning = KVTuning(plan(), traits, loaded.device)
        self.shelf = CacheShelf(traits)

    def reuse_of(self, given: Cache | None) -> PrefixReuse | None:
        """Return what finds a request its cache; None where it is to use what was given, or none.

        Parameters
        ----------
        given
            The caller's cache: one of the shelf that is persistent is continued too.
        """
        if given is not None:
            return self.shelf.reuse_of(given)
        plan = self._plan()
        if not plan.config.use_cache:
            return None
        if self._reuse is None:
            folder = kv_folder(plan.config)
            self._reuse = PrefixReuse(
                lambda: make_cache(self._model, self._plan().kv, folder),
                open_store(plan, self._model_path, plan.config),
            )
        return self._reuse

    def tune(self, answered: Answered, reuse: PrefixReuse) -> KVPlan | None:
        """Learn from a request; how keys and values are to be kept from here on, if otherwise."""
        cache = reuse.cache or (None if self._steps is None else self._steps.cache)
        if self._tuning.off or cache is None or reuse is not self._reuse:
            return None
        self._tuning.note(answered, cache)
        kv = self._tuning.change(self._plan().kv)
        if kv is not None:
            self._reuse = None
            reuse.close()
            if self._steps is not None:
                self._steps.drop()
        return kv

    def recommendation(self) -> KVRecommendation | None:
        """How the KV cache had better be kept, by what was seen."""
        return self._tuning.recommendation()

    def all(self) -> tuple[Cache, ...]:
        """Every cache there is now, those handed out included."""
        return (*self.shelf.all(), *self._own())

    def stats(self) -> KVStats:
        """What the runtime's own cache holds, and what it has moved."""
        return sum(map(cache_stats, self._own()), KVStats())

    def clear(self) -> None:
        """Save what is persistent, and give everything else back."""
        reuse, self._reuse = self._reuse, None
        if reuse is not None:
            reuse.close()
        self.shelf.clear()

    def _own(self) -> tuple[Cache, ...]:
        own = None if self._reuse is None else self._reuse.cache
        stepped = None if self._steps is None else self._steps.cache
        return tuple(each for each in (own, stepped) if each is not None)
