"""The attention mask of one chunk of a prompt, out of the mask of the whole."""

from __future__ import annotations

import weakref

import torch

from ollm_widgets.weights.prefill.causal_rows import CausalRows

_Spans = tuple[tuple[int, int, int, int], ...]


class CausalMasks:
    """Causal masks of the chunks of one prompt, shared by the layers that its pass goes through.

    Every chunk's mask is a window of one strip, as which columns a row sees only depends on its
    distance from them; the strip takes ``rows * (reach + rows)`` bytes over a growing cache, and
    up to twice that over a static one.
    """

    def __init__(self) -> None:
        self._strip: torch.Tensor | None = None
        self._reach = 0

    def of(
        self, rows: int, columns: int, visible: int, *, reach: int, device: torch.device
    ) -> torch.Tensor | None:
        """Give the mask of a chunk.

        Parameters
        ----------
        rows
            Tokens of the chunk.
        columns
            Keys that the cache returns for it.
        visible
            Of these, the first ones that its last token sees.
        reach
            The most columns that a chunk of this prompt has.

        Returns
        -------
        torch.Tensor or None
            Bool ``[1, 1, rows, columns]``; None where every key is seen.
        """
        if rows == 1 and columns == visible:
            return None
        if device.type == "cuda":
            return CausalRows.of(rows, columns, visible, device)
        past = visible - rows
        strip = self._strip
        if strip is None or not self._covers(strip, rows, past, columns, device):
            # Row i of the strip sees its first reach + i + 1 columns.
            width = reach + columns - past
            strip = torch.ones(rows, width, dtype=torch.bool, device=device).tril_(reach)
            self._strip, self._reach = strip, reach
        start = self._reach - past
        return strip[:rows, start : start + columns][None, None]

    def _covers(
        self, strip: torch.Tensor, rows: int, past: int, columns: int, device: torch.device
    ) -> bool:
        start = self._reach - past
        fits = rows <= strip.shape[0] and start >= 0 and start + columns <= strip.shape[1]
        return fits and strip.device == device

    def clear(self) -> None:
        """Let go of the strip."""
        self._strip, self._reach = None, 0


class SeenOutside:
    """Remembers, while a prompt passes the layers, whether its masks can be cut into chunks'."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], _Spans, bool]] = {}

    def any(self, mask: torch.Tensor, spans: _Spans) -> bool:
        """Whether a token sees a key that its chunk has not got.

        Parameters
        ----------
        mask
            Bool or additive, ``[batch, heads, seq, columns]``.
        spans
            For each chunk ``(start, end, first, beyond)``: its rows, its first column, and the
            column behind its last.
        """
        known = self._known.get(id(mask))
        if known is not None and known[0]() is mask and known[1] == spans:
            return known[2]
        answers = [_seen(mask[:, :, start:end, :first]) for start, end, first, _ in spans]
        answers += [_seen(mask[:, :, start:end, beyond:]) for start, end, _, beyond in spans]
        outside = bool(torch.stack(answers).any())
        self._known[id(mask)] = (weakref.ref(mask), spans, outside)
        return outside

    def clear(self) -> None:
        """Forget the masks."""
        self._known.clear()


def _seen(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return mask.any()
    return (mask > torch.finfo(mask.dtype).min / 2).any()
