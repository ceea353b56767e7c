"""Where every tensor of a checkpoint lies on disk, and whether its files are still the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ollm_widgets.errors import CheckpointChangedError, MalformedModelError
from ollm_widgets.models.tensors import (
    INDEX_NAME,
    SINGLE_NAME,
    read_safetensors_header,
    read_shard_names,
)

_LOAD_AGAIN = "Load the model again to use the files as they are now."


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor of a checkpoint and the bytes that hold it.

    Parameters
    ----------
    name
        Name in the checkpoint.
    path
        File.
    offset_bytes, size_bytes
        First byte in the file, and how many.
    dtype
        Torch's name, e.g. ``"bfloat16"``.
    shape
        Dimensions, row-major.
    """

    name: str
    path: Path
    offset_bytes: int
    size_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a file from another of the same name, or from itself before a change."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity that a `stat` or an `fstat` tells."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class CheckpointIndex:
    """The tensors of a model folder, found in the headers of its safetensors files.

    Parameters
    ----------
    spans
        Every tensor by its name in the checkpoint.
    identities
        Every file as it was when its header was read.
    """

    spans: Mapping[str, TensorSpan]
    identities: dict[Path, FileIdentity]

    @classmethod
    def of(cls, folder: Path) -> CheckpointIndex:
        """Index a folder: the shards its index file names, its one file, or all it has.

        Parameters
        ----------
        folder
            Model folder with safetensors files.

        Raises
        ------
        MalformedModelError
            When there are no weights, a header is damaged, or two files hold the same tensor and
            no index file says which counts.
        UnsafeModelError
            When the index file names a file outside the folder.
        """
        listed: Mapping[str, str] = {}
        if (folder / INDEX_NAME).is_file():
            shards = read_shard_names(folder)
            listed = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
            names: Iterable[str] = shards
        elif (folder / SINGLE_NAME).is_file():
            names = (SINGLE_NAME,)
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors"))
        spans: dict[str, TensorSpan] = {}
        identities: dict[Path, FileIdentity] = {}
        for name in names:
            path = folder / name
            for span in _spans_of(path, identities):
                other = spans.get(span.name)
                if other is None or listed.get(span.name) == name:
                    spans[span.name] = span
                elif span.name not in listed:
                    raise MalformedModelError(
                        f"Both {other.path} and {path} hold the tensor {span.name!r}.",
                        hint="Remove the file that does not belong to the model.",
                    )
        if not spans:
            raise MalformedModelError(
                f"{folder} has no safetensors weights: neither {SINGLE_NAME} nor {INDEX_NAME}.",
                hint="Convert the model to safetensors, or get it in that format.",
            )
        return cls(spans, identities)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(span.size_bytes for span in self.spans.values())

    def add_file(self, path: Path) -> None:
        """Watch another file, as it is now, like those of the checkpoint."""
        self.identities[path] = FileIdentity.of(path.stat())

    def require_unchanged(self, path: Path) -> None:
        """Check that a file of the index is still the one whose header was read.

        Raises
        ------
        CheckpointChangedError
            When the file is gone, or its inode, size or time of modification differ.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise CheckpointChangedError(
                f"{path} can no longer be reached: {error.strerror}.",
                hint="Put the file back, or load the model again.",
            ) from error
        self.require_same(path, status)

    def require_same(self, path: Path, status: os.stat_result) -> None:
        """Check the `stat` or `fstat` of a file against what was indexed.

        Raises
        ------
        CheckpointChangedError
            See `require_unchanged`.
        """
        known, found = self.identities[path], FileIdentity.of(status)
        if found == known:
            return
        if found.size_bytes != known.size_bytes:
            change = f"it had {known.size_bytes:,} bytes and now has {found.size_bytes:,}"
        elif (found.device, found.inode) != (known.device, known.inode):
            change = "another file of the same size took its place"
        else:
            change = "it was written to"
        raise CheckpointChangedError(
            f"{path} changed while the model was in use: {change}.", hint=_LOAD_AGAIN
        )


def _spans_of(path: Path, identities: dict[Path, FileIdentity]) -> Iterable[TensorSpan]:
    # Taken before the header is read, so that a file replaced in between is noticed at first use.
    if path.is_file():
        identities[path] = FileIdentity.of(path.stat())
    headers = read_safetensors_header(path)
    # The header's check admits no gap and no byte after the last tensor.
    position = identities[path].size_bytes - sum(header.size_bytes for header in headers)
    for header in headers:
        yield TensorSpan(header.name, path, position, header.size_bytes, header.dtype, header.shape)
        position += header.size_bytes
