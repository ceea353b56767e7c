"""Running a position-wise part of a model in chunks of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Forward = Callable[..., Any]


def row_chunks(length: int, rows: int) -> list[tuple[int, int]]:
    """Cut `length` tokens into spans of at most `rows`: ``[(start, end), ...]``."""
    return [(start, min(start + rows, length)) for start in range(0, length, rows)]


class RowChunkedMLP:
    """The forward of a position-wise module, run over `rows` tokens at a time.

    Each token's result depends on that token alone, also in a mixture of experts, where the
    router looks at one token; so the chunks give what the whole gives, while what the module
    holds in between (the intermediate of an MLP, the copies of a grouped expert) stays bounded.

    Parameters
    ----------
    forward
        The module's own; takes hidden states ``[batch, seq, hidden]`` first and gives a tensor
        of as many tokens, or a tuple of such, flattened to ``[batch * seq, ...]`` or not.
    rows
        Tokens of a chunk.
    """

    def __init__(self, forward: Forward, rows: int) -> None:
        self._forward = forward
        self._rows = rows

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run in chunks where there are more than `rows` tokens, and nothing else to cut."""
        if not args or not self._splits(args[0], (*args[1:], *kwargs.values())):
            return self._forward(*args, **kwargs)
        hidden, *others = args
        spans = row_chunks(hidden.shape[1], self._rows)
        outputs = _Outputs(hidden)
        for start, end in spans:
            given = self._forward(hidden[:, start:end].contiguous(), *others, **kwargs)
            if not outputs.put(given, start, end):
                return self._forward(*args, **kwargs)
        return outputs.whole()

    def _splits(self, hidden: Any, others: tuple[Any, ...]) -> bool:
        return (
            isinstance(hidden, torch.Tensor)
            and hidden.dim() == 3
            and hidden.shape[1] > self._rows
            and not torch.is_grad_enabled()
            and not any(isinstance(other, torch.Tensor) for other in others)
        )


class _Outputs:
    """Gathers the outputs of chunks, each written once into its place."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self._batch, self._length = hidden.shape[:2]
        self._whole: list[torch.Tensor | None] = []
        self._flat: list[bool] = []
        self._tuple = False

    def put(self, given: Any, start: int, end: int) -> bool:
        """Take one chunk's output; False where it is of a kind that cannot be gathered."""
        self._tuple = isinstance(given, tuple)
        parts = given if self._tuple else (given,)
        if start == 0 and not self._prepare(parts, end):
            return False
        for whole, part in zip(self._whole, parts, strict=True):
            if whole is not None:
                whole[:, start:end] = part.view(self._batch, end - start, *whole.shape[2:])
        return True

    def _prepare(self, parts: tuple[Any, ...], rows: int) -> bool:
        for part in parts:
            if part is None:
                self._whole.append(None)
                self._flat.append(False)
                continue
            if not isinstance(part, torch.Tensor):
                return False
            stacked = part.shape[:2] == (self._batch, rows) and part.dim() > 2
            if not stacked and part.shape[:1] != (self._batch * rows,):
                return False
            tail = part.shape[2:] if stacked else part.shape[1:]
            self._whole.append(part.new_empty((self._batch, self._length, *tail)))
            self._flat.append(not stacked)
        return True

    def whole(self) -> Any:
        """What one call with all tokens would have given."""
        parts = tuple(
            whole.flatten(0, 1) if whole is not None and flat else whole
            for whole, flat in zip(self._whole, self._flat, strict=True)
        )
        return parts if self._tuple else parts[0]
