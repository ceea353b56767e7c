"""Which files a repository on the hub has, with their sizes and content hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from ollm_widgets.errors import UnsafeModelError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LIST_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository.

    Parameters
    ----------
    name
        Path in the repository, with forward slashes.
    size_bytes
        Its size.
    digest
        SHA-256 of a large file (64 digits), git's blob hash of a small one (40 digits): the
        names that the hub's cache gives to its blobs.
    """

    name: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class HubListing:
    """The files of a repository at one commit.

    Parameters
    ----------
    repo_id, commit
        The repository, and the commit that the revision means now.
    endpoint
        Address of the hub.
    files
        Its files by name.
    """

    repo_id: str
    commit: str
    endpoint: str
    files: Mapping[str, HubFile]

    def url(self, file: HubFile) -> str:
        """Address of a file's content at this commit."""
        return f"{self.endpoint}/{self.repo_id}/resolve/{self.commit}/{quote(file.name)}"


def list_files(repo_id: str, revision: str | None, endpoint: str) -> HubListing:
    """Ask the hub for the files of a repository; one request.

    Raises
    ------
    UnsafeModelError
        When a name would leave the folder that it is put in.
    Exception
        What ``huggingface_hub`` raises; see `ollm_widgets.models.hub_faults.explain`.
    """
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint, library_name="ollm-widgets").model_info(
        repo_id, revision=revision, files_metadata=True, timeout=_LIST_TIMEOUT_S
    )
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise ValueError("the hub's reply names no commit")
    files = {}
    for sibling in info.siblings or ():
        _refuse_outside(repo_id, sibling.rfilename)
        digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        size_bytes = sibling.lfs.size if sibling.lfs else sibling.size
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"the hub's reply gives no content hash of {sibling.rfilename!r}")
        if not isinstance(size_bytes, int) or size_bytes < 0:
            raise ValueError(f"the hub's reply gives no size of {sibling.rfilename!r}")
        files[sibling.rfilename] = HubFile(sibling.rfilename, size_bytes, digest)
    return HubListing(repo_id, info.sha, endpoint, files)


def is_safe_revision(revision: str) -> bool:
    """Whether a revision can name a file in the cache's folder of branches, and no other."""
    parts = revision.split("/")
    return (
        revision.isprintable()
        and not set(revision) & set('\\:*?"<>|')
        and all(part.strip(".") for part in parts)
    )


def _refuse_outside(repo_id: str, name: object) -> None:
    if isinstance(name, str) and name.isprintable() and not set(name) & set("\\:"):
        path = PurePosixPath(name)
        if name and not path.is_absolute() and ".." not in path.parts and str(path) == name:
            return
    raise UnsafeModelError(
        f"{repo_id} lists the file {name!r}, which would lie outside the model's folder.",
        hint="Do not use this model; get it from a source you trust.",
    )
