"""The files of a repository on the hub: small ones whole, of the weights only the headers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ollm_widgets.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.config_file import MAX_CONFIG_BYTES, JSONObject, parse_json_object
from ollm_widgets.models.hub_requests import request_headers
from ollm_widgets.models.tensors import TensorHeader, parse_safetensors_header

MAX_FILES = 10_000
MAX_SHARDS = 1_000
MAX_JSON_BYTES = 50_000_000
# The largest that huggingface_hub reads, too (constants.SAFETENSORS_MAX_HEADER_LENGTH).
MAX_HEADER_BYTES = 25_000_000
# Nearly all headers are smaller, so that one request brings them.
_FIRST_BYTES = 100_000
_WORKERS = 8


class HubFiles:
    """The files of one commit; what was read once is kept.

    Parameters
    ----------
    repo_id, commit
        The repository and its commit.
    endpoint
        Address of the hub.
    sizes
        Bytes of each file, by name.
    """

    def __init__(self, repo_id: str, commit: str, endpoint: str, sizes: Mapping[str, int]) -> None:
        if len(sizes) > MAX_FILES:
            raise UnsafeModelError(f"{repo_id} has more than {MAX_FILES:,} files.")
        self._repo_id = repo_id
        self._commit = commit
        self._endpoint = endpoint
        self._sizes = dict(sizes)
        self._objects: dict[str, JSONObject] = {}
        self._headers: dict[str, tuple[TensorHeader, ...] | UnsupportedModelError] = {}

    @property
    def place(self) -> str:
        """The repository's id."""
        return self._repo_id

    def names(self) -> tuple[str, ...]:
        """Names of the files right at the top, sorted."""
        return tuple(sorted(name for name in self._sizes if "/" not in name))

    def has(self, name: str) -> bool:
        """Whether the repository lists the file."""
        return name in self._sizes

    def size_bytes(self, name: str) -> int:
        """Bytes of a file; 0 when it is not there."""
        return self._sizes.get(name, 0)

    def read_json(self, name: str, limit_bytes: int = MAX_CONFIG_BYTES) -> JSONObject:
        """Read one of the repository's JSON files, of at most 50 MB."""
        if name not in self._objects:
            limit_bytes = min(limit_bytes, MAX_JSON_BYTES)
            source = f"{self._repo_id}/{name}"
            if self.size_bytes(name) > limit_bytes:
                raise UnsafeModelError(
                    f"{source} has {self.size_bytes(name):,} bytes; at most {limit_bytes:,} "
                    "are read."
                )
            content = self.read_start(name, limit_bytes + 1)
            if len(content) > limit_bytes:
                raise UnsafeModelError(f"{source} is larger than the hub says.")
            self._objects[name] = parse_json_object(source, content)
        return self._objects[name]

    def tensor_headers(self, name: str) -> tuple[TensorHeader, ...]:
        """Read the header of one of the repository's safetensors files."""
        if name not in self._headers:
            self._headers[name] = self._read_headers(name)
        found = self._headers[name]
        if isinstance(found, UnsupportedModelError):
            raise found
        return found

    def fetch_headers(self, names: Sequence[str]) -> None:
        """Read the headers of several files at once, for `tensor_headers` to give."""
        from concurrent.futures import ThreadPoolExecutor

        if len(names) > MAX_SHARDS:
            raise UnsafeModelError(
                f"{self._repo_id} has {len(names):,} shards; at most {MAX_SHARDS:,} are read."
            )
        present = [name for name in names if self.has(name)]
        if not present:
            return
        with ThreadPoolExecutor(min(_WORKERS, len(present))) as pool:
            try:
                found = list(pool.map(self._read_headers, present))
            finally:
                pool.shutdown(cancel_futures=True)
        self._headers.update(zip(present, found, strict=True))

    def read_start(self, name: str, limit_bytes: int) -> bytes:
        """First bytes of a file, at most `limit_bytes`, whatever the hub sends."""
        from huggingface_hub import constants, get_session, hf_raise_for_status

        headers = request_headers()
        headers["Accept-Encoding"] = "identity"
        headers["Range"] = f"bytes=0-{limit_bytes - 1}"
        content = bytearray()
        with get_session().stream(
            "GET",
            f"{self._endpoint}/{self._repo_id}/resolve/{self._commit}/{quote(name)}",
            headers=headers,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            follow_redirects=True,
        ) as response:
            if response.status_code == 416 and self.size_bytes(name) == 0:
                return b""
            hf_raise_for_status(response)
            for piece in response.iter_raw():
                content += piece[: limit_bytes - len(content)]
                if len(content) >= limit_bytes:
                    break
        return bytes(content)

    def _read_headers(self, name: str) -> tuple[TensorHeader, ...] | UnsupportedModelError:
        source, size_bytes = f"{self._repo_id}/{name}", self.size_bytes(name)
        content = self.read_start(name, _FIRST_BYTES)
        header_bytes = int.from_bytes(content[:8], "little")
        if len(content) < 8 + header_bytes <= min(size_bytes, 8 + MAX_HEADER_BYTES):
            content = self.read_start(name, 8 + header_bytes)
            if len(content) < 8 + header_bytes:
                return MalformedModelError(f"{source} is shorter than the hub says.")
        try:
            return parse_safetensors_header(
                source, io.BytesIO(content).read, size_bytes, MAX_HEADER_BYTES
            )
        except UnsupportedModelError as error:
            return error
