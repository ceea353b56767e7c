"""Prompts that begin alike had better meet the same cache: hashes of what a prompt begins with.

A client has no tokenizer, so what is compared is the text of the messages. The same beginning
gives the same hashes in every process.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate

# A beginning this short saves nothing worth a walk.
SHORTEST_CHARACTERS = 256
# Of a long conversation the latest messages tell it from others.
MOST_MESSAGES = 16
# A host's memory of prompts; some 250 bytes each.
MOST_SEEN = 4096


def beginnings(prompt: object) -> tuple[str, ...]:
    """Return the hashes of a prompt's beginnings, the longest first.

    It is cut after each of the last `MOST_MESSAGES` messages, so that a conversation that goes on
    is known again, and after 256, 512, 1024, ... characters, so that questions about the same
    long text are. An image counts as its address or its bytes.

    Parameters
    ----------
    prompt
        A text, or messages with ``role`` and ``content``. Of anything else something comes too: to
        refuse it is the host's.
    """
    if not isinstance(prompt, Sequence):
        return ()
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    written = [_written(message) for message in messages]
    ends = list(accumulate(map(len, written)))
    cuts = {*ends[-MOST_MESSAGES:], *_doublings(ends[-1] if ends else 0)}
    long_enough = sorted(cut for cut in cuts if cut >= SHORTEST_CHARACTERS)
    return tuple(reversed([*_hashes("".join(written), long_enough)]))


def _doublings(length: int) -> Iterator[int]:
    cut = SHORTEST_CHARACTERS
    while cut < length:
        yield cut
        cut *= 2


def _hashes(text: str, cuts: Sequence[int]) -> Iterator[str]:
    """Yield the hash of each beginning; each goes on from the one before."""
    digest, start = blake2b(digest_size=16), 0
    for cut in cuts:
        digest.update(text[start:cut].encode("utf-8", "surrogatepass"))
        yield digest.copy().hexdigest()
        start = cut


def _written(message: object) -> str:
    """Write a message as JSON, whose separators keep roles, parts and messages apart."""
    if not isinstance(message, Mapping):
        return repr(type(message))
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = content if isinstance(content, Sequence) else [content]
    return json.dumps([str(message.get("role")), [_part(part) for part in parts]], sort_keys=True)


def _part(part: object) -> dict[str, str] | str:
    if not isinstance(part, Mapping):
        return _value(part)
    return {str(name): _value(value) for name, value in part.items()}


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return blake2b(value, digest_size=16).hexdigest()
    return value if isinstance(value, str) else repr(value)


class SeenPrefixes:
    """The beginnings that were sent to a host, those of the last prompts.

    Parameters
    ----------
    most
        How many it remembers; the one that was sent longest ago goes first.
    """

    def __init__(self, most: int = MOST_SEEN) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, key: str, hashes: Iterable[str]) -> None:
        """Note that a prompt with these beginnings was sent to a model."""
        for one in hashes:
            self._seen[key, one] = None
            self._seen.move_to_end((key, one))
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def longest(self, key: str, hashes: Sequence[str]) -> int:
        """Return how many of the hashes are left from the first that was seen on; 0 for none.

        Parameters
        ----------
        hashes
            The longest first.
        """
        for at, one in enumerate(hashes):
            if (key, one) in self._seen:
                return len(hashes) - at
        return 0
