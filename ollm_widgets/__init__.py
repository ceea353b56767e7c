"""Run language models on your own hardware, from the notebook or from plain Python.

Public names are imported when they are first used, so that importing this package, or
``%load_ext ollm``, costs nothing until a model is wanted. What they are is said to type checkers
and editors by the stub beside this file; a test holds the two together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_HOMES = {
    "ollm_widgets.errors": (
        "BackendsFailedError",
        "Cancelled",
        "ClusterBusyError",
        "ClusterUnavailableError",
        "ConfigError",
        "CoolDownError",
        "GatedModelError",
        "HostLostError",
        "KVStrategyError",
        "MalformedModelError",
        "ManagedModelDownloadError",
        "ModelReferenceError",
        "NoRoomError",
        "OllmError",
        "OutOfMemory",
        "PlanNotExecutableError",
        "ProtocolError",
        "RuntimeBusyError",
        "RuntimeClosedError",
        "SpecializationApplicationError",
        "SpecializationLoadError",
        "UnsafeModelError",
        "UnsupportedModelError",
    ),
    "ollm_widgets.models.capabilities": ("CapabilityProfile",),
    "ollm_widgets.models.reference": ("ModelReference",),
    "ollm_widgets.models.resolved": ("ResolvedModel",),
    "ollm_widgets.models.resolver": ("ModelResolver",),
    "ollm_widgets.planning.config": ("GenerationConfig", "RuntimeConfig"),
    "ollm_widgets.planning.difference": ("PlanDifference",),
    "ollm_widgets.planning.plan": ("RuntimePlan",),
    "ollm_widgets.planning.selector": ("BackendSelector",),
    "ollm_widgets.planning.specialization": ("SpecializationRegistry",),
    "ollm_widgets.planning.verdict": ("Verdict", "verdict_of"),
    "ollm_widgets.backends.base": ("LoadProgress",),
    "ollm_widgets.cluster.cluster": ("Cluster",),
    "ollm_widgets.runtime.completion": ("Completion", "Delta"),
    "ollm_widgets.runtime.doctor.profiling": ("profile_machine",),
    "ollm_widgets.runtime.doctor.report": ("DoctorReport", "doctor"),
    "ollm_widgets.runtime.interface": ("Runtime",),
    "ollm_widgets.runtime.loaded": ("LoadedRuntime",),
    "ollm_widgets.runtime.loader": ("RuntimeLoader",),
    "ollm_widgets.runtime.predicted_and_measured": ("PredictedAndMeasured", "TruthReport"),
    "ollm_widgets.runtime.residency.manager": ("RuntimeManager",),
    "ollm_widgets.runtime.residency.options": ("ResidencyOptions",),
    "ollm_widgets.runtime.residency.records": (
        "Demoted",
        "Lease",
        "RuntimeEvent",
        "Unloaded",
        "Waiting",
    ),
    "ollm_widgets.session.kernel_manager": ("default_manager",),
    "ollm_widgets.session.session": ("Session", "default_session"),
    "ollm_widgets.widgets.activity": ("Activity",),
    "ollm_widgets.widgets.capability_card": ("CapabilityCard",),
    "ollm_widgets.widgets.chat": ("Chat",),
    "ollm_widgets.widgets.load_panel": ("LoadPanel",),
    "ollm_widgets.widgets.model_picker": ("ModelPicker",),
    "ollm_widgets.widgets.plan_editor": ("PlanEditor",),
    "ollm_widgets.widgets.runtime_shelf": ("RuntimeShelf",),
    "ollm_widgets.widgets.workbench": ("Workbench",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, "load_ipython_extension", "unload_ipython_extension"]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext ollm_widgets``: add ``%ollm`` and ``%%ollm``."""
    from ollm_widgets.notebook.extension import load_ipython_extension as load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """``%unload_ext ollm_widgets``: take the magics away; loaded models stay."""
    from ollm_widgets.notebook.extension import unload_ipython_extension as unload

    unload(shell)
