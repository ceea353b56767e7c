"""What a runtime on another machine holds, as it said last; asked again without waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.client.calls import Place
from ollm_widgets.cluster.client.post import Post
from ollm_widgets.cluster.failures import NotHeldError
from ollm_widgets.cluster.messages import What
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.runtime.memory import MemoryUse

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.predicted_and_measured import TruthReport

# Whoever draws them asks several times a second.
_FRESH_S = 1.0
_ASKED: tuple[What, ...] = ("memory", "kv_stats", "truth", "plan")


class Figures:
    """Figures of one copy of a model, on the host that answered last.

    Parameters
    ----------
    post
        Where calls wait.
    key
        The model.
    place
        Where it is.

    Attributes
    ----------
    memory, kv_stats, truth, plan
        As the host said last; the last two are None until it has.
    """

    def __init__(self, post: Post, key: str, place: Place) -> None:
        self.memory = MemoryUse()
        self.kv_stats = KVStats()
        self.truth: TruthReport | None = None
        self.plan: RuntimePlan | None = None
        self._post = post
        self._key = key
        self._place = place
        self._lock = threading.Lock()
        self._asked_at = -_FRESH_S
        self._asking = False

    def move(self, place: Place) -> None:
        """Follow the model to where it answers now; its plan there is not known yet."""
        self._place, self.plan = place, None

    def look(self) -> None:
        """Ask for newer figures, unless those there are are new enough; waits for nothing."""
        with self._lock:
            now = time.monotonic()
            if self._asking or now - self._asked_at < _FRESH_S:
                return
            self._asking, self._asked_at = True, now
        self._post.send(self._ask())

    def wait(self, timeout_s: float) -> None:
        """Ask, and wait a little for the answer."""
        with contextlib.suppress(TimeoutError):
            self._post.ask(self._ask(), None, timeout_s)

    async def _ask(self) -> None:
        place = self._place
        try:
            answers = await asyncio.gather(
                *(place.link.host("ask", place.route.host, self._key, what) for what in _ASKED)
            )
        except NotHeldError:
            self.memory, self.kv_stats = MemoryUse(), KVStats()
        except Exception:  # what was known last is all there is
            return
        else:
            if place is self._place:
                self._take(*answers)
        finally:
            self._asking = False

    def _take(self, memory: MemoryUse, kv_stats: KVStats, truth: Any, plan: Any) -> None:
        self.memory, self.kv_stats, self.truth = memory, kv_stats, truth
        if plan != self.plan:
            self.plan = plan
