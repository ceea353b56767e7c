"""What a host holds: models of the cluster in the runtime manager of its own process."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from ollm_widgets.cluster.failures import NotHeldError
from ollm_widgets.cluster.messages import Described, HeldCopy, Offer, Wanted, What
from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import probe_machine
from ollm_widgets.runtime.residency.places import needed_bytes
from ollm_widgets.runtime.residency.surroundings import RAM

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.manager import RuntimeManager
    from ollm_widgets.runtime.residency.records import Lease, Resident, Unloaded


@dataclass(frozen=True, slots=True)
class _Kept:
    """A model of the cluster; its runtime may have left, and its id be that of another by now."""

    wanted: Wanted
    id: str
    runtime: weakref.ref[Runtime]


class Holding:
    """Loads, lends and lets go of models by their keys. All of it may block.

    Parameters
    ----------
    manager
        Who keeps them; nobody else uses it.
    """

    def __init__(self, manager: RuntimeManager) -> None:
        self.manager = manager
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    # ------------------------------------------------------------------ before loading

    def look_around(self) -> None:
        """Look at the accelerators, so that their memory counts before anything is loaded."""
        probe_machine()

    def offer(self, wanted: Wanted) -> Offer:
        """Say how a model would run here, as if all had left that may.

        Raises
        ------
        OllmError
            If its config cannot work.
        """
        plan = self.manager.plan(_config_of(wanted))
        runs = plan.is_executable() or plan.needs_files
        needs = needed_bytes(plan)
        free = self._free()
        return Offer(
            plan=plan,
            runs=runs,
            fits=runs and all(free.get(place, size) >= size for place, size in needs.items()),
            needed_bytes=_counted(needs, free),
            refusal="" if runs else plan.reason,
        )

    # ------------------------------------------------------------------ in and out of memory

    def load(
        self,
        wanted: Wanted,
        evicts: Sequence[str],
        progress: ProgressSink,
        cancel: threading.Event,
    ) -> Described:
        """Let go of what has to leave, and load a model, or find it loaded.

        Raises
        ------
        Cancelled
            When `cancel` was set.
        OllmError
            What the manager raised.
        """
        for key in evicts:
            self._evict(key, f"for {wanted.name}")
        with self.manager.acquire(_config_of(wanted), progress, cancel) as lease:
            runtime = lease.runtime
            kept = _Kept(wanted, lease.id, weakref.ref(runtime))
            with self._lock:
                self._kept[wanted.key] = kept
            return Described(
                plan=runtime.plan,
                config=runtime.config,
                resolved_model=runtime.resolved_model,
                accepts=runtime.accepts,
                runtime_id=lease.id,
                chat=runtime.chat_traits,
            )

    def borrow(self, key: str, cancel: threading.Event | None = None) -> Lease:
        """Lease a model that is in memory.

        Raises
        ------
        NotHeldError
            When it has left.
        OllmError
            When it was in host memory and cannot come back.
        """
        kept = self._find(key)
        try:
            lease = self.manager.borrow(kept.id, cancel=cancel)
        except RuntimeClosedError as error:
            raise _not_held(kept.wanted.name) from error
        if lease.runtime is not kept.runtime():
            lease.release()
            raise _not_held(kept.wanted.name)
        return lease

    def unload(self, key: str, *, force: bool) -> Unloaded | None:
        """Unload a model once nobody uses it, or at once with force; None if it is not here.

        Raises
        ------
        RuntimeBusyError
            If it stays busy longer than the manager waits.
        """
        with contextlib.suppress(NotHeldError, RuntimeClosedError):
            return self.manager.unload(self._find(key).id, force)
        return None

    def set_pinned(self, key: str, pinned: bool) -> None:
        """Let a model stay, or leave, when the manager needs room; nothing if it is not here."""
        with contextlib.suppress(NotHeldError, RuntimeClosedError):
            kept = self._find(key)
            (self.manager.pin if pinned else self.manager.unpin)(kept.id)

    # ------------------------------------------------------------------ looking

    def ask(self, key: str, what: What) -> Any:
        """Answer a question about a model: its memory, its KV cache, how its plan came true.

        Raises
        ------
        NotHeldError
            When it has left.
        ConfigError
            For a question that is not one of these.
        """
        if what not in get_args(What):
            raise ConfigError("what", f"must be one of {', '.join(get_args(What))}, got {what!r}.")
        kept = self._find(key)
        runtime = kept.runtime()
        if runtime is None or runtime.closed:
            raise _not_held(kept.wanted.name)
        answers: dict[What, Callable[[], Any]] = {
            "memory": runtime.memory,
            "kv_stats": runtime.kv_stats,
            "truth": lambda: runtime.truth,
            "plan": lambda: runtime.plan,
            "queue": lambda: runtime.queue,
        }
        return answers[what]()

    def held(self) -> tuple[HeldCopy, ...]:
        """Return every model of the cluster that is in memory; forgets those that have left."""
        with self._lock:
            known = dict(self._kept)
        # In this order: what is loaded meanwhile is not taken for what has left.
        residents = {id(one.runtime): one for one in self.manager.residents()}
        free = self._free()
        found = []
        for key, kept in known.items():
            resident = residents.get(id(kept.runtime()))
            if resident is None or resident.runtime.closed:
                self._forget(key, kept)
            else:
                found.append(_copy(kept.wanted, resident, free))
        return tuple(found)

    def free_bytes(self) -> int:
        """Bytes free on the accelerators; where there are none, in host memory."""
        free = self._free()
        return _counted(free, free)

    @property
    def most(self) -> int | None:
        """How many models it may hold; None for no limit but memory."""
        return self.manager.options.max_loaded

    # ------------------------------------------------------------------ inside

    def _find(self, key: str) -> _Kept:
        with self._lock:
            kept = self._kept.get(key)
        if kept is None:
            raise _not_held("The model")
        return kept

    def _forget(self, key: str, kept: _Kept) -> None:
        with self._lock:
            if self._kept.get(key) is kept:
                del self._kept[key]

    def _evict(self, key: str, detail: str) -> None:
        """Let go of what is idle; what is in use by now stays, and the manager finds room."""
        with contextlib.suppress(NotHeldError):
            self.manager.evict_if_idle(self._find(key).id, detail)

    def _free(self) -> dict[str, int]:
        levels = self.manager.gauge.levels()
        return {place: level.free_bytes for place, level in levels.items()}


def _copy(wanted: Wanted, resident: Resident, free: Mapping[str, int]) -> HeldCopy:
    return HeldCopy(
        key=wanted.key,
        name=wanted.name,
        group=wanted.group,
        state=resident.state,
        busy=resident.in_use,
        bytes=sum(resident.held.values()),
        frees_bytes=_counted(resident.held, free),
    )


def _counted(by_place: Mapping[str, int], free: Mapping[str, int]) -> int:
    """Count the bytes of accelerators on a host that has some, else those of host memory."""
    has_accelerators = any(place != RAM for place in free)
    return sum(size for place, size in by_place.items() if (place != RAM) == has_accelerators)


def _config_of(wanted: Wanted) -> RuntimeConfig:
    return RuntimeConfig.from_dict(wanted.config)


def _not_held(name: str) -> NotHeldError:
    return NotHeldError(f"{name} has left memory meanwhile.")
