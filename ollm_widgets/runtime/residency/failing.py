"""What a failed load means for the next try, and how it is told to several callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ollm_widgets.errors import (
    BackendsFailedError,
    Cancelled,
    CheckpointChangedError,
    ClusterUnavailableError,
    ConfigError,
    HostLostError,
    HubUnavailableError,
    ManagedModelDownloadError,
    ModelReferenceError,
    OutOfMemory,
    PlanNotExecutableError,
    RuntimeBusyError,
    RuntimeClosedError,
    UnsupportedModelError,
    WeightReadError,
)
from ollm_widgets.planning.parts import listed

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

_NO_MEMORY = (MemoryError, OutOfMemory)
# The person asks for something else, or somebody makes room: nothing that time would mend.
_PROMPT = (
    *_NO_MEMORY,
    Cancelled,
    ClusterUnavailableError,
    ConfigError,
    HostLostError,  # the next try goes to another node
    ModelReferenceError,
    PlanNotExecutableError,
    RuntimeBusyError,
    RuntimeClosedError,
)
# The files, the hub or the request are at fault, whoever loads them.
_SHARED_BY_ALL = (
    *(kind for kind in _PROMPT if kind not in _NO_MEMORY),
    CheckpointChangedError,
    HubUnavailableError,
    ManagedModelDownloadError,
    UnsupportedModelError,
    WeightReadError,
)


def cools_down(error: BaseException) -> bool:
    """Whether the same request had better not be tried again at once."""
    return isinstance(error, Exception) and not isinstance(error, _PROMPT)


def may_mend(error: BaseException, failed: RuntimePlan, other: RuntimePlan) -> bool:
    """Whether `other`, by another backend, may work where `failed` did not."""
    if not isinstance(error, Exception) or isinstance(error, _SHARED_BY_ALL):
        return False
    if isinstance(error, _NO_MEMORY):
        return other.memory.needed_bytes < failed.memory.needed_bytes
    return True


def joined(name: str, failures: Sequence[tuple[str, Exception]]) -> Exception:
    """Make one error of what the backends raised, each in turn.

    Parameters
    ----------
    failures
        Backends and their errors, the first one first.
    """
    first = failures[0][1]
    if len(failures) == 1:
        return first
    # Most often the files are at fault, and then all of them say the same.
    by_text: dict[str, list[str]] = {}
    for backend, error in failures:
        by_text.setdefault(str(error) or type(error).__name__, []).append(backend)
    said = "; ".join(f"{listed(backends)}: {text}" for text, backends in by_text.items())
    errors = [error for _, error in failures]
    whole = BackendsFailedError(f"No backend could load {name}. {said}", errors=errors)
    whole.__cause__ = first
    return whole


def as_sentence(text: str) -> str:
    """Return what some library said so that more may follow."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def copy_of(error: BaseException) -> BaseException:
    """Return an equal error to raise, so that callers do not lengthen each other's traceback."""
    try:
        # What it was made of; of an error of the system also the file, which args leave out.
        made_of = error.__reduce__()[1]
        copy = type(error).__new__(type(error), *made_of)
    except Exception:
        return error.with_traceback(None)  # a foreign class that cannot be made again
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy
