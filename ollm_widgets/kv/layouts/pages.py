"""Slots of a fixed size in one file; freed slots are used again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.records import Extent

_FREE, _TAKEN = 0, 1
# A file is cut when so much at its end is free; less would only be grown again.
SHRINK_BYTES = 16 << 20


class Pages(PlacedRecords):
    """A record takes a slot, or as many adjacent ones as it needs; the lowest free ones.

    Parameters
    ----------
    folder, writer
        See `open_layout`.
    slot_bytes
        Of a slot.
    """

    suffix = ".pages"

    def __init__(self, folder: Path, writer: str, slot_bytes: int) -> None:
        if slot_bytes < 1:
            raise ValueError(f"A slot needs at least one byte, not {slot_bytes}.")
        super().__init__(folder, writer)
        self._slot_bytes = slot_bytes
        # A byte a slot, for each file whose slots can be used again.
        self._slots: dict[str, bytearray] = {}
        self._own: str | None = None

    def _place(self, size: int) -> tuple[str, int]:
        count = self._slots_for(size)
        for name, slots in self._slots.items():
            first = slots.find(bytes(count))
            if first >= 0:
                return self._take(name, first, count)
        if self._own is None:
            self._own = self._new_file()
            self._slots[self._own] = bytearray()
        # The free slots at the end, if any, are too few but a beginning.
        slots = self._slots[self._own]
        first = len(slots.rstrip(bytes([_FREE])))
        slots.extend(bytes(first + count - len(slots)))
        return self._take(self._own, first, count)

    def _take(self, name: str, first: int, count: int) -> tuple[str, int]:
        slots = self._slots[name]
        slots[first : first + count] = bytes([_TAKEN]) * count
        self._sizes[name] = len(slots) * self._slot_bytes
        return name, first * self._slot_bytes

    def _freed(self, extent: Extent) -> None:
        if not self._live_in[extent.file]:
            self._slots.pop(extent.file, None)
            if extent.file == self._own:
                self._own = None
            self._drop_file(extent.file)
        elif extent.file in self._slots:
            slots = self._slots[extent.file]
            first, count = extent.offset // self._slot_bytes, self._slots_for(extent.size)
            slots[first : first + count] = bytes(count)
            self._shrink(extent.file)

    def _shrink(self, name: str) -> None:
        slots = self._slots[name]
        used = len(slots.rstrip(bytes([_FREE])))
        if (len(slots) - used) * self._slot_bytes >= SHRINK_BYTES:
            del slots[used:]
            self._sizes[name] = used * self._slot_bytes
            # A file that cannot be cut is only longer than it need be.
            with suppress(OSError), self._files.use(name, write=True) as file:
                file.truncate(self._sizes[name])

    def _adopted(self, name: str) -> None:
        extents = [extent for extent in self._live.values() if extent.file == name]
        if any(extent.offset % self._slot_bytes for extent in extents):
            return  # written with slots of another size: it goes when nothing in it lives
        slots = bytearray(self._slots_for(self._sizes[name]))
        for extent in extents:
            first, count = extent.offset // self._slot_bytes, self._slots_for(extent.size)
            slots[first : first + count] = bytes([_TAKEN]) * count
        self._slots[name] = slots

    def _room(self, size: int) -> int:
        return self._slots_for(size) * self._slot_bytes

    def _slots_for(self, size: int) -> int:
        return -(-size // self._slot_bytes)
