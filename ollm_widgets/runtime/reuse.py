"""What of a prompt is computed already: by the last request, or by one that a store remembers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ollm_widgets.errors import Cancelled

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from ollm_widgets.kv.persistent.store import PrefixStore
    from ollm_widgets.runtime.image_inputs import ImageInputs

# Below this, looking tokens up on disk costs more than computing them.
_WORTH_RESTORING = 32


class SteppedCache(Protocol):
    """The cache that a step runner keeps between requests; see `EagerSteps`."""

    @property
    def cache(self) -> Cache | None:
        """The cache itself; None before the first request."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether the last tokens can be taken back."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens that it holds."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        ...

    def begin(self, batch: int, tokens: int, *, padded: bool = False, keep: int = 0) -> None:
        """Make room for `tokens` of each sequence; continue from the first `keep`."""
        ...

    def resume_at(self, tokens: int) -> None:
        """Go on after `tokens` that the cache was given from elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """Where a request begins.

    Parameters
    ----------
    cache
        The cache to fill, which holds the kept tokens already.
    kept_tokens
        Tokens at the beginning of the prompt that need not be computed.
    restored_tokens
        How many of them came from disk.
    """

    cache: Cache | None
    kept_tokens: int = 0
    restored_tokens: int = 0


class PrefixReuse:
    """The cache of a runtime's last request, continued where the next prompt begins alike.

    Used on the runtime's own thread only, one request at a time: `start`, then `finished` or
    `forget`, then `save`.

    Images are compared by their pixels, and a prompt with images goes on behind the last of them
    or begins anew. What a store remembers is text alone.

    Parameters
    ----------
    cache
        Makes an empty cache; or a cache that somebody holds, and that stays the same one.
    store
        Where prefixes outlive the runtime; None keeps them in memory only.
    """

    def __init__(
        self, cache: Callable[[], Cache] | Cache, store: PrefixStore | None = None
    ) -> None:
        self._make_cache = cache if callable(cache) else None
        self._store = store
        self.cache: Cache | None = None if callable(cache) else cache
        self.last = Start(None)
        self._in_cache: list[int] = []
        self._in_steps: list[int] = []
        self._unsaved: tuple[list[int], Cache] | None = None
        self._images: ImageInputs | None = None

    @property
    def unsaved(self) -> bool:
        """Whether the last request has left something for the store."""
        return self._unsaved is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of what was found on disk."""
        return () if self._store is None else self._store.notes

    # ------------------------------------------------------------------ a request

    def start(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        new_tokens: int,
        steps: SteppedCache | None,
        cancel: threading.Event,
        *,
        images: ImageInputs | None = None,
    ) -> Start:
        """Find what is there of a prompt.

        Parameters
        ----------
        input_ids, attention_mask
            ``[batch, prompt]``; only one sequence without padding is continued from.
        new_tokens
            The most that will follow.
        steps
            What runs the request over a cache of its own; None for `self.cache`.
        cancel
            Ends reading from disk early.
        images
            What the model sees in the prompt.
        """
        import torch

        self.save()
        self._images = images
        alone = input_ids.shape[0] == 1 and bool(attention_mask.all())
        # The last token is always run: its logits choose the next one.
        ids = self._compared(input_ids[0, :-1].tolist()) if alone else []
        # As the passes run, since what they allocated can be written to in this mode only.
        with torch.inference_mode():
            if steps is not None:
                tokens = input_ids.shape[1] + new_tokens - 1
                self.last = self._in_stepped(ids, steps, tokens, cancel)
            else:
                self.last = self._in_own(ids, cancel)
        return self.last

    def finished(self, ids: torch.Tensor, steps: SteppedCache | None) -> None:
        """Note what the cache holds after a request that came to its end.

        Parameters
        ----------
        ids
            ``[batch, tokens]``, the answer included; the last one was never run.
        """
        if ids.shape[0] != 1:
            self.forget()
            return
        cache = self.cache if steps is None else steps.cache
        held = tokens_in(cache) if steps is None else steps.tokens
        known = self._compared(ids[0, :held].tolist())
        if steps is None:
            self._in_cache = known
        else:
            self._in_steps = known
        if self._store is not None and cache is not None and held and self._images is None:
            self._unsaved = (known, cache)

    def cut_short(self, ids: torch.Tensor, new_tokens: int, steps: SteppedCache | None) -> None:
        """Go back to the last pass that all layers have seen, after one that was cancelled.

        Parameters
        ----------
        ids
            ``[batch, tokens]``, with those that were written before the cancel.
        new_tokens
            How many of them were written.
        """
        whole = ids.shape[1] - 1 if new_tokens else self.last.kept_tokens
        cache = self.cache
        if steps is not None or cache is None or ids.shape[0] != 1 or not cache.is_croppable:
            self.forget()
            return
        layers: list[Any] = cache.layers
        try:
            for layer in layers:
                layer.crop(min(whole - int(layer.get_seq_length()), 0))
        except RuntimeError:  # a window has let go of what would be its beginning again
            self.forget()
            return
        self._in_cache = self._compared(ids[0, :whole].tolist())

    def forget(self) -> None:
        """Let go of the cache; the next request begins anew."""
        self._in_cache, self._in_steps = [], []
        self._unsaved = None
        if self.cache is not None:
            self._empty(self.cache)

    def save(self) -> None:
        """Write what the last request has added to the store, where there is one.

        It is not to be cancelled: the answer that led to it is there already.
        """
        unsaved, self._unsaved = self._unsaved, None
        if unsaved is not None and self._store is not None:
            self._store.save(*unsaved)

    def close(self) -> None:
        """Save what is not saved yet, and let go of everything."""
        try:
            self.save()
        finally:
            self.forget()
            store, self._store = self._store, None
            if store is not None:
                store.close()

    # ------------------------------------------------------------------ what is there

    def _in_own(self, ids: list[int], cancel: threading.Event) -> Start:
        held, self._in_cache = self._in_cache, []
        keep = self._kept(held, ids)
        cache = self.cache
        if cache is not None and keep and not _cut(cache, len(held), keep):
            keep = 0
        if not keep:
            cache = self._emptied()

        def into_empty_cache() -> Cache:
            return self._emptied()

        restored = self._restored(ids, keep, into_empty_cache, cancel)
        return Start(self.cache if restored else cache, restored or keep, restored)

    def _in_stepped(
        self, ids: list[int], steps: SteppedCache, tokens: int, cancel: threading.Event
    ) -> Start:
        held, self._in_steps = self._in_steps, []
        keep = 0
        if steps.resumable and steps.tokens == len(held) and tokens <= steps.capacity:
            keep = self._kept(held, ids)

        def into_empty_cache() -> Cache | None:
            steps.begin(1, tokens)
            return steps.cache if steps.resumable else None

        restored = self._restored(ids, keep, into_empty_cache, cancel)
        if restored:
            steps.resume_at(restored)
        return Start(None, restored or keep, restored)

    def _restored(
        self,
        ids: Sequence[int],
        keep: int,
        into_empty_cache: Callable[[], Cache | None],
        cancel: threading.Event,
    ) -> int:
        """Fill an empty cache from disk where that saves tokens; how many it holds then."""
        if self._store is None or self._images is not None:
            return 0
        if len(ids) < keep + _WORTH_RESTORING:
            return 0
        match = self._store.match(ids)
        try:
            if match.tokens < keep + _WORTH_RESTORING:
                return 0
            cache = into_empty_cache()
            return 0 if cache is None else self._store.restore(match, cache, cancel=cancel)
        except Cancelled:  # the cache is empty again, and the request ends before its first layer
            return 0
        finally:
            match.release()

    def _compared(self, ids: list[int]) -> list[int]:
        return ids if self._images is None else self._images.marked(ids)

    def _kept(self, held: Sequence[int], ids: Sequence[int]) -> int:
        """How many tokens two sequences begin with alike, all images among them or none."""
        keep = _common(held, ids)
        return keep if self._images is None or keep >= self._images.stop else 0

    def _emptied(self) -> Cache:
        """The cache, empty."""
        if self.cache is not None:
            self._empty(self.cache)
        if self.cache is None and self._make_cache is not None:
            self.cache = self._make_cache()
        if self.cache is None:
            raise RuntimeError("This cache was closed.")
        return self.cache

    def _empty(self, cache: Cache) -> None:
        if self._make_cache is None:
            cache.reset()  # type: ignore[no-untyped-call]
        else:
            # A new one, as the next request may have another number of sequences.
            self.cache = None
            release(cache)


def release(cache: Cache) -> None:
    """Give back what a cache holds: memory, threads, files."""
    close = getattr(cache, "close", None)
    if close is not None:
        close()
    cache.layers.clear()


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    shorter = min(len(held), len(ids))
    return next((at for at in range(shorter) if held[at] != ids[at]), shorter)


def _cut(cache: Cache, held: int, keep: int) -> bool:
    """Take the last tokens back; False where the cache cannot, which may have changed it."""
    if keep == held:
        return True
    if not cache.is_croppable:
        return False
    try:
        cache.crop(keep - held)
    except RuntimeError:  # a window has let go of what would be its beginning again
        return False
    return True


def tokens_in(cache: Cache | None) -> int:
    """Tokens that a cache holds; 0 for one that cannot tell, as linear attention."""
    try:
        return 0 if cache is None else int(cache.get_seq_length())
    except ValueError:
        return 0
