"""Every exception this package raises on purpose, in one tree under `OllmError`.

Mistakes a person can mend by typing something else also derive from `ValueError`.
A message says what happened, with numbers; `hint` says what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar


class OllmError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message
        What happened, in one sentence with its numbers.
    hint
        What to do next; empty when the message already says it.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Callable[..., OllmError], tuple[Any, ...], dict[str, Any]]:
        # By default a copy is made by calling the class with `args`, which are not what the
        # class was called with.
        return _remade, (type(self), self.args), self.__dict__


def _remade(kind: type[OllmError], args: tuple[Any, ...]) -> OllmError:
    """Make the copy of an error that has crossed to another process; its state follows."""
    return kind.__new__(kind, *args)


class ModelReferenceError(OllmError, ValueError):
    """The text is not a model reference."""

    code: ClassVar[str] = "bad-reference"


class ConfigError(OllmError, ValueError):
    """A field of a config holds a value that cannot work; `field` names it."""

    code: ClassVar[str] = "bad-config"

    def __init__(self, field: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{field}: {message}", hint=hint)
        self.field = field


class UnsupportedModelError(OllmError, ValueError):
    """The model was found but cannot run, or nothing was found under that name."""

    code: ClassVar[str] = "unsupported-model"


class UnsafeModelError(UnsupportedModelError):
    """The model's files were refused: pickle, remote code, links out of the folder."""

    code: ClassVar[str] = "unsafe-model"


class MalformedModelError(UnsupportedModelError):
    """A config or a tensor file is damaged; the message names the file."""

    code: ClassVar[str] = "malformed-model"


class PlanNotExecutableError(OllmError, ValueError):
    """The plan cannot run as asked; the message carries the plan's reason."""

    code: ClassVar[str] = "plan-not-executable"


class ManagedModelDownloadError(OllmError):
    """The files of a model are not complete.

    Parameters
    ----------
    repo_id
        Hub repository, or the reference that was asked for.
    folder
        Where the files should be, if a place is known.
    gaps
        Each missing or damaged artifact, one string each.
    """

    code: ClassVar[str] = "download"

    def __init__(
        self,
        message: str,
        *,
        repo_id: str,
        folder: Path | None = None,
        gaps: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.repo_id = repo_id
        self.folder = folder
        self.gaps = tuple(gaps)


class GatedModelError(ManagedModelDownloadError):
    """The repository asks for a licence to be accepted first."""

    code: ClassVar[str] = "gated-model"


class HubUnavailableError(OllmError):
    """The hub could not be asked; what is on this machine still works.

    Parameters
    ----------
    host
        The hub that was asked.
    """

    code: ClassVar[str] = "hub-unavailable"

    def __init__(self, message: str, *, host: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.host = host


class DeletionError(OllmError, ValueError):
    """The files of a model were not deleted: they are not this package's, or the disk refused."""

    code: ClassVar[str] = "deletion"


class SpecializationLoadError(OllmError):
    """The specialized backend could not build the model."""

    code: ClassVar[str] = "specialization-load"


class SpecializationApplicationError(OllmError):
    """Some specialization passes did not apply.

    Parameters
    ----------
    planned, applied, failed
        Ids of the passes in each state.
    """

    code: ClassVar[str] = "specialization-application"

    def __init__(
        self,
        message: str,
        *,
        planned: Sequence[str],
        applied: Sequence[str],
        failed: Sequence[str],
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.planned = tuple(planned)
        self.applied = tuple(applied)
        self.failed = tuple(failed)


class CheckpointChangedError(OllmError):
    """A file of the model changed, or went, while the model was in use."""

    code: ClassVar[str] = "checkpoint-changed"


class WeightReadError(OllmError):
    """Bytes of a tensor could not be read.

    Parameters
    ----------
    path
        File.
    tensor
        Name in the checkpoint.
    offset_bytes
        First byte of the file that did not come.
    missing_bytes
        How many bytes of the tensor, from there on.
    """

    code: ClassVar[str] = "weight-read"

    def __init__(
        self,
        message: str,
        *,
        path: Path,
        tensor: str,
        offset_bytes: int,
        missing_bytes: int,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.tensor = tensor
        self.offset_bytes = offset_bytes
        self.missing_bytes = missing_bytes


class KVStrategyError(OllmError, ValueError):
    """The backend cannot hold the KV cache in the strategy asked for."""

    code: ClassVar[str] = "kv-strategy"


class KVPageError(OllmError):
    """A page of a KV cache could not be read back as it was written."""

    code: ClassVar[str] = "kv-page"


class OutOfMemory(OllmError):  # noqa: N818  (the name is public and says what it is)
    """A tier cannot hold what was asked.

    Parameters
    ----------
    tier
        Where the room was missing, e.g. ``"cpu"`` or ``"cuda:0"``.
    needed_bytes, free_bytes
        What was asked and what was free.
    """

    code: ClassVar[str] = "out-of-memory"

    def __init__(
        self, message: str, *, tier: str, needed_bytes: int, free_bytes: int, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.tier = tier
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class Cancelled(OllmError):  # noqa: N818  (not a failure: somebody asked for it)
    """The operation was cancelled before it finished."""

    code: ClassVar[str] = "cancelled"


class RuntimeClosedError(OllmError):
    """The runtime was closed; load the model again to use it."""

    code: ClassVar[str] = "runtime-closed"


class RuntimeBusyError(OllmError):
    """A runtime is in use and did not become idle in time."""

    code: ClassVar[str] = "runtime-busy"


class NoRoomError(RuntimeBusyError):
    """Room for another runtime could not be made.

    Parameters
    ----------
    holders
        Who holds the room and why each stays, one string each.
    """

    code: ClassVar[str] = "no-room"

    def __init__(self, message: str, *, holders: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holders = tuple(holders)


class ClusterBusyError(RuntimeBusyError):
    """No node of the cluster has room for the request by now.

    Parameters
    ----------
    retry_after_s
        After so many seconds it may be otherwise.
    """

    code: ClassVar[str] = "cluster-busy"

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class HostLostError(OllmError):
    """The node that answered went away before the answer was complete.

    Parameters
    ----------
    node
        What a person calls it.
    """

    code: ClassVar[str] = "host-lost"

    def __init__(self, message: str, *, node: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.node = node


class ClusterUnavailableError(OllmError):
    """There is no cluster to be used: Ray is not installed, or cannot be reached."""

    code: ClassVar[str] = "cluster-unavailable"


class BackendsFailedError(OllmError):
    """Every backend that could run the model failed to load it.

    Parameters
    ----------
    errors
        What each raised, in the order in which they were tried.
    """

    code: ClassVar[str] = "backends-failed"

    def __init__(self, message: str, *, errors: Sequence[BaseException], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errors = tuple(errors)


class CoolDownError(OllmError):
    """The same load failed a moment ago; `seconds_left` until it is tried again."""

    code: ClassVar[str] = "cool-down"

    def __init__(self, message: str, *, seconds_left: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.seconds_left = seconds_left


class ProtocolError(OllmError, ValueError):
    """A message from the page does not follow the protocol."""

    code: ClassVar[str] = "bad-message"
