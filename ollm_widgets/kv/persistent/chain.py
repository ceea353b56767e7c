"""Token ids as a chain of blocks, each named by a hash over all tokens up to its end.

``hash = blake2b-16(hash of the block before + token ids as little-endian int32)``, so a block is
found again under any prompt that begins with the same tokens, and under no other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

BLOCK_TOKENS = 64
HASH_BYTES = 16
_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class ChainBlock:
    """Consecutive tokens and what they follow.

    Parameters
    ----------
    hash
        Over everything up to the block's end.
    start
        Tokens before it.
    ids
        Its token ids, packed.
    """

    hash: bytes
    start: int
    ids: bytes

    @property
    def tokens(self) -> int:
        """How many tokens it has: `BLOCK_TOKENS`, fewer in the last one."""
        return len(self.ids) // _ID_BYTES

    @property
    def stop(self) -> int:
        """Tokens up to its end."""
        return self.start + self.tokens


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as little-endian int32.

    Raises
    ------
    ValueError
        When one is no int32.
    """
    try:
        return struct.pack(f"<{len(ids)}i", *ids)
    except struct.error as error:
        raise ValueError(f"Token ids must be whole numbers below 2^31: {error}.") from error


def root_hash(*names: str) -> bytes:
    """Name what a chain begins with: the model, and how its cache is cut into records."""
    digest = blake2b(digest_size=HASH_BYTES)
    for name in names:
        digest.update(len(name).to_bytes(8, "little") + name.encode())
    return digest.digest()


def chain_of(root: bytes, ids: bytes, start: int = 0) -> list[ChainBlock]:
    """Cut packed token ids into blocks; the last one may be short.

    Parameters
    ----------
    root
        Hash before the first block.
    ids
        From `pack_ids`.
    start
        Tokens before them.
    """
    blocks: list[ChainBlock] = []
    parent = root
    for offset in range(0, len(ids), BLOCK_TOKENS * _ID_BYTES):
        part = ids[offset : offset + BLOCK_TOKENS * _ID_BYTES]
        parent = blake2b(parent + part, digest_size=HASH_BYTES).digest()
        blocks.append(ChainBlock(parent, start + offset // _ID_BYTES, part))
    return blocks


def shared_tokens(one: bytes, other: bytes) -> int:
    """How many tokens two runs of packed ids have in common from their first."""
    size = min(len(one), len(other))
    differing = int.from_bytes(one[:size], "little") ^ int.from_bytes(other[:size], "little")
    if not differing:
        return size // _ID_BYTES
    lowest_bit = (differing & -differing).bit_length() - 1
    return lowest_bit // (8 * _ID_BYTES)
