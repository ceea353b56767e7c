"""Decode steps as captured CUDA graphs: one launch a token, copies of streamed layers included.

The step is captured once, on the empty cache, and replayed for every token of every request
that fits. Its inputs and its length live on the device, and it feeds its own choice back, so a
greedy answer needs nothing from the host. A model that cannot be captured runs eagerly over the
same cache, and `refusal` says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from ollm_widgets.errors import KVStrategyError, OllmError
from ollm_widgets.kv.attention.attending import attending, why_not
from ollm_widgets.kv.attention.paged_cache import PagedCache
from ollm_widgets.weights.steps.eager import EagerSteps
from ollm_widgets.weights.steps.experts import decode_experts
from ollm_widgets.weights.steps.fixed_cache import FixedCache, fixed_cache
from ollm_widgets.weights.steps.fused import fused_norms
from ollm_widgets.weights.steps.joined import Siblings, joined, observed_siblings
from ollm_widgets.weights.steps.recording import GraphRecorder
from ollm_widgets.weights.steps.waiting import CannotCapture, NoWaiting, NumbersOnDevice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ollm_widgets.kv.attention.room import KVTiers

# Attention over a buffer that is only partly filled needs a mask, which these two honour.
_MASKED_ATTENTION = frozenset({"sdpa", "eager"})
# The most that a replayed step may differ from the same step run eagerly, as a share of the
# logits' norm: above the noise of kernels that add in another order, far below a wrong step.
_TOLERANCE = 0.05


class CapturedSteps(EagerSteps):
    """Runs prompts eagerly and steps as a captured graph, over the same cache.

    Parameters
    ----------
    model
        The model, ready to compute.
    device
        Where it computes.
    planned_tokens, tiers
        See `EagerSteps`.
    before_step, after_step
        Called at the start and the end of the captured region, for work on other streams: they
        fork and join it.
    settle
        Called outside of any capture before a step that follows something else, so that
        streamed layers are where a captured step expects them.
    forget
        Called when a capture was given up, as what was issued in it never ran.
    fuse
        Run RMS norms as one kernel, and projections of the same input as one product, inside
        captured steps; within the rounding of the dtype.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        *,
        planned_tokens: int | None = None,
        before_step: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
        settle: Callable[[], None] | None = None,
        forget: Callable[[], None] | None = None,
        fuse: bool = False,
        tiers: KVTiers | None = None,
    ) -> None:
        super().__init__(model, device, planned_tokens=planned_tokens, tiers=tiers)
        self.refusal: str | None = None
        # Why the model's own attention is captured, over the whole buffer; empty where ours is.
        self.attention_refusal = ""
        self._ours = False
        self._siblings: list[Siblings] = []
        self._before_step = before_step or _nothing
        self._after_step = after_step or _nothing
        self._settle = settle or _nothing
        self._forget = forget or _nothing
        self._fuse = fuse
        self._replay: Callable[[], None] | None = None
        self._recorder = GraphRecorder(device)

    @property
    def captured(self) -> bool:
        """Whether steps run as a captured graph now."""
        return self._replay is not None

    @torch.inference_mode()
    def begin(self, batch: int, tokens: int, *, padded: bool = False, keep: int = 0) -> None:
        """Make room for one request and capture the step where that has not been done.

        See `EagerSteps.begin`. Calling it when a model has been loaded spares the first request
        the capture.
        """
        super().begin(batch, tokens, padded=padded, keep=keep)
        if not keep and self._replay is None and self.refusal is None:
            self._capture()

    @torch.inference_mode()
    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the prompt, less what `begin` kept; all but its last token kept is a captured step.

        So is asking the same again, and a prompt that was found on disk.
        """
        kept, prompt = self.tokens, input_ids.shape[1]
        if not 0 < kept == prompt - 1 or not self.captured or self._padded:
            return super().prefill(input_ids, attention_mask)
        positions = self._positions_of(input_ids, attention_mask)
        if positions is not None and self._positions is not None:
            # Of the last token in the cache: the step adds one first.
            self._positions.copy_((positions[..., -1:] - 1).expand_as(self._positions))
        return self.step(input_ids[:, -1:])

    @property
    def _reads_whole_cache(self) -> bool:
        # The model's own attention does in a graph, behind a mask; our kernels know the length.
        return not (self.captured and self._ours)

    def attention_obstacle(self) -> str:
        """Why steps will not attend by our kernels, as far as the model tells; else empty."""
        return why_not(self.model) if self._by_kernel else "its kernels need Triton and CUDA"

    def drop(self) -> None:
        """Let go of cache and graph; needed before any address in the model changes."""
        held = self._drop_graph()
        super().drop()
        if held:
            torch.cuda.empty_cache()

    def _drop_graph(self) -> bool:
        """Let go of what was captured; whether there was anything."""
        self._replay = None
        return self._recorder.drop()

    def leave(self) -> bool:
        """Let go of the graph alone, as addresses are about to change; whether there was one."""
        captured = self.captured
        self._drop_graph()
        return captured

    @torch.inference_mode()
    def capture_again(self) -> None:
        """Capture the step at the addresses that weights and cache have now, running nothing.

        For a step that was captured before: its kernels are chosen. Weights and cache may still
        be under way. Where it fails, the next request begins with an empty cache, and captures
        its steps as the first one did.

        Raises
        ------
        OutOfMemory, torch.OutOfMemoryError
            If there is no room for the graph; likewise.
        """
        kv = self._cache
        if not isinstance(kv, FixedCache):
            return
        self._make_workspaces()
        kv.tick(self.tokens)
        self._capture_anew(kv)
        kv.append(self.tokens)
        if self.refusal is not None:
            self.refusal = None
            self.drop()

    def _make_workspaces(self) -> None:
        """Have what matrix products work in, which each thread has of its own for each stream.

        In a capture it would be made in the memory of the graph, and stay there for good.
        """
        with self._recorder.on_its_stream():
            square = torch.ones(16, 16, dtype=self.model.dtype, device=self.device)
            torch.addmm(square[0], square, torch.mm(square, square))

    def close(self) -> None:
        """Give all memory back."""
        self.drop()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._recorder.close()

    def _run_step(self) -> None:
        kv = self._cache
        if self._replay is None or not isinstance(kv, FixedCache):
            self._run_eagerly()
            return
        if not kv.clock.ticking:
            self._settle()
            kv.tick(self.tokens)
        kv.before_step(self.tokens)
        if kv.outgrown:
            self._capture_anew(kv)
        self._launch(kv)

    def _launch(self, _kv: FixedCache) -> None:
        """Run the step that everything is ready for."""
        (self._replay or self._run_eagerly)()

    def _run_eagerly(self) -> None:
        super()._run_step()

    # ------------------------------------------------------------------ capturing

    def _capture(self) -> None:
        self.attention_refusal = ""
        why = self.attention_obstacle()
        for self._ours in (True, False):
            if self._ours and why:
                self.attention_refusal = why
                continue
            if not self._ours and isinstance(self._cache, PagedCache):
                self.refusal = f"no kernel reads pages: {self.attention_refusal}"
                break
            self.refusal = self._refusal_of(self._capture_checked)
            if self.refusal is None:
                break
            if self._ours:
                self.attention_refusal = self.refusal
        self._reset()

    def _capture_anew(self, kv: FixedCache) -> None:
        """Capture the step once more, in the midst of a request: nothing runs but what follows."""
        self._drop_graph()

        def again() -> None:
            with self._as_captured():
                kv.before_capture()
                self._settle()
                self._replay = self._record(self._static_step)

        self.refusal = self._refusal_of(again)
        if self.refusal is not None:
            kv.without_copies()
        self._settle()

    def _refusal_of(self, capture: Callable[[], None]) -> str | None:
        """Have `capture` make a replay; the reason why it did not, and nothing is captured then."""
        refusal = None
        try:
            self._refuse_what_cannot_be()
            capture()
        except CannotCapture as error:
            refusal = str(error)
        except (OllmError, torch.OutOfMemoryError) as error:
            if isinstance(error, KVStrategyError):
                self._unread = error.message
            self.drop()
            raise
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        except BaseException:
            self.drop()
            raise
        if refusal is not None:
            self._drop_graph()
        return refusal

    def _refuse_what_cannot_be(self) -> None:
        if not self._can_record():
            raise CannotCapture("captured steps need a CUDA device")
        if not isinstance(self._cache, FixedCache):
            reason = fixed_cache(self.model.config, self.capacity, self.device)
            raise CannotCapture(str(reason))
        attention = self.model.config.get_text_config(decoder=True)._attn_implementation
        if attention not in _MASKED_ATTENTION:
            raise CannotCapture(f"{attention} attention does not stop at the last token")

    def _can_record(self) -> bool:
        return self.device.type == "cuda"

    def _capture_checked(self) -> None:
        """Warm up, capture, and check that a replay does what the eager step did."""
        kv = self._cache
        if not isinstance(kv, FixedCache):
            raise TypeError("only a fixed cache can be stepped through")
        self._siblings = []
        kv.clock.by_kernel = self._ours
        expected = self._appended(kv) if self._ours else ()
        # Before anything is captured: kernels are chosen and compiled, memory is taken.
        with self._as_captured(joining=False), observed_siblings(self.model) as siblings:
            first = self._from_start(self._static_step)
        self._siblings = siblings if self._fuse else []
        with self._as_captured():
            with NoWaiting(self.device):
                second = self._then(self._static_step)
            for ours, models in zip((first, second), expected, strict=False):
                if not _alike(models, ours):
                    raise CannotCapture("attention by our kernels differs from the model's own")
            self._settle()
            replay = self._record(self._static_step)
        again = self._from_start(replay)
        for eager, replayed in ((first, again), (second, self._then(replay))):
            if not _alike(eager, replayed):
                raise CannotCapture("a replayed step does not repeat the eager one")
        self._replay = replay

    @contextmanager
    def _as_captured(self, *, joining: bool = True) -> Iterator[None]:
        """Run the model as it runs in a capture."""
        kv = self._cache
        with ExitStack() as stack:
            stack.enter_context(decode_experts(self.model, capturing=True))
            stack.enter_context(self._recorder.on_its_stream())
            stack.enter_context(self._fused())
            if joining:
                stack.enter_context(joined(self._siblings))
            active = None
            if self._ours and isinstance(kv, FixedCache):
                active = stack.enter_context(attending(self.model, kv))
            yield
            if active is not None:
                active.check()

    def _appended(self, kv: FixedCache) -> tuple[torch.Tensor, ...]:
        """Logits of the first two steps by the model's own attention."""
        self._start(kv)
        kv.append(0)
        logits = []
        for self.tokens, token in enumerate((1, 2)):
            self._token_ids.fill_(token)
            self._append_step()
            logits.append(self._logits.clone())
        self.tokens = 0
        return tuple(logits)

    def _static_step(self) -> None:
        """One step that reads and writes nothing but what stays at its address."""
        kv = self._cache
        if not isinstance(kv, FixedCache):
            raise TypeError("only a fixed cache can be stepped through")
        self._before_step()
        kv.begin_step()
        if self._positions is not None:
            self._positions.add_(1)
        with NumbersOnDevice():
            self._choose(self._forward(self._token_ids, self._mask, self._positions))
        kv.clock.position.add_(1)
        self._finish_step(kv)

    def _finish_step(self, kv: FixedCache) -> None:
        """Join what a step has begun on other streams."""
        kv.end_step()
        self._after_step()

    def _from_start(self, step: Callable[[], None]) -> torch.Tensor:
        """Run the first step of an empty cache; its logits."""
        kv = self._cache
        if not isinstance(kv, FixedCache):
            raise TypeError("only a fixed cache can be stepped through")
        self._start(kv)
        kv.tick(0)
        return self._then(step, token=1)

    def _start(self, kv: FixedCache) -> None:
        """Empty the cache, with masks and positions as of a prompt."""
        kv.reset()
        ones = torch.ones_like(self._token_ids)
        if self._padded and self._mask is None:
            self._mask = ones.new_ones(self._batch, self.capacity)
        positions = self._positions_of(self._token_ids, ones)
        if positions is not None and self._positions is None:
            self._positions = positions[..., -1:].clone(memory_format=torch.contiguous_format)
        if self._positions is not None:
            self._positions.fill_(-1)

    def _then(self, step: Callable[[], None], token: int = 2) -> torch.Tensor:
        """Run one more step; its logits."""
        self._token_ids.fill_(token)
        self._settle()
        step()
        return self._logits.clone()

    @contextmanager
    def _fused(self) -> Iterator[None]:
        with fused_norms(self.model) if self._fuse else contextlib.nullcontext():
            yield

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Capture `step` on the current stream; what replays it."""
        return self._recorder.record(step, join=self._join, forget=self._forget)

    def _join(self) -> None:
        """Join what a step that was broken off has forked."""
        with contextlib.suppress(Exception):
            if isinstance(self._cache, FixedCache):
                self._cache.end_step()
        with contextlib.suppress(Exception):
            self._after_step()


def _alike(eager: torch.Tensor, replayed: torch.Tensor) -> bool:
    eager, replayed = eager.float(), replayed.float()
    difference = torch.linalg.vector_norm(eager - replayed)
    return bool(difference <= _TOLERANCE * torch.linalg.vector_norm(eager))


def _nothing() -> None:
    """Do nothing."""
