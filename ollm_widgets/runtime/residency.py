"""What a manager keeps and tells: residents, leases, events."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.loaded import LoadedRuntime
    from ollm_widgets.runtime.memory import MemoryUse

EventKind = Literal[
    "loading", "loaded", "failed", "busy", "idle", "pinned", "unpinned", "unloaded", "evicted"
]


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A change in what a manager keeps; `runtime_id` is empty while it is being loaded."""

    kind: EventKind
    runtime_id: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What an unload gave back: measured bytes before and after."""

    id: str
    name: str
    before: MemoryUse
    after: MemoryUse

    @property
    def freed_bytes(self) -> int:
        """Bytes given back, accelerator and host together."""
        return (
            self.before.accelerator_bytes
            + self.before.host_bytes
            - self.after.accelerator_bytes
            - self.after.host_bytes
        )


@dataclass(slots=True, eq=False)
class Resident:
    """A runtime in memory; the manager alone changes it, under its lock."""

    id: str
    runtime: LoadedRuntime
    keys: set[Hashable]
    last_used: float  # time.monotonic
    leases: int = 0
    pinned: bool = False

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.runtime.name

    @property
    def idle_s(self) -> float:
        """Seconds since its last use; 0 while it is in use."""
        return 0.0 if self.leases else time.monotonic() - self.last_used


@dataclass(slots=True)
class _Once:
    """A release that happens once, whoever comes first: the user, or the collector."""

    resident: Resident
    release: Callable[[Resident], None]
    open: bool = field(default=True)

    def __call__(self) -> None:
        if self.open:
            self.open = False
            self.release(self.resident)


class Lease:
    """Marks a runtime as in use until released; a context manager.

    A lease that is dropped without release is released when it is collected.
    """

    def __init__(self, resident: Resident, release: Callable[[Resident], None]) -> None:
        self.id = resident.id
        self._runtime: LoadedRuntime = resident.runtime
        self._once = _Once(resident, release)
        self._finalizer = weakref.finalize(self, self._once)

    @property
    def runtime(self) -> LoadedRuntime:
        """The runtime that is held."""
        return self._runtime

    def release(self) -> None:
        """Give the runtime back; calling it again does nothing."""
        self._finalizer()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def residency_key(plan: RuntimePlan) -> Hashable:
    """What makes two requests the same runtime: the weights, and how they would run."""
    return (
        str(plan.model_path or plan.resolved_model.reference),
        plan.backend_id,
        plan.device,
        plan.dtype,
        plan.kv.strategy,
        plan.kv.window_tokens,
        plan.kv.sink_tokens,
        plan.kv.codec,
        plan.config.kv_cache_lifecycle,
        plan.config.kv_cache_adaptation_mode,
        str(plan.config.kv_cache_memory_budget or ""),
        str(plan.config.cache_dir or ""),
        plan.config.use_cache,
        str(plan.config.adapter_dir or ""),
        plan.config.offload_gpu_layers,
        plan.config.offload_cpu_layers,
        plan.config.offload_cpu_policy,
    )
