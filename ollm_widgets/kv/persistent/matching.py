"""The longest prefix of a prompt that a store can put back into a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ollm_widgets.kv.persistent.archive import BlockArchive
from ollm_widgets.kv.persistent.blocks import Part, StoredBlock
from ollm_widgets.kv.persistent.chain import BLOCK_TOKENS, chain_of, shared_tokens
from ollm_widgets.kv.persistent.kinds import STATE, TOKENS, CacheKind, PageGroup

_BLOCK_BYTES = BLOCK_TOKENS * 4


@dataclass(frozen=True, slots=True)
class StoredKind:
    """A kind of cache as a store knows it.

    Parameters
    ----------
    number
        In the index.
    kind
        What its layers keep.
    root
        Hash with which its chains begin.
    """

    number: int
    kind: CacheKind
    root: bytes


@dataclass(frozen=True, slots=True)
class Resumption:
    """Blocks from which a cache of so many tokens can be made.

    Parameters
    ----------
    kind
        What the cache was that they were saved from.
    path
        From the first block on.
    tokens
        How many tokens; the last block may have more.
    """

    kind: CacheKind
    path: tuple[StoredBlock, ...]
    tokens: int

    def records(self, group: PageGroup) -> list[tuple[StoredBlock, Part]]:
        """The records of a group that are needed, in order."""
        first = group.first_needed(self.tokens)
        return [(block, block.parts[group.name]) for block in self.path if block.chain.stop > first]

    @property
    def state(self) -> tuple[StoredBlock, Part] | None:
        """The record of states, where there are any."""
        block = self.path[-1]
        return (block, block.parts[STATE]) if self.kind.has_states else None

    @property
    def bytes(self) -> int:
        """What has to be read."""
        needed = [part for group in self.kind.groups for _, part in self.records(group)]
        needed += [self.state[1]] if self.state else []
        return sum(part.extent.size for part in needed)


def find_resumption(archive: BlockArchive, stored: StoredKind, ids: bytes) -> Resumption | None:
    """Find the longest prefix of packed token ids for one kind of cache."""
    whole = ids[: len(ids) // _BLOCK_BYTES * _BLOCK_BYTES]
    found = archive.find(chain_of(stored.root, whole))
    for path, tokens in _candidates(archive, stored, found, ids):
        if tokens and _is_complete(stored.kind, path, tokens):
            return Resumption(stored.kind, path, tokens)
    return None


def _candidates(
    archive: BlockArchive, stored: StoredKind, found: Sequence[StoredBlock], ids: bytes
) -> Iterator[tuple[tuple[StoredBlock, ...], int]]:
    """Ways to cover a prefix, the longest first."""
    # Where every token can be resumed from, what is behind the last whole block is enough; else
    # the end of an earlier save may lie in any block.
    anywhere = not stored.kind.has_states and not stored.kind.windows
    for depth in range(len(found), -1, -1):
        path = tuple(found[:depth])
        if depth == len(found) or not anywhere:
            rest = ids[depth * _BLOCK_BYTES :]
            parent = path[-1] if path else None
            ends = [
                (shared_tokens(block.chain.ids, rest), block)
                for block in archive.following(stored.number, parent, stored.root)
            ]
            for shared, block in sorted(ends, key=lambda end: end[0], reverse=True):
                if shared < BLOCK_TOKENS:
                    yield (*path, block), depth * BLOCK_TOKENS + shared
        yield path, depth * BLOCK_TOKENS


def _is_complete(kind: CacheKind, path: Sequence[StoredBlock], tokens: int) -> bool:
    """Whether every record is there that a cache of so many tokens needs."""
    if kind.has_states and (STATE not in path[-1].parts or path[-1].chain.stop != tokens):
        return False
    return all(_covers(block, group, tokens) for group in kind.groups for block in path)


def _covers(block: StoredBlock, group: PageGroup, tokens: int) -> bool:
    """Whether a block has what a group needs of it."""
    first = max(group.first_needed(tokens) - block.chain.start, 0)
    if first >= block.chain.tokens:
        return True
    part = block.parts.get(group.name)
    return part is not None and part.first <= (0 if group.name == TOKENS else first)
