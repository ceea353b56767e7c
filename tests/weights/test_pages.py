"""Memory for weights is made of large pages where the system has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ollm_widgets.weights import pinned
from ollm_widgets.weights.pages import PAGE_BYTES, map_pages
from ollm_widgets.weights.pinned import HostBuffer

_MAPPINGS = Path("/proc/self/smaps")
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_at(address: int) -> list[str]:
    """What the kernel says of the mapping of this process that holds an address."""
    inside = False
    for line in _MAPPINGS.read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


def test_memory_is_zeroed_and_as_large_as_asked_for() -> None:
    mapped = map_pages(3 * PAGE_BYTES)
    assert len(mapped) == 3 * PAGE_BYTES
    assert not any(mapped[:: PAGE_BYTES // 2])
    mapped[-1] = 7
    assert mapped[-1] == 7


on_linux = pytest.mark.skipif(
    not _MAPPINGS.exists() or not _ENABLED.exists(), reason="Linux with large pages says"
)


@on_linux
def test_a_buffer_for_weights_asks_for_large_pages_in_memory_that_gets_them() -> None:
    buffer = HostBuffer(4 * PAGE_BYTES)
    flags = flags_at(buffer.tensor.data_ptr())
    assert "hg" in flags
    # Shared memory has a setting of its own, and that is off on most systems.
    assert "sh" not in flags
    buffer.close()


@on_linux
def test_a_locked_buffer_is_not_copied_to_forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "lock_pages", lambda _address, _size_bytes: True)
    monkeypatch.setattr(pinned, "unlock_pages", lambda _address: None)
    buffer = HostBuffer(PAGE_BYTES)
    held = buffer.tensor
    assert "dc" not in flags_at(held.data_ptr())
    buffer.lock()
    assert "dc" in flags_at(held.data_ptr())
    buffer.close()
    assert "dc" not in flags_at(held.data_ptr())
