"""Writing what a cache holds and a store does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ollm_widgets.errors import KVPageError, OutOfMemory
from ollm_widgets.kv.codecs import PageCodec
from ollm_widgets.kv.contents import held_tokens, read_tokens
from ollm_widgets.kv.persistent.archive import BlockArchive, NewBlock, NewPart, ParentGone
from ollm_widgets.kv.persistent.blocks import StoredBlock
from ollm_widgets.kv.persistent.chain import ChainBlock, chain_of, shared_tokens
from ollm_widgets.kv.persistent.index import is_damage, is_full
from ollm_widgets.kv.persistent.kinds import STATE, CacheKind, PageGroup
from ollm_widgets.kv.persistent.pages import (
    RecordPlan,
    encode_records,
    header_of,
    plan_record,
)
from ollm_widgets.kv.persistent.states import encode_state
from ollm_widgets.models.job_control import CancelFlag, Progress, report

if TYPE_CHECKING:
    from transformers import Cache

STAGE = "Save KV cache"
# What is encoded and written at once, and visible from then on.
_BATCH_BYTES = 32 << 20
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What a save did.

    Parameters
    ----------
    tokens
        How many tokens from the first on are in the store now.
    new_blocks, written_bytes
        What was not there before.
    reason
        Why it ended early; empty where everything is saved.
    """

    tokens: int
    new_blocks: int = 0
    written_bytes: int = 0
    reason: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all tokens are in the store."""
        return not self.reason


def tokens_in(cache: Cache, kind: CacheKind) -> int | None:
    """How many tokens a cache holds; None where only states could tell.

    Raises
    ------
    ValueError
        When its layers do not agree.
    """
    counts = {held_tokens(cache, pages.layer) for group in kind.groups for pages in group.layers}
    if len(counts) > 1:
        raise ValueError(f"The layers of the cache hold different tokens: {sorted(counts)}.")
    return counts.pop() if counts else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A record that a block lacks."""

    group: PageGroup
    first: int
    plan: RecordPlan


@dataclass(frozen=True, slots=True)
class _Lack:
    """What of a block has to be written."""

    chain: ChainBlock
    records: tuple[_Wanted, ...]
    state: bool

    @property
    def bytes(self) -> int:
        return sum(wanted.plan.size for wanted in self.records)


