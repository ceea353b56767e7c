"""What keys and values depend on besides the tokens: the model, bit for bit, and its setting.

Whoever has the same fingerprint may read the same pages. It is made without torch and without
reading weights whole, so it costs milliseconds; where it errs, it errs towards computing again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from ollm_widgets import settings
from ollm_widgets.errors import OllmError
from ollm_widgets.models.digests import known_digest
from ollm_widgets.models.tensors import read_safetensors_header

FORMAT_VERSION = 1

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SAMPLE_BYTES = 256
# In all files together: a random read of a cold disk takes a tenth of a millisecond.
_SAMPLES = 256
_MOST_HEADER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that decides which bits a token's keys and values have.

    Parameters
    ----------
    model
        The model's name, for people; no part of the digest.
    weights, config, adapter
        Digests of the weight files, of ``config.json`` and of the adapter; the last may be empty.
    dtype, device
        What the cache holds, ``float32``; the kind of device that computes, ``cpu`` or ``cuda``.
    codec
        How pages are encoded.
    attention
        What else attention depends on: ``exact``, or the name and figures of a strategy whose
        keys and values are not those of full attention in full precision.
    libraries
        transformers' version, without its patch number.
    format_version
        Of the store.
    """

    model: str
    weights: str
    config: str
    adapter: str
    dtype: str
    device: str
    codec: str
    attention: str
    libraries: str
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over everything but the name."""
        fields = asdict(self)
        del fields["model"]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint_of(
    model_path: Path,
    *,
    model: str,
    dtype: str,
    device: str,
    codec: str = "full",
    adapter_dir: Path | None = None,
    attention: str = "exact",
    digests: Sequence[Path] | None = None,
) -> Fingerprint:
    """Identify a model by its files.

    Parameters
    ----------
    model_path
        Folder with safetensors, or one weight file.
    model
        Name for people.
    dtype, device, codec, attention
        See `Fingerprint`; of ``cuda:1`` only the kind counts, and of ``torch.float32`` the name.
    adapter_dir
        Folder of the adapter that is laid over the model.
    digests
        Files that remember hashes of whole files (`models.digests`); None is that of downloads.

    Raises
    ------
    OSError
        When a file cannot be read.
    """
    memories = _default_memories() if digests is None else tuple(digests)
    return Fingerprint(
        model=model,
        weights=_files_digest(model_path, memories),
        config=_config_digest(model_path, "config.json"),
        adapter="" if adapter_dir is None else _adapter_digest(adapter_dir, memories),
        dtype=dtype.removeprefix("torch."),
        device=device.partition(":")[0],
        codec=codec,
        attention=attention,
        libraries=".".join(version("transformers").split(".")[:2]),
    )


def _default_memories() -> tuple[Path, ...]:
    return (settings.cache_dir() / "downloads" / "digests.json",)


def _adapter_digest(folder: Path, memories: tuple[Path, ...]) -> str:
    both = _files_digest(folder, memories) + _config_digest(folder, "adapter_config.json")
    return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()


def _config_digest(model_path: Path, name: str) -> str:
    path = model_path / name
    content = path.read_bytes() if path.is_file() else b""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _files_digest(model_path: Path, memories: tuple[Path, ...]) -> str:
    """Digest of every weight file: its name, its size, and what tells its content."""
    if model_path.is_file():
        files = [(model_path.name, model_path)]
    else:
        files = sorted(
            (path.relative_to(model_path).as_posix(), path)
            for path in model_path.rglob("*.safetensors")
        )
    samples = _SAMPLES // max(len(files), 1) + 1
    digest = hashlib.blake2b(digest_size=16)
    for name, path in files:
        whole = f"{name}\n{path.stat().st_size}\n{_content_of(path, memories, samples)}\n"
        digest.update(whole.encode())
    return digest.hexdigest()


def _content_of(path: Path, memories: tuple[Path, ...], samples: int) -> str:
    # The hub's cache names what it holds by its hash, and a snapshot links to it.
    target = path.resolve()
    if target != path and target.parent.name == "blobs" and _BLOB.fullmatch(target.name):
        return f"etag {target.name}"
    for memory in memories:
        known = known_digest(path, memory)
        if known is not None:
            return f"sha256 {known}"
    # Samples miss a change in between, which the time of the last write tells.
    return f"written {path.stat().st_mtime_ns} sampled {_sampled(path, samples)}"


def _sampled(path: Path, samples: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        head = file.read(8)
        header_bytes = min(int.from_bytes(head, "little"), size, _MOST_HEADER_BYTES)
        digest.update(head + _read_at(file, 8, header_bytes))
        for offset in _offsets(path, size, 8 + header_bytes, samples):
            digest.update(_read_at(file, offset, _SAMPLE_BYTES))
    return digest.hexdigest()


def _offsets(path: Path, size: int, data: int, samples: int) -> list[int]:
    """Places to look at: the middle of tensors, as many as allowed, and the file's end."""
    middles: list[int] = []
    try:
        for header in read_safetensors_header(path):
            middles.append(data + header.size_bytes // 2)
            data += header.size_bytes
    except OllmError:
        # Not safetensors: as good as any are places at equal distances.
        middles = [size * step // samples for step in range(samples)]
    stride = -(-len(middles) // samples) if middles else 1
    return [*middles[::stride], max(size - _SAMPLE_BYTES, 0)]


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    parts = []
    while count:
        part = file.read(count)
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
