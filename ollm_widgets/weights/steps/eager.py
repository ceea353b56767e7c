"""Prompts and single tokens through a model, over one cache that is kept between requests."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.errors import OllmError
from ollm_widgets.kv.attention.attending import attending, why_not
from ollm_widgets.kv.attention.launching import kernels
from ollm_widgets.kv.attention.paged_cache import PagedCache, paged_cache, require_pages
from ollm_widgets.kv.attention.room import KVTiers, page_shape, room_for
from ollm_widgets.weights.steps.experts import decode_experts
from ollm_widgets.weights.steps.fixed_cache import FixedCache, fixed_cache
from ollm_widgets.weights.steps.waiting import CannotCapture

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

_SMALLEST_CAPACITY = 512
_LARGEST_STEP = 4096
# A cache this many times larger than a request needs is replaced by a smaller one, where attention
# of a captured step reads all of it.
_WASTE = 8


def capacity_for(tokens: int, *limits: int | None) -> int:
    """Round up to a capacity that later requests can share: 512, 1024, 2048, 4096, 8192, 12288, ...

    Parameters
    ----------
    tokens
        What a request needs.
    limits
        Capacities beyond which there is no use, or no room that was planned; those below what
        the request needs do not count.
    """
    capacity = _SMALLEST_CAPACITY
    while capacity < min(tokens, _LARGEST_STEP):
        capacity *= 2
    if tokens > _LARGEST_STEP:
        capacity = -(-tokens // _LARGEST_STEP) * _LARGEST_STEP
    return min([capacity, *(limit for limit in limits if limit is not None and limit >= tokens)])


class EagerSteps:
    """Runs prompts and steps with the model's own Python, on any device.

    One request at a time: `begin`, `prefill`, any number of `step`. Its inputs are those that
    transformers' `generate` gives the model.

    Parameters
    ----------
    model
        The model, ready to compute.
    device
        Where inputs go.
    planned_tokens
        For how many tokens there is room; a request that needs more takes it all the same.
    tiers
        Keep older pages of keys and values in host memory, from where attention reads them; None
        keeps everything on the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        *,
        planned_tokens: int | None = None,
        tiers: KVTiers | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.tokens = 0
        self.capacity = 0
        self._batch = 0
        self._padded = False
        self._cache: Cache | None = None
        self._mask: torch.Tensor | None = None
        self._positions: torch.Tensor | None = None
        self._token_ids = torch.zeros(0, 1, dtype=torch.long, device=device)
        self._logits = torch.zeros(0, 0, device=device)
        accepted = set(inspect.signature(model.forward).parameters)
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in accepted:
            self._options["logits_to_keep"] = 1
        self._takes_positions = "position_ids" in accepted
        # The name under which `generate` hands the cache over.
        mamba = "mamba" in type(model).__name__.lower()
        self._cache_name = "cache_params" if mamba else "past_key_values"
        text = model.config.get_text_config(decoder=True)
        self._context: int | None = getattr(text, "max_position_embeddings", None)
        self._planned_tokens = planned_tokens
        self.tiers = tiers
        self._by_kernel = device.type == "cuda" and kernels() is not None
        # Why steps cannot read pages where they are; they gather them then.
        self._unread = ""

    # ------------------------------------------------------------------ a request

    @property
    def chosen(self) -> torch.Tensor:
        """The likeliest next tokens ``[batch, 1]`` after the last pass, on the device."""
        return self._token_ids

    @property
    def cache(self) -> Cache | None:
        """The cache in use, for measuring; None before the first `begin`."""
        return self._cache

    @property
    def resumable(self) -> bool:
        """Whether the last tokens can be taken back."""
        cache = self._cache
        return isinstance(cache, FixedCache) and cache.is_croppable

    def refuses(self, batch: int, tokens: int) -> str:
        """Why another cache serves a request better; empty where this one does.

        Parameters
        ----------
        batch, tokens
            As `begin` would be given them.
        """
        if self.tiers is None or self._unread:
            return self._unread
        if not self._by_kernel:
            return "pages in host memory are read in place by Triton on CUDA devices only"
        return why_not(self.model) or self._no_room(self.tiers, batch, tokens)

    def _no_room(self, tiers: KVTiers, batch: int, tokens: int) -> str:
        capacity = capacity_for(tokens, self._planned_tokens, self._context)
        cache = paged_cache(self.model.config, capacity, self.device, tiers)
        if isinstance(cache, str):
            return cache
        shape = page_shape(self.model.config, batch, self.model.dtype, tiers.page_tokens)
        if shape is None:
            return ""
        room = room_for(shape, len(cache.fixed_layers), capacity, tiers, staged=True)
        return room if isinstance(room, str) else ""

    @torch.inference_mode()
    def begin(self, batch: int, tokens: int, *, padded: bool = False, keep: int = 0) -> None:
        """Make room for one request.

        Parameters
        ----------
        batch
            Sequences.
        tokens
            The most that the cache will hold of each.
        padded
            Whether the prompts have padding.
        keep
            The first tokens of the cache that the prompt continues from.

        Raises
        ------
        ValueError
            If the cache does not hold the tokens to keep.
        """
        if keep:
            held = self.tokens if self.resumable and batch == self._batch else 0
            if keep > held or tokens > self.capacity or padded > self._padded:
                raise ValueError(
                    f"{keep} tokens of {batch} sequences cannot be continued from: the cache "
                    f"holds {held} of them, and has room for {self.capacity}."
                )
            self.rewind(self.tokens - keep)
            return
        self._make_room(batch, tokens, padded)
        self._reset()

    def _make_room(self, batch: int, tokens: int, padded: bool) -> None:
        wanted = capacity_for(tokens, self._planned_tokens, self._context)
        fits = wanted <= self.capacity and padded <= self._padded
        if self._reads_whole_cache:
            fits = fits and self.capacity <= wanted * _WASTE
        if batch == self._batch and fits and self._cache is not None:
            return
        self.drop()
        self._batch, self._padded, self.capacity = batch, padded, wanted
        self._cache = self._new_cache()
        self._token_ids = torch.zeros(batch, 1, dtype=torch.long, device=self.device)

    @property
    def _reads_whole_cache(self) -> bool:
        """Whether a step costs as much as the cache is large, however little it holds."""
        return True

    def _new_cache(self) -> Cache:
        from transformers import DynamicCache

        config = self.model.config
        cache: FixedCache | str
        if self.tiers is not None:
            cache = require_pages(paged_cache(config, self.capacity, self.device, self.tiers))
            cache.clock.by_kernel = self._by_kernel
            return cache
        cache = fixed_cache(config, self.capacity, self.device)
        return DynamicCache(config=config) if isinstance(cache, str) else cache

    def _reset(self) -> None:
        if isinstance(self._cache, FixedCache):
            self._cache.reset()
        else:
            self._cache = self._new_cache()
        self.tokens = 0

    @torch.inference_mode()
    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the prompt, less what `begin` kept.

        Parameters
        ----------
        input_ids, attention_mask
            ``[batch, prompt]``, the kept tokens included; 0 in the mask where padded.

        Returns
        -------
        torch.Tensor
            Logits of the next token ``[batch, vocab]``, valid until the next pass.
        """
        prompt = input_ids.shape[1]
        padded = not bool(attention_mask.all())
        if padded and not self._padded:
            raise ValueError("A padded prompt needs begin(..., padded=True).")
        if self._padded:
            # What is beyond the sequence so far is hidden by causality.
            mask = attention_mask.new_ones(attention_mask.shape[0], self.capacity)
            mask[:, :prompt] = attention_mask
            self._mask = _in_place(self._mask, mask)
        if isinstance(self._cache, FixedCache):
            self._cache.append(self.tokens)
        positions, kept_positions = self._positions_of(input_ids, attention_mask), self._positions
        if positions is not None:
            # Of the last token in the cache: each step adds one first.
            last = positions[..., -1:]
            if kept_positions is not None and last.shape[0] == 1:
                # Image-text models have a row for each of their axes, and say the same of all
                # where they go on from a text.
                last = last.expand_as(kept_positions)
            self._positions = _in_place(kept_positions, last)
        kept, self.tokens = self.tokens, 0
        logits = self._forward(
            input_ids,
            attention_mask if padded else None,
            positions,
            first=True,
            new=prompt - kept if kept else None,
        )
        self.tokens = prompt
        self._choose(logits)
        return self._logits

    @torch.inference_mode()
    def step(self, token_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Run one token of each sequence.

        Parameters
        ----------
        token_ids
            ``[batch, 1]``; the likeliest ones, `chosen`, when None.

        Returns
        -------
        torch.Tensor
            Logits of the next token ``[batch, vocab]``, valid until the next pass.
        """
        if self.tokens >= self.capacity:
            raise ValueError(f"The cache is full: it has room for {self.capacity} tokens.")
        if token_ids is not None:
            self._token_ids.copy_(token_ids)
        self._run_step()
        self.tokens += 1
        return self._logits

    @torch.inference_mode()
    def rewind(self, steps: int) -> None:
        """Take the last tokens back; a cache that cannot is emptied."""
        cache = self._cache
        if steps == 0 or cache is None:
            return
        if not isinstance(cache, FixedCache) or not self.resumable:
            self._reset()
            return
        self.tokens -= steps
        cache.append(self.tokens)
        if self._positions is not None:
            self._positions.sub_(steps)

    def resume_at(self, tokens: int) -> None:
        """Go on after the first `tokens`, which the cache was given from elsewhere.

        Raises
        ------
        ValueError
            If the cache cannot be continued from, or has no room for so many.
        """
        if not self.resumable or tokens > self.capacity:
            raise ValueError(f"{tokens} tokens cannot be continued from in this cache.")
        self.tokens = tokens
        if isinstance(self._cache, FixedCache):
            self._cache.append(tokens)

    def drop(self) -> None:
        """Let go of the cache; the next `begin` makes another."""
        if isinstance(self._cache, FixedCache):
            self._cache.close()
        self._cache = self._mask = self._positions = None
        self._batch = self.capacity = self.tokens = 0
        self._padded = False
        self._logits = self._logits.new_zeros(0, 0)

    def close(self) -> None:
        """Give all memory back."""
        self.drop()

    # ------------------------------------------------------------------ one pass

    def _run_step(self) -> None:
        if isinstance(self._cache, PagedCache) and not self._unread:
            try:
                self._read_pages(self._cache)
                return
            except (OllmError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                self._unread = f"{error}".partition("\n")[0][:200] or type(error).__name__
                # The step that failed has written its token's states, and nothing else.
                self._cache.append(self.tokens)
                if self._positions is not None:
                    self._positions.sub_(1)
        self._append_step()

    def _append_step(self) -> None:
        """Run a step as a prompt of one token."""
        mask = None if self._mask is None else self._mask[:, : self.tokens + 1]
        if self._positions is not None:
            self._positions.add_(1)
        with decode_experts(self.model, capturing=False):
            logits = self._forward(self._token_ids, mask, self._positions)
        self._choose(logits)

    def _read_pages(self, cache: PagedCache) -> None:
        """Run a step that reads pages where they are."""
        if self._positions is not None:
            self._positions.add_(1)
        if reason := why_not(self.model):
            raise CannotCapture(reason)
        if not cache.clock.ticking:
            cache.tick(self.tokens)
        cache.before_step(self.tokens)
        cache.without_copies()
        with (
            decode_experts(self.model, capturing=False),
            attending(self.model, cache) as active,
        ):
            logits = self._forward(self._token_ids, self._mask, self._positions)
            active.check()
        cache.clock.position.add_(1)
        self._choose(logits)

    def _forward(
        self,
        token_ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        *,
        first: bool = False,
        new: int | None = None,
    ) -> torch.Tensor:
        """Run the model as `generate` does; logits ``[batch, vocab]`` of the last token."""
        given: dict[str, Any] = {self._cache_name: self._cache, **self._options}
        if positions is not None:
            given["position_ids"] = positions
        model: Any = self.model
        inputs = model.prepare_inputs_for_generation(
            token_ids,
            attention_mask=mask,
            next_sequence_length=new,
            is_first_iteration=first,
            **given,
        )
        logits: torch.Tensor = model(**inputs, return_dict=True).logits[:, -1]
        return logits

    def _choose(self, logits: torch.Tensor) -> None:
        # A copy, so that a prompt's logits of every token can go.
        self._logits = _in_place(self._logits, logits)
        self._token_ids.copy_(logits.argmax(dim=-1, keepdim=True))

    def _positions_of(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        if not self._takes_positions:
            return None
        given = {"attention_mask": mask, self._cache_name: self._cache}
        model: Any = self.model
        positions: torch.Tensor = model._prepare_position_ids_for_generation(token_ids, given)
        return positions


def _in_place(kept: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
    """Copy `new` over what is kept, at the same address, where they are alike."""
    if kept is None or kept.shape != new.shape or kept.dtype != new.dtype:
        return new.clone(memory_format=torch.contiguous_format)
    return kept.copy_(new)
