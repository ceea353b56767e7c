"""Mixtures of experts that move only the experts which their router chose.

The experts' module stays as transformers made it: for each call its parameters are bound to the
experts that were brought, its choice is renumbered to them, and its own forward runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.experts.movers import AddressedMover, ExpertMover, Placed
from ollm_widgets.weights.experts.sources import ExpertTensor, HostExperts
from ollm_widgets.weights.experts.workspace import ExpertWorkspace

_MISSING = object()


class ExpertStreamer:
    """Lets one experts' module run on experts that a mover brings for each call.

    With the experts of a call in the order of their numbers every implementation of transformers
    ("eager", "batched_mm", "grouped_mm") sums in the order in which it sums over all of them, so
    the result has the same bits wherever the matrix products do.

    Parameters
    ----------
    module
        Called as ``(hidden_states [tokens, hidden], top_k_index [tokens, chosen],
        top_k_weights [tokens, chosen])``; its stacked parameters may be on ``meta``.
    mover
        Brings its experts.
    workspace
        Through which memory.

    Raises
    ------
    SpecializationLoadError
        If the module lacks one of the parameters, or its experts cannot be renumbered and the
        workspace has no room for whole layers.
    """

    def __init__(self, module: nn.Module, mover: ExpertMover, workspace: ExpertWorkspace) -> None:
        self.module = module
        self.mover = mover
        self._workspace = workspace
        experts = mover.source.experts
        _require_parameters(module, mover.source.form.made)
        self._arguments = _argument_names(module)
        # What is per expert and not a stacked parameter would not follow a new numbering.
        self._renumbers = getattr(module, "num_experts", None) == experts and not any(
            buffer.dim() and buffer.shape[0] == experts for buffer in module.buffers()
        )
        if not self._renumbers and not workspace.offers_whole_layers:
            raise SpecializationLoadError(
                f"The experts of {type(module).__name__} cannot be renumbered, and there is no "
                "room for a whole layer of them.",
                hint="Raise gpu_memory_budget, or keep the layer on the accelerator.",
            )
        self._own_forward: Any = _MISSING
        self._forward: Any = None

    @property
    def capturable(self) -> bool:
        """Whether a call may be captured in a CUDA graph."""
        return self._renumbers and isinstance(self.mover, AddressedMover)

    def install(self) -> None:
        """Take over the module's forward; calling it again does nothing."""
        if self._forward is None:
            self._own_forward = self.module.__dict__.get("forward", _MISSING)
            self._forward = self.module.forward
            self.module.__dict__["forward"] = self._run

    def remove(self) -> None:
        """Give the module its forward back, exactly as it was."""
        if self._forward is None:
            return
        if self._own_forward is _MISSING:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = self._own_forward
        self._forward, self._own_forward = None, _MISSING

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        hidden, index, weights = (
            args[place] if place < len(args) else kwargs[name]
            for place, name in enumerate(self._arguments)
        )
        if not index.numel():
            return torch.zeros_like(hidden)
        placed = self._place(index)
        if placed is None:
            return self._in_pieces(args, kwargs, (hidden, index, weights))
        with self._bound(placed):
            positional, named = self._with(args, kwargs, (hidden, placed.index, weights))
            result = self._forward(*positional, **named)
        if placed.area is not None:
            placed.area.note_used()
        return result

    def _place(self, index: torch.Tensor) -> Placed | None:
        placed = self.mover.compact(index) if self._renumbers else None
        if placed is None and _capturing(index.device):
            # What a whole layer holds is known to the host, which a replayed graph does not ask.
            raise ValueError(
                f"A captured step may choose {self._workspace.slots if self._renumbers else 0} "
                f"experts a layer; this one chooses {index.numel()}."
            )
        if placed is None and self._workspace.offers_whole_layers:
            placed = self.mover.whole(index)
        return placed

    def _in_pieces(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], values: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """The call a few tokens at a time, so that their experts fit the compact room."""
        tokens = self._workspace.slots // values[1].shape[-1]
        if not tokens or not self._renumbers:
            raise ValueError(
                f"A token of {type(self.module).__name__} chooses {values[1].shape[-1]} experts; "
                f"there is room for {self._workspace.slots if self._renumbers else 0} of them."
            )
        results = []
        for piece in zip(*(torch.split(value, tokens) for value in values), strict=True):
            positional, named = self._with(args, kwargs, piece)
            results.append(self._run(*positional, **named))
        return torch.cat(results)

    def _with(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], values: tuple[torch.Tensor, ...]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The call's arguments with other values for the three that matter here."""
        positional, named = list(args), dict(kwargs)
        for place, (name, value) in enumerate(zip(self._arguments, values, strict=True)):
            if place < len(positional):
                positional[place] = value
            else:
                named[name] = value
        return positional, named

    @contextmanager
    def _bound(self, placed: Placed) -> Iterator[None]:
        module = self.module
        own = {name: module._parameters[name] for name in placed.tensors}
        experts = getattr(module, "num_experts", None)
        try:
            for name, tensor in placed.tensors.items():
                module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
            if self._renumbers:
                rows = next(iter(placed.tensors.values())).shape[0]
                module.__dict__["num_experts"] = rows
            yield
        finally:
            module._parameters.update(own)
            if self._renumbers:
                module.__dict__["num_experts"] = experts


class ResidentExperts:
    """Experts in host memory of a model that computes there: their module uses them in place.

    Parameters
    ----------
    module
        Whose parameters are bound to them.
    source
        The experts.
    """

    def __init__(self, module: nn.Module, source: HostExperts) -> None:
        _require_parameters(module, source.tensors)
        self.module = module
        self.source = source
        self._own: dict[str, nn.Parameter | None] = {}

    def install(self) -> None:
        """Bind the parameters; calling it again does nothing."""
        if not self._own:
            self._own = {name: self.module._parameters[name] for name in self.source.stacked}
            for name, tensor in self.source.stacked.items():
                self.module._parameters[name] = nn.Parameter(tensor, requires_grad=False)

    def remove(self) -> None:
        """Put the module's own parameters back."""
        self.module._parameters.update(self._own)
        self._own = {}


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _require_parameters(module: nn.Module, tensors: Sequence[ExpertTensor]) -> None:
    wrong = [
        tensor.name
        for tensor in tensors
        if (own := module._parameters.get(tensor.name)) is None
        or tuple(own.shape[1:]) != tensor.row_shape
    ]
    if wrong:
        raise SpecializationLoadError(
            f"{type(module).__name__} has no parameters {', '.join(wrong)} of the shapes that "
            "its experts have in the checkpoint."
        )


def _argument_names(module: nn.Module) -> tuple[str, str, str]:
    """The names of the first three arguments; models call some of them by name."""
    names = [name for name in inspect.signature(type(module).forward).parameters if name != "self"]
    if len(names) < 3:
        raise SpecializationLoadError(
            f"{type(module).__name__} does not take hidden states, a choice of experts and their "
            "weights."
        )
    return names[0], names[1], names[2]
