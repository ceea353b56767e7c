"""Host memory that an accelerator copies from at full speed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ollm_widgets.errors import OutOfMemory
from ollm_widgets.weights.cuda import lock_pages, unlock_pages
from ollm_widgets.weights.pages import (
    PAGE_BYTES,
    give_to_children,
    keep_from_children,
    map_pages,
)


class HostBuffer:
    """A buffer of exactly the bytes asked for, page-locked once it is filled.

    torch's own pinned memory rounds each allocation up to a power of two. Pages are locked after
    the bytes have been read into them: locking memory that is there costs a fraction of making it.

    Parameters
    ----------
    size_bytes
        Bytes of the buffer.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        whole = -(-max(size_bytes, 1) // PAGE_BYTES) * PAGE_BYTES
        try:
            self._map = map_pages(whole)
        except (OSError, ValueError) as error:
            raise _refused(size_bytes) from error
        self.tensor = torch.frombuffer(self._map, dtype=torch.uint8, count=size_bytes or 1)
        self._whole_bytes = whole
        self._unlock: Callable[[], object] | None = None

    def lock(self) -> None:
        """Lock the pages for copies by CUDA; calling it again does nothing.

        Raises
        ------
        OutOfMemory
            If the system refuses to lock them.
        """
        if self._unlock is not None:
            return
        address = self.tensor.data_ptr()
        if not lock_pages(address, self._whole_bytes):
            raise _refused(self.size_bytes)
        self._unlock = lambda: unlock_pages(address)
        keep_from_children(self._map)

    def close(self) -> None:
        """Unlock the pages and let them go once no tensor looks at them."""
        unlock, self._unlock = self._unlock, None
        if unlock is not None:
            unlock()
            give_to_children(self._map)
        self.tensor = torch.empty(0, dtype=torch.uint8)


def _refused(size_bytes: int) -> OutOfMemory:
    import psutil

    free_bytes = int(psutil.virtual_memory().available)
    return OutOfMemory(
        f"The system refuses {size_bytes / 2**30:.2f} GiB more of host memory; "
        f"{free_bytes / 2**30:.1f} GiB are available.",
        tier="host",
        needed_bytes=size_bytes,
        free_bytes=free_bytes,
        hint="Keep fewer layers in host memory (offload_cpu_layers), or raise `ulimit -l`.",
    )
