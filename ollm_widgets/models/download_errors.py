"""The errors that a download ends with: one sentence, the host, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ollm_widgets.errors import GatedModelError, ManagedModelDownloadError, OllmError, OutOfMemory
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.models.hub_faults import HubFault, explain, host_of
from ollm_widgets.models.transfer import Transfer

_AGAIN = "Download again: what is here is kept and the rest is fetched."


class DownloadErrors:
    """Builds the errors of one repository's download.

    Parameters
    ----------
    repo_id, revision
        What is downloaded.
    endpoint
        Address of the hub.
    """

    def __init__(self, repo_id: str, revision: str | None, endpoint: str) -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.endpoint = endpoint
        self.folder: Path | None = None

    @property
    def command(self) -> str:
        """What a person types elsewhere to get the same files."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"`hf download {self.repo_id}{revision}`"

    def refuse_offline(self) -> None:
        """Say at once that nothing can be downloaded when the client was told to stay offline."""
        if is_offline():
            raise self.of_fault(HubFault("offline", "HF_HUB_OFFLINE is set"))

    def bad_name(self) -> ManagedModelDownloadError:
        """The id or the revision is none."""
        revision = f"@{self.revision}" if self.revision else ""
        return self._error(
            f"{f'{self.repo_id}{revision}'!r} names no repository on the hub.",
            "Write org/name, or org/name@revision.",
        )

    def no_weights(self) -> ManagedModelDownloadError:
        """Nothing in the repository can be loaded."""
        gap = "The repository has neither model.safetensors nor an index of shards nor GGUF."
        return self._error(
            f"{self.repo_id} has no weights that can be loaded.",
            "Use a safetensors version of the model.",
            [gap],
        )

    def no_gguf(self, name: str, names: Sequence[str]) -> ManagedModelDownloadError:
        """The GGUF file that was asked for is not there."""
        here = ", ".join(names) or "none"
        return self._error(
            f"{self.repo_id} has no GGUF file {name!r}; it has: {here}.", "Name one of these."
        )

    def many_ggufs(self, names: Sequence[str]) -> ManagedModelDownloadError:
        """There are several GGUF files to choose from."""
        return self._error(
            f"{self.repo_id} has {len(names)} GGUF files and no safetensors: {', '.join(names)}.",
            f"Get one with `hf download {self.repo_id} {names[0]}`, then load its path.",
        )

    def of_disk(self, error: OSError) -> OllmError:
        """The place of the files cannot be written."""
        fault = explain(error)
        if fault.kind == "disk":
            return self.of_fault(fault)
        return self._error(
            f"The files of {self.repo_id} cannot be put at {self.folder}: {fault.text}.",
            "Choose another models_dir, or make it writable.",
        )

    def incomplete(self, gaps: Sequence[str]) -> ManagedModelDownloadError:
        """What came is not a whole model."""
        return self._error(
            f"The files of {self.repo_id} at {self.folder} are not complete, {len(gaps)} "
            f"gap{'s' if len(gaps) > 1 else ''}: {' '.join(gaps)}",
            _AGAIN,
            gaps,
        )

    def of_transfers(self, failed: Iterable[Transfer]) -> OllmError:
        """Some files did not come."""
        failed = list(failed)
        faults = [transfer for transfer in failed if transfer.fault is not None]
        gaps = [_gap(transfer) for transfer in sorted(failed, key=lambda t: t.file.name)]
        for transfer in faults:
            if transfer.fault is not None and transfer.fault.is_fatal():
                missing = sum(item.file.size_bytes - item.done_bytes for item in failed)
                return self.of_fault(transfer.fault, gaps, missing)
        host = host_of(self.endpoint)
        count = f"{len(gaps)} file{'s' if len(gaps) > 1 else ''}"
        return self._error(
            f"{count} of {self.repo_id} could not be fetched from {host}: {' '.join(gaps)}",
            _AGAIN,
            gaps,
        )

    def of_fault(  # noqa: PLR0911  (one case a fault)
        self, fault: HubFault, gaps: Sequence[str] = (), missing_bytes: int = 0
    ) -> OllmError:
        """Say what a failed request means for the person who asked for the model."""
        repo, host = self.repo_id, host_of(self.endpoint)
        page = f"{self.endpoint}/{repo}"
        match fault.kind:
            case "gated":
                return GatedModelError(
                    f"{repo} asks for its licence to be accepted first ({fault.text}).",
                    repo_id=repo,
                    folder=self.folder,
                    gaps=gaps,
                    hint=f"Ask for access at {page}, log in with `hf auth login`, then load again.",
                )
            case "missing":
                return self._error(
                    f"{host} has no repository {repo} that you may see ({fault.text}).",
                    "Check its spelling; if it is private, log in with `hf auth login`.",
                    gaps,
                )
            case "no-revision":
                return self._error(
                    f"{repo} has no revision {self.revision or 'main'!r}.",
                    f"Its branches and tags are at {page}/tree/main.",
                    gaps,
                )
            case "refused":
                return self._error(
                    f"{host} refuses access to {repo} ({fault.text}).",
                    f"See {page}; the login may lack the permission (`hf auth login`).",
                    gaps,
                )
            case "offline":
                return self._error(
                    f"{repo} cannot be downloaded from {host}: {fault.text}.",
                    f"Unset HF_HUB_OFFLINE, or get it elsewhere once with {self.command}.",
                    gaps,
                )
            case "unreachable":
                return self._error(
                    f"{host} cannot be reached from here ({fault.text}), so {repo} cannot be "
                    "downloaded.",
                    f"Check the connection, or get it where there is one with {self.command}.",
                    gaps,
                )
            case "disk":
                return OutOfMemory(
                    f"The disk with {self.folder} is full; {repo} is not complete.",
                    tier="disk",
                    needed_bytes=missing_bytes,
                    free_bytes=0,
                    hint="Free some disk space, then download again; what is here is kept.",
                )
        return self._error(f"{host} did not list the files of {repo}: {fault.text}.", _AGAIN, gaps)

    def _error(
        self, message: str, hint: str, gaps: Sequence[str] = ()
    ) -> ManagedModelDownloadError:
        return ManagedModelDownloadError(
            message, repo_id=self.repo_id, folder=self.folder, gaps=gaps, hint=hint
        )


def _gap(transfer: Transfer) -> str:
    file = transfer.file
    why = transfer.fault.text if transfer.fault else "not fetched"
    return f"{file.name}: {why} ({transfer.done_bytes:,} of {file.size_bytes:,} bytes)."
