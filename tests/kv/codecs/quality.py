"""How much a model's next-token distributions change when the cold part of its cache is encoded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from ollm_widgets.kv.codecs import PageCodec, PageShape

PAGE_TOKENS = 64
HOT_TOKENS = 64

# Prose of Python's language reference, which comes with every Python.
_TOPICS = ("execmodel", "objects", "import", "exceptions", "naming", "specialnames", "typesmapping")


def english_ids(tokenizer: Any, tokens: int, windows: int) -> list[torch.Tensor]:
    """Real English text, cut into pieces ``[1, tokens]`` that do not overlap."""
    from pydoc_data.topics import topics

    text = re.sub(r" +", " ", "\n".join(topics[name] for name in _TOPICS if name in topics))
    ids = tokenizer(text, return_tensors="pt").input_ids
    pieces = [ids[:, first : first + tokens] for first in range(0, ids.shape[1], tokens)]
    whole = [piece for piece in pieces if piece.shape[1] == tokens]
    if len(whole) < windows:
        raise ValueError(f"{windows} windows of {tokens} tokens wanted, the text has {len(whole)}")
    return whole[:windows]


@dataclass(frozen=True, slots=True)
class Drift:
    """What an encoded cache changes, over some positions.

    Parameters
    ----------
    kl
        Of each position's distribution from the exact one, in nats, ``[positions]``.
    perplexity, exact_perplexity
        Of the text at these positions.
    same_best
        Share of positions with the same most likely token.
    """

    kl: torch.Tensor
    perplexity: float
    exact_perplexity: float
    same_best: float

    @property
    def perplexity_change(self) -> float:
        """Relative; 0.01 is one percent more."""
        return self.perplexity / self.exact_perplexity - 1


class TeacherForced:
    """The exact distributions of some texts, and those with an encoded cache.

    A context is read exactly; the rest comes a page at a time, as a conversation grows, and
    before each page all but the last `HOT_TOKENS` tokens before it are encoded and decoded.

    Parameters
    ----------
    model
        On any device.
    texts
        Token ids ``[1, context_tokens + positions]`` each, the rest whole pages.
    context_tokens
        Read at once, at the beginning.
    """

    def __init__(
        self, model: PreTrainedModel, texts: Sequence[torch.Tensor], context_tokens: int
    ) -> None:
        self._model = model
        self._context_tokens = context_tokens
        self._texts = [text.to(model.device) for text in texts]
        self._contexts = [self._read_context(text) for text in self._texts]
        self._exact = [
            self._continued(text, context, None, 0)
            for text, context in zip(self._texts, self._contexts, strict=True)
        ]

    def drift(self, codec: PageCodec, *, exact_tokens: int = 0) -> Drift:
        """Measure a codec.

        Parameters
        ----------
        codec
            Of the cold pages.
        exact_tokens
            At the beginning of the text, that stay in full precision; whole pages.
        """
        divergences: list[torch.Tensor] = []
        losses: list[torch.Tensor] = []
        exact_losses: list[torch.Tensor] = []
        same: list[torch.Tensor] = []
        for text, context, exact in zip(self._texts, self._contexts, self._exact, strict=True):
            found = self._continued(text, context, codec, exact_tokens)
            divergences.append((exact.exp() * (exact - found)).sum(-1))
            same.append(exact.argmax(-1) == found.argmax(-1))
            targets = text[0, self._context_tokens + 1 :, None]
            losses.append(-found[:-1].gather(1, targets))
            exact_losses.append(-exact[:-1].gather(1, targets))
        return Drift(
            kl=torch.cat(divergences),
            perplexity=math.exp(torch.cat(losses).mean()),
            exact_perplexity=math.exp(torch.cat(exact_losses).mean()),
            same_best=torch.cat(same).float().mean().item(),
        )

    @torch.no_grad()
    def _read_context(self, text: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cache = DynamicCache(config=self._model.config)
        self._model(text[:, : self._context_tokens], past_key_values=cache, logits_to_keep=1)
        layers: list[Any] = list(cache.layers)
        return [(layer.keys, layer.values) for layer in layers]

    @torch.no_grad()
    def _continued(
        self,
        text: torch.Tensor,
        context: list[tuple[torch.Tensor, torch.Tensor]],
        codec: PageCodec | None,
        exact_tokens: int,
    ) -> torch.Tensor:
        """Log-probabilities ``[positions, vocabulary]`` after the context."""
        cache = DynamicCache(config=self._model.config)
        for number, (keys, values) in enumerate(context):
            cache.update(keys.clone(), values.clone(), number)
        logits: list[torch.Tensor] = []
        encoded = exact_tokens
        for start in range(self._context_tokens, text.shape[1], PAGE_TOKENS):
            cold = (start - HOT_TOKENS) // PAGE_TOKENS * PAGE_TOKENS
            if codec is not None and cold > encoded:
                for layer in cache.layers:
                    for page in _pages(layer, encoded, cold):
                        _through(codec, *page)
                encoded = cold
            piece = text[:, start : start + PAGE_TOKENS]
            logits.append(self._model(piece, past_key_values=cache).logits[0].float())
        return torch.log_softmax(torch.cat(logits), -1)


def _pages(layer: Any, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views of keys and values, a page each."""
    for first in range(start, stop, PAGE_TOKENS):
        page = slice(first, first + PAGE_TOKENS)
        yield layer.keys[:, :, page], layer.values[:, :, page]


def _through(codec: PageCodec, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Encode and decode a page in place."""
    shape = PageShape.of(keys, values)
    data = torch.empty(codec.encoded_bytes(shape), dtype=torch.uint8, device=keys.device)
    codec.encode(keys, values, data)
    codec.decode(data, shape, keys, values)
