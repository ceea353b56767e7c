"""What processes do to a store of bytes: records whose content follows from their tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

# Imported by what is forked from, so that a process writes as soon as it starts.
import ollm_widgets.kv.layouts.chunks
import ollm_widgets.kv.layouts.journal
import ollm_widgets.kv.layouts.pages
import ollm_widgets.kv.layouts.segments  # noqa: F401
from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.persistent.archive import BlockArchive, NewBlock, NewPart, ParentGone
from ollm_widgets.kv.persistent.blocks import StoredBlock
from ollm_widgets.kv.persistent.chain import ChainBlock, chain_of, pack_ids, root_hash
from ollm_widgets.planning.kv_presets import KVLayout

KIND = "bytes"
ROOT = root_hash("a model", KIND)
_GROUP = 3


def payload_of(block: ChainBlock) -> bytes:
    """A record of 2 to 50 kB that no other block has."""
    chance = random.Random(block.hash)
    return block.hash + chance.randbytes(chance.randrange(2_000, 50_000))


def conversation(seed: int) -> list[int]:
    """Token ids; many begin alike, some are continued by others."""
    chance = random.Random(seed)
    turns = [chance.randrange(3) for _ in range(1 + chance.randrange(4))]
    ids: list[int] = []
    for depth in range(1, 1 + len(turns)):
        words = random.Random(repr(turns[:depth]))
        ids += [words.randrange(50_000) for _ in range(40 + words.randrange(160))]
    return ids


def save(archive: BlockArchive, ids: Sequence[int]) -> bool:
    """Write what is not there yet, a few blocks at a time, as a save of a cache does."""
    chain = chain_of(ROOT, pack_ids(ids))
    kind = archive.kind_number(KIND)
    found = archive.find(chain)
    parent = found[-1].number if found else None
    pin = None if parent is None else archive.pin(parent)
    if parent is not None and pin is None:
        return False
    try:
        for start in range(len(found), len(chain), _GROUP):
            group = chain[start : start + _GROUP]
            new = [NewBlock(block, (NewPart("tokens", 0, payload_of(block)),)) for block in group]
            if not archive.make_room([len(block.parts[0].payload) for block in new]):
                return False
            numbers = archive.add(kind, parent, new)
            parent = numbers[-1]
            before, pin = pin, archive.pin(parent)
            if before is not None:
                archive.unpin(before)
            if pin is None:
                return False
    except ParentGone:
        return False
    finally:
        if pin is not None:
            archive.unpin(pin)
    return True


def check(archive: BlockArchive, ids: Sequence[int]) -> int:
    """Read what is there of a conversation; a wrong byte is an error. Gives the blocks read."""
    found = archive.find(chain_of(ROOT, pack_ids(ids)))
    pin = archive.pin(found[-1].number) if found else None
    if pin is None:
        return 0
    try:
        for count, block in enumerate(found):
            if not reads_right(archive, block):
                return count
    finally:
        archive.unpin(pin)
    return len(found)


def reads_right(archive: BlockArchive, block: StoredBlock) -> bool:
    """Whether a record can be read; forgotten if not."""
    part = block.parts["tokens"]
    memory = bytearray(part.extent.size)
    try:
        archive.read([(part, memory)])
    except KVPageError:
        archive.forget(block.number, part)
        return False
    if bytes(memory) != payload_of(block.chain):
        raise AssertionError(f"block {block.chain.hash.hex()} has the bytes of something else")
    return True


def write_until_killed(
    folder: Path, layout: KVLayout, limit_bytes: int, seed: int, sender: Connection
) -> None:
    """Save conversations one after the other; tells each before it begins and after it."""
    chance = random.Random(seed)
    archive = BlockArchive(folder, layout, limit_bytes)
    while True:
        number = chance.randrange(10_000)
        sender.send((number, False))
        save(archive, conversation(number))
        sender.send((number, True))


def operate(
    folder: Path,
    layout: KVLayout,
    limit_bytes: int,
    seed: int,
    operations: int,
    sender: Connection,
) -> None:
    """Save and read at random; sends what went wrong, or how much was read and saved."""
    chance = random.Random(seed)
    read = saved = 0
    try:
        archive = BlockArchive(folder, layout, limit_bytes)
        for _ in range(operations):
            ids = conversation(chance.randrange(10_000))
            match chance.randrange(20):
                case 0:
                    archive.close()
                    archive = BlockArchive(folder, layout, limit_bytes)
                case number if number < 9:
                    saved += save(archive, ids)
                case _:
                    read += check(archive, ids)
        archive.close()
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
        raise
    sender.send((read, saved))