class PrefixWriter:
    """Saves one cache.

    Parameters
    ----------
    archive
        Where to.
    kind
        Of the cache.
    root
        Hash with which its chains begin.
    codec
        Of the pages.
    cache
        What is read; it must not change meanwhile.
    """

    def __init__(
        self,
        archive: BlockArchive,
        kind: CacheKind,
        root: bytes,
        codec: PageCodec,
        cache: Cache,
    ) -> None:
        self._archive = archive
        self._kind = kind
        self._root = root
        self._codec = codec
        self._cache = cache
        self._written_bytes = 0
        self._new_blocks = 0
        self._saved_tokens = 0

    def save(
        self, ids: bytes, progress: Progress | None = None, cancel: CancelFlag | None = None
    ) -> SaveResult:
        """Write the blocks of packed token ids that are not there yet.

        Raises
        ------
        sqlite3.DatabaseError
            When the index is damaged.
        """
        chain = chain_of(self._root, ids)
        reason = "Other processes kept removing what this conversation begins with."
        try:
            for _ in range(_ATTEMPTS):
                try:
                    reason = self._save(chain, progress, cancel)
                except ParentGone:
                    continue
                break
        except (OutOfMemory, KVPageError) as error:
            reason = str(error)
        except sqlite3.Error as error:
            if is_damage(error):
                raise
            reason = "The disk is full." if is_full(error) else f"The index is in use: {error}."
        return SaveResult(self._saved_tokens, self._new_blocks, self._written_bytes, reason)

    def _save(
        self, chain: Sequence[ChainBlock], progress: Progress | None, cancel: CancelFlag | None
    ) -> str:
        """Write what is missing; gives why not all of it was."""
        number = self._archive.kind_number(self._kind.text)
        found = self._archive.find(chain)
        self._saved_tokens = found[-1].chain.stop if found else 0
        if self._ends_inside_another(number, chain, found):
            self._saved_tokens = chain[-1].stop
            return ""
        lacks = self._lacks(chain, found)
        total = sum(lack.bytes for lack in lacks)
        done = 0
        # Of the last block so far; a batch may also add records to earlier ones.
        parent = found[-1].number if found else None
        pin = None if parent is None else self._archive.pin(parent)
        if parent is not None and pin is None:
            raise ParentGone
        try:
            for batch in _batches(lacks):
                if cancel is not None and cancel.is_set():
                    return "It was cancelled."
                sizes = [wanted.plan.size for lack in batch for wanted in lack.records]
                size = sum(sizes)
                if not self._archive.make_room(sizes):
                    return (
                        f"The store may not grow: {size:,} bytes more are over its limit, with "
                        "what is in use."
                    )
                start, stop = batch[0].chain.start, batch[-1].chain.stop
                before = [block.number for block in found if block.chain.stop == start]
                last = self._write(number, before[0] if before else parent, batch)
                if stop > self._saved_tokens:
                    parent, self._saved_tokens = last, stop
                    pin, old = self._archive.pin(last), pin
                    if old is not None:
                        self._archive.unpin(old)
                done += size
                report(progress, STAGE, done, total)
            if len(found) < len(chain):
                self._drop_superseded(number, chain[: len(found) + 1])
        finally:
            if pin is not None:
                self._archive.unpin(pin)
        return ""

    def _ends_inside_another(
        self, number: int, chain: Sequence[ChainBlock], found: Sequence[StoredBlock]
    ) -> bool:
        """Whether the last block, a short one, is the beginning of one that is there."""
        last = chain[-1]
        if len(found) != len(chain) - 1 or self._kind.has_states or self._kind.windows:
            return False
        parent = found[-1] if found else None
        return any(
            shared_tokens(block.chain.ids, last.ids) == last.tokens
            for block in self._archive.following(number, parent, self._root)
        )

    def _lacks(self, chain: Sequence[ChainBlock], found: Sequence[StoredBlock]) -> list[_Lack]:
        """What has to be written, block by block; those that lack nothing are left out."""
        tokens = chain[-1].stop
        lacks: list[_Lack] = []
        for position, block in enumerate(chain):
            stored = found[position] if position < len(found) else None
            records = tuple(self._wanted(block, stored, tokens))
            state = (
                self._kind.has_states
                and block is chain[-1]
                and (stored is None or STATE not in stored.parts)
            )
            if stored is None or records or state:
                lacks.append(_Lack(block, records, state))
        return lacks

    def _wanted(
        self, block: ChainBlock, stored: StoredBlock | None, tokens: int
    ) -> Iterator[_Wanted]:
        for group in self._kind.groups:
            first = max(group.first_needed(tokens) - block.start, 0)
            present = None if stored is None else stored.parts.get(group.name)
            if first < block.tokens and (present is None or present.first > first):
                plan = plan_record(group, block.tokens - first, self._codec)
                yield _Wanted(group, first, plan)

    def _write(self, number: int, parent: int | None, batch: Sequence[_Lack]) -> int:
        """Write consecutive blocks; gives the number of the last one."""
        parts: list[list[NewPart]] = [[] for _ in batch]
        for wanted, positions in _runs(batch):
            start = batch[positions[0]].chain.start + wanted.first
            data = self._encode(wanted, start, len(positions))
            for position, record in zip(positions, data, strict=True):
                block_hash, name = batch[position].chain.hash, wanted.group.name
                header = header_of(block_hash, name, wanted.first, self._codec.codec_id)
                record[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
                payload = memoryview(record.numpy())
                parts[position].append(NewPart(name, wanted.first, payload))
        for position, lack in enumerate(batch):
            if lack.state:
                state = encode_state(self._cache, lack.chain.hash)
                parts[position].append(NewPart(STATE, 0, state))
        new = [
            NewBlock(lack.chain, tuple(records)) for lack, records in zip(batch, parts, strict=True)
        ]
        numbers = self._archive.add(number, parent, new)
        self._new_blocks += len(new)
        self._written_bytes += sum(
            memoryview(part.payload).nbytes for block in new for part in block.parts
        )
        return numbers[-1]

    def _encode(self, wanted: _Wanted, start: int, count: int) -> torch.Tensor:
        """Consecutive records ``uint8 [count, size]`` in host memory, their headers zero."""
        layer = wanted.plan.places[0].pages.layer
        device = read_tokens(self._cache, layer, start, start + 1)[0].device
        data = torch.zeros((count, wanted.plan.size), dtype=torch.uint8, device=device)
        encode_records(self._cache, wanted.plan, self._codec, start, data)
        if device.type == "cpu":
            return data
        pinned = device.type == "cuda"
        host = torch.empty(data.shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        return host.copy_(data)

    def _drop_superseded(self, number: int, chain: Sequence[ChainBlock]) -> None:
        """Forget short blocks whose place the last block of `chain` has taken."""
        found = self._archive.find(chain)
        if len(found) < len(chain):
            return
        new, parent = found[-1], found[-2] if len(found) > 1 else None
        for old in self._archive.following(number, parent, self._root):
            shorter = old.chain.tokens < new.chain.tokens
            if shorter and new.chain.ids.startswith(old.chain.ids) and _replaces(new, old):
                self._archive.drop_unused(old.number)


def _replaces(new: StoredBlock, old: StoredBlock) -> bool:
    """Whether everything is in one block that is in another with the same first tokens."""
    return all(
        name != STATE and name in new.parts and new.parts[name].first <= part.first
        for name, part in old.parts.items()
    )


def _batches(lacks: Sequence[_Lack]) -> Iterator[list[_Lack]]:
    """Consecutive blocks that are written at once."""
    batch: list[_Lack] = []
    size = 0
    for lack in lacks:
        apart = bool(batch) and batch[-1].chain.stop != lack.chain.start
        if apart or (batch and size + lack.bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(lack)
        size += lack.bytes
    if batch:
        yield batch


def _runs(batch: Sequence[_Lack]) -> Iterator[tuple[_Wanted, list[int]]]:
    """Records that can be encoded at once, and which blocks of the batch they are of."""
    names = dict.fromkeys(each.group.name for lack in batch for each in lack.records)
    for name in names:
        run: list[int] = []
        of_run: _Wanted | None = None
        for position, lack in enumerate(batch):
            wanted = next((each for each in lack.records if each.group.name == name), None)
            joins = run and run[-1] == position - 1 and wanted == of_run
            if of_run is not None and not (joins and not of_run.first):
                yield of_run, run
                run = []
            of_run = wanted
            if wanted is not None:
                run.append(position)
        if of_run is not None:
            yield of_run, run
