"""Text from a model, a file or the hub, made harmless for a terminal that obeys what it prints.

A terminal, and the output of a notebook's cell too, takes some characters for orders: to clear
the screen, to name the window, to write over what stands there, to put links on words, to turn
the direction of a line. Each such character is replaced by a sign that can be seen, so that
nothing acts and nothing is hidden. One character is judged at a time: an order that is cut
between two pieces of a stream is as harmless as one that came whole.
"""

from __future__ import annotations

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_FIRST_PICTURE = 0x2400  # Unicode's pictures of the control characters, in their order
_DELETE, _PICTURE_OF_DELETE = 0x7F, "\N{SYMBOL FOR DELETE}"
_KEPT = frozenset(map(ord, "\t\n\r"))  # of carriage returns, ends of lines are made

# Embeddings, overrides and isolates of the bidirectional algorithm, which can show a text in an
# order in which it is not; the marks that Hebrew and Arabic need do no such thing and stay.
_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))

_SHOWN: dict[int, str] = {
    **{code: chr(_FIRST_PICTURE + code) for code in range(0x20) if code not in _KEPT},
    _DELETE: _PICTURE_OF_DELETE,
    **dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT),
    **dict.fromkeys(_DIRECTIONS, _REPLACEMENT),
    # Half of a surrogate pair, which a file's name may hold, could not be written at all.
    **dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT),
}


class TerminalText:
    """Makes the pieces of a stream harmless, one after the other."""

    __slots__ = ("_after_return",)

    def __init__(self) -> None:
        self._after_return = False

    def feed(self, piece: str) -> str:
        """Return the next piece as it may be printed.

        Lines end with a line feed alone, also where a carriage return and its line feed came in
        two pieces.
        """
        if self._after_return and piece.startswith("\n"):
            piece, self._after_return = piece[1:], False
        if not piece:
            return ""
        self._after_return = piece.endswith("\r")
        return piece.replace("\r\n", "\n").replace("\r", "\n").translate(_SHOWN)


def harmless(text: str) -> str:
    """Return a text of one or several lines as it may be printed."""
    return TerminalText().feed(text)
