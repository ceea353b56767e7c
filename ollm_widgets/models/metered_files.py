"""The files of a repository on the hub, read within a limit of bytes and as long as wanted."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ollm_widgets.errors import HubUnavailableError
from ollm_widgets.models.hub_faults import host_of
from ollm_widgets.models.hub_files import HubFiles
from ollm_widgets.models.job_control import CancelFlag, raise_if_cancelled
from ollm_widgets.render.units import format_bytes


class MeteredFiles(HubFiles):
    """The files of one commit, of which only so many bytes are asked for.

    Parameters
    ----------
    repo_id, commit, endpoint, sizes
        See `HubFiles`.
    limit_bytes
        Bytes that all reading together may ask for; ``None`` for no limit.
    cancel
        Looked at before each request.
    """

    def __init__(
        self,
        repo_id: str,
        commit: str,
        endpoint: str,
        sizes: Mapping[str, int],
        *,
        limit_bytes: int | None = None,
        cancel: CancelFlag | None = None,
    ) -> None:
        super().__init__(repo_id, commit, endpoint, sizes)
        self._host = host_of(endpoint)
        self._limit_bytes = limit_bytes
        self._asked_bytes = 0
        self._lock = threading.Lock()  # headers of several shards are read at once
        self._cancel = cancel

    def read_start(self, name: str, limit_bytes: int) -> bytes:
        """First bytes of a file, at most `limit_bytes`.

        Raises
        ------
        HubUnavailableError
            When that would go beyond what may be read in all.
        Cancelled
            When `cancel` was set.
        """
        raise_if_cancelled(self._cancel, f"Reading {self.place}")
        with self._lock:
            self._asked_bytes += min(limit_bytes, self.size_bytes(name) + 1)
            beyond = self._limit_bytes is not None and self._asked_bytes > self._limit_bytes
        if beyond:
            raise HubUnavailableError(
                f"What {self.place} says of itself is more than the "
                f"{format_bytes(self._limit_bytes or 0)} that a list reads of a model.",
                host=self._host,
                hint="Choose it to read all of it.",
            )
        return super().read_start(name, limit_bytes)
