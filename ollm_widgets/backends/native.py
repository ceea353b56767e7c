"""``optimized-native``: streaming of models that are larger than the accelerator."""

from __future__ import annotations

import threading
from pathlib import Path

from ollm_widgets.backends.base import LoadedModel, ProgressSink
from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.traits import NATIVE_TRAITS, BackendTraits


class NativeBackend:
    """Registered so that plans can name it and say why it does not apply."""

    @property
    def traits(self) -> BackendTraits:
        """Not available, with the reason."""
        return NATIVE_TRAITS

    def load(
        self, plan: RuntimePlan, folder: Path, progress: ProgressSink, cancel: threading.Event
    ) -> LoadedModel:
        """Refuse, in the plan's own words.

        Raises
        ------
        SpecializationLoadError
            Always; no plan that names this backend is executable.
        """
        raise SpecializationLoadError(
            f"optimized-native cannot load {folder.name}: {NATIVE_TRAITS.unavailable}"
        )
