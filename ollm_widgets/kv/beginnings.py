"""How much of a prompt an earlier prompt has begun with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

BLOCK_TOKENS = 64
_BLOCKS = 8192


class PromptBeginnings:
    """Remembers prompts as a chain of hashes over blocks of tokens, the newest of them.

    A block's hash covers all blocks before it, so a known hash means a known beginning. No token
    is kept.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def note(self, ids: Sequence[int]) -> int:
        """Remember a prompt; how many of its tokens an earlier one began with, in whole blocks."""
        chain: list[bytes] = []
        for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = b"".join(
                token.to_bytes(8, "little") for token in ids[start : start + BLOCK_TOKENS]
            )
            parent = chain[-1] if chain else b""
            chain.append(blake2b(parent + block, digest_size=16).digest())
        known = next((n for n, each in enumerate(chain) if each not in self._known), len(chain))
        # The first block is the newest, so that no beginning goes before what follows it.
        for each in reversed(chain):
            self._known[each] = None
            self._known.move_to_end(each)
        while len(self._known) > _BLOCKS:
            self._known.popitem(last=False)
        return known * BLOCK_TOKENS
