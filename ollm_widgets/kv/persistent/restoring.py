"""Putting stored keys and values back into an empty cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, TypeAlias

import torch

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.codecs import PageCodec
from ollm_widgets.kv.contents import (
    append_tokens,
    grows_in_place,
    held_tokens,
    place_window,
    reserve_tokens,
    restore_special_state,
)
from ollm_widgets.kv.persistent.archive import BlockArchive
from ollm_widgets.kv.persistent.blocks import Part, StoredBlock
from ollm_widgets.kv.persistent.chain import BLOCK_TOKENS
from ollm_widgets.kv.persistent.kinds import TOKENS, LayerPages, PageGroup
from ollm_widgets.kv.persistent.matching import Resumption
from ollm_widgets.kv.persistent.pages import plan_record
from ollm_widgets.kv.persistent.reading import (
    Arrival,
    DamagedRecord,
    LayerStates,
    RecordReader,
    RecordRun,
    run_records,
)
from ollm_widgets.kv.persistent.states import decode_state
from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled, report

if TYPE_CHECKING:
    from transformers import Cache

DeviceOf: TypeAlias = Callable[[int], torch.device]

STAGE = "Restore KV cache"
# Read ahead of a cache that copies what it is given, and so held twice for a moment: on a GPU
# enough for all threads that read, in room that the prompt's own pass does not need now.
_COPIED_BYTES = {"cpu": 32 << 20, "cuda": 384 << 20}
_SPANS_UNDER_WAY = 2


def require_empty(cache: Cache) -> None:
    """Refuse a cache that holds tokens.

    Raises
    ------
    ValueError
        Saying how many.
    """
    layers = range(len(cache.layers))
    tokens = max(
        (
            held_tokens(cache, layer)
            for layer in layers
            if hasattr(cache.layers[layer], "get_seq_length")
        ),
        default=0,
    )
    if tokens:
        raise ValueError(f"The cache to be filled holds {tokens} tokens already.")


class PrefixReader:
    """Restores one prefix.

    Parameters
    ----------
    archive
        Where from.
    codec
        Of the pages.
    found
        What to restore.
    cache
        An empty one, which what was found fits.
    device_of
        Where a layer computes.
    """

    def __init__(
        self,
        archive: BlockArchive,
        codec: PageCodec,
        found: Resumption,
        cache: Cache,
        device_of: DeviceOf,
    ) -> None:
        self._archive = archive
        self._codec = codec
        self._found = found
        self._cache = cache
        self._device_of = device_of
        self._done = 0

    def restore(self, progress: Progress | None = None, cancel: CancelFlag | None = None) -> None:
        """Fill the cache.

        Raises
        ------
        DamagedRecord
            When a record is not there as it was written. The cache may hold something then.
        Cancelled
            When `cancel` was set; the same.
        """
        total = self._found.bytes

        def done(size: int) -> None:
            self._done += size
            report(progress, STAGE, self._done, total)
            raise_if_cancelled(cancel, STAGE)

        raise_if_cancelled(cancel, STAGE)
        tokens = self._found.tokens
        state = self._state()
        with RecordReader(self._archive, self._codec) as reader:
            windows: list[tuple[PageGroup, LayerStates]] = []
            for group in self._found.kind.groups:
                if group.name != TOKENS:
                    states = self._empty(group, tokens - group.first_needed(tokens))
                    reader.read(self._runs(group, group.first_needed(tokens), tokens, states), done)
                    windows.append((group, states))
            for group in self._found.kind.groups:
                if group.name == TOKENS:
                    self._restore_tokens(reader, group, done)
        for _, states in windows:
            for layer, (keys, values) in states.items():
                place_window(self._cache, layer, keys, values, tokens)
        restore_special_state(self._cache, state)

    def _restore_tokens(
        self, reader: RecordReader, group: PageGroup, done: Callable[[int], None]
    ) -> None:
        """Write tokens where they stay, and append those of layers that keep copies.

        Of these, one span is read while another is decoded and appended.
        """
        rooms = self._rooms(group)
        under_way: deque[tuple[LayerStates, Arrival]] = deque()

        def append_first() -> None:
            states, arrival = under_way.popleft()
            arrival.finish(done)
            for layer, (keys, values) in states.items():
                if layer not in rooms:
                    append_tokens(self._cache, layer, keys, values)

        for start, stop in self._spans(group, rooms):
            if len(under_way) == _SPANS_UNDER_WAY:
                append_first()
            states = {
                layer: (keys[:, :, start:stop], values[:, :, start:stop])
                for layer, (keys, values) in rooms.items()
            }
            states |= self._empty(group, stop - start, without=rooms)
            under_way.append((states, reader.begin(self._runs(group, start, stop, states))))
        while under_way:
            append_first()

    def _rooms(self, group: PageGroup) -> LayerStates:
        """Where all tokens go, of the layers that have one place for them."""
        rooms = {}
        for pages in group.layers:
            like = self._empty_pages(pages, 0)
            room = reserve_tokens(self._cache, pages.layer, *like, self._found.tokens)
            if room is not None:
                rooms[pages.layer] = room
        return rooms

    def _state(self) -> dict[str, torch.Tensor]:
        """What stands for all tokens, on the devices of its layers."""
        if self._found.state is None:
            return {}
        block, part = self._found.state
        record = self._record(block, part)
        try:
            state = decode_state(record, block.chain.hash)
        except KVPageError as error:
            raise DamagedRecord(block, part) from error
        return {
            name: tensor.to(self._device_of(int(name.partition(".")[0])))
            for name, tensor in state.items()
        }

    def _record(self, block: StoredBlock, part: Part) -> bytearray:
        try:
            self._archive.require_there(part)
            record = bytearray(part.extent.size)
            self._archive.read([(part, record)])
        except KVPageError as error:
            raise DamagedRecord(block, part) from error
        return record

    def _spans(self, group: PageGroup, rooms: LayerStates) -> Iterator[tuple[int, int]]:
        """Ranges of tokens that are read and handed over at once."""
        tokens = self._found.tokens
        step = tokens
        # An empty layer may take the tensors themselves, but appending copies all again.
        if not all(
            pages.layer in rooms or grows_in_place(self._cache, pages.layer)
            for pages in group.layers
        ):
            places = plan_record(group, BLOCK_TOKENS, self._codec).places
            block_bytes = sum(place.shape.raw_bytes for place in places)
            device = self._device_of(group.layers[0].layer)
            copied_bytes = _COPIED_BYTES.get(device.type, _COPIED_BYTES["cpu"])
            step = max(1, copied_bytes // block_bytes) * BLOCK_TOKENS
        for start in range(0, tokens, step):
            yield start, min(start + step, tokens)

    def _empty(self, group: PageGroup, tokens: int, without: Container[int] = ()) -> LayerStates:
        return {
            pages.layer: self._empty_pages(pages, tokens)
            for pages in group.layers
            if pages.layer not in without
        }

    def _empty_pages(self, pages: LayerPages, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        dtype, device = getattr(torch, pages.dtype), self._device_of(pages.layer)
        keys = torch.empty((1, pages.heads, tokens, pages.key_width), dtype=dtype, device=device)
        values = torch.empty(
            (1, pages.heads, tokens, pages.value_width), dtype=dtype, device=device
        )
        return keys, values

    def _runs(
        self, group: PageGroup, start: int, stop: int, states: LayerStates
    ) -> list[RecordRun]:
        """What to read for the tokens from `start` to `stop`, which `states` has room for."""
        records = [
            (block, part)
            for block, part in self._found.records(group)
            if block.chain.start < stop and block.chain.stop > start
        ]
        runs: list[RecordRun] = []
        while records:
            block, part = records[0]
            plan = plan_record(group, block.chain.tokens - part.first, self._codec)
            most = 1 if part.first else run_records(self._device_of(group.layers[0].layer), plan)
            alike = takewhile(partial(_are_alike, records[0]), records)
            run = tuple(islice(alike, most))
            first = block.chain.start + part.first
            begin, end = max(first, start), min(run[-1][0].chain.stop, stop)
            span = slice(begin - start, end - start)
            outs = {
                layer: (keys[:, :, span], values[:, :, span])
                for layer, (keys, values) in states.items()
            }
            runs.append(RecordRun(run, plan, outs, begin - first))
            records = records[len(run) :]
        return runs


def _are_alike(one: tuple[StoredBlock, Part], other: tuple[StoredBlock, Part]) -> bool:
    """Whether two records have the same plan."""
    return (one[0].chain.tokens, one[1].first) == (other[0].chain.tokens, other[1].first)
