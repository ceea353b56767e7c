"""From token ids to pieces of text that never split a character nor leak a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"


class IncrementalDecoder:
    """Decodes a growing list of tokens, linear in its length.

    A token's text depends on its neighbours (spaces, bytes of one character), so each step
    decodes from a fixed earlier token and gives what is new; it holds back while the text
    ends inside a character.

    Parameters
    ----------
    decode
        The text of some tokens, without special ones.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._anchor = 0  # first token of the text decoded again each step
        self._shown = 0  # tokens whose text has been given out

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; return the text that became certain, possibly empty."""
        self._tokens.extend(tokens)
        return self._advance(final=False)

    def flush(self) -> str:
        """Return what was held back, at the end of an answer."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._text(self._tokens[self._anchor : self._shown])
        after = self._text(self._tokens[self._anchor :])
        if not final and (after.endswith(REPLACEMENT) or len(after) <= len(before)):
            return ""
        self._anchor = self._shown
        self._shown = len(self._tokens)
        return after[len(before) :]

    def _text(self, tokens: list[int]) -> str:
        return self._decode(tokens) if tokens else ""


class StopScanner:
    """Cuts a stream of text at the first stop string.

    Text that may be the beginning of a stop string is held back until it is clear.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Add text; return what may be shown. Sets `found` at a stop string."""
        if self.found:
            return ""
        text = self._held + text
        cuts = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if cuts:
            self.found, self._held = True, ""
            return text[: min(cuts)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; the answer ended without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(
        (
            size
            for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        ),
        0,
    )
