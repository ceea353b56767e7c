"""The libraries that a load needs: large, and imported once in a kernel."""

from __future__ import annotations

import importlib
import sys
import threading

from ollm_widgets.backends.base import LoadProgress, ProgressSink, check_cancelled

STAGE = "Import libraries"
# What every backend ends up with; the second brings in most of transformers.
_MODULES = ("torch", "transformers.modeling_utils", "transformers.generation")


def import_libraries(progress: ProgressSink, cancel: threading.Event) -> None:
    """Import what is not imported yet, as a stage of its own; that can be cancelled in between.

    Counted as a part of planning or building, the seconds of a kernel's first load would be taken
    for the speed of its machine, and correct the figures of later plans.
    """
    missing = [name for name in _MODULES if name not in sys.modules]
    for name in missing:
        progress(LoadProgress(STAGE, 0, 0))
        importlib.import_module(name)
        check_cancelled(cancel)
    if missing:
        progress(LoadProgress(STAGE, 1, 1))
