"""The decoder layers of an unmodified transformers model, found by structure, not by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ollm_widgets.errors import SpecializationLoadError

# What a forward takes that mixes tokens with one another, or remembers earlier ones.
_MIXES_TOKENS = ("mask", "past", "cache", "position", "state")


@dataclass(frozen=True, slots=True)
class ExpertGroup:
    """A module whose parameters are stacked over experts.

    It is called as ``(hidden_states [tokens, hidden], top_k_index [tokens, k],
    top_k_weights [tokens, k])``.

    Parameters
    ----------
    path
        Relative to its layer: ``"mlp.experts"``.
    experts
        How many there are.
    parameters
        Names of the parameters whose first dimension is the experts'.
    """

    path: str
    experts: int
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecoderStructure:
    """Where the parts of a model are.

    Parameters
    ----------
    path
        Of the module list: ``"model.layers"``.
    layers
        Its decoder layers, in the order of a pass.
    expert_groups
        One a layer; None for a layer without stacked experts.
    mlp_paths
        Path of each layer's position-wise feed-forward part, relative to the layer; None
        where there is none that is certain.
    """

    path: str
    layers: tuple[nn.Module, ...]
    expert_groups: tuple[ExpertGroup | None, ...]
    mlp_paths: tuple[str | None, ...]


def decoder_structure(model: nn.Module) -> DecoderStructure:
    """Find the decoder layers of a causal model and their parts.

    Parameters
    ----------
    model
        A transformers model, or anything of that shape; it may be on ``meta``.

    Raises
    ------
    SpecializationLoadError
        Where the model is of another shape; the message says in what way.
    """
    path = _layers_path(model)
    found: Any = model.get_submodule(path)
    layers: tuple[nn.Module, ...] = tuple(found)
    _require_own_weights(path, layers)
    return DecoderStructure(
        path=path,
        layers=layers,
        expert_groups=tuple(_expert_group(layer) for layer in layers),
        mlp_paths=tuple(_mlp_path(layer) for layer in layers),
    )


def _layers_path(model: nn.Module) -> str:
    """Path of the one module list that the decoder's layers are in."""
    config: Any = getattr(model, "config", None)
    if config is None:
        raise SpecializationLoadError("The model has no config that says how many layers it has.")
    if getattr(config, "is_encoder_decoder", False):
        raise SpecializationLoadError(
            "It is an encoder-decoder model; only models with one stack of decoder layers match."
        )
    count = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(count, int):
        raise SpecializationLoadError("Its config does not say how many decoder layers it has.")
    anchor = _embedding_path(model)
    found = {
        path: _common_parents(path, anchor)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and _are_layers(module)
    }
    nearest: list[str] = [path for path, shared in found.items() if shared == max(found.values())]
    if not nearest:
        raise SpecializationLoadError(
            f"No module list of the model holds the {count} decoder layers of its config."
        )
    if len(nearest) > 1:
        raise SpecializationLoadError(
            f"{len(nearest)} module lists could be the {count} decoder layers: "
            f"{', '.join(nearest)}."
        )
    return nearest[0]


def _embedding_path(model: nn.Module) -> str:
    """Path of the text embeddings, which stand beside the language model's layers."""
    find: Any = getattr(model, "get_input_embeddings", None)
    embeddings = None if find is None else find()
    return next((path for path, module in model.named_modules() if module is embeddings), "")


def _are_layers(modules: nn.ModuleList) -> bool:
    """Whether these are blocks with parts that take hidden states, not single projections."""
    return all(
        any(True for _ in module.children()) and bool(_arguments(module)) for module in modules
    )


def _common_parents(path: str, other: str) -> int:
    """How many leading parts two paths have in common."""
    count = 0
    for one, two in zip(path.split("."), other.split("."), strict=False):
        if one != two:
            break
        count += 1
    return count


def _require_own_weights(path: str, layers: tuple[nn.Module, ...]) -> None:
    """Refuse layers that share weights: they cannot come and go one by one."""
    owner: dict[int, int] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters():
            first = owner.setdefault(id(parameter), index)
            if first != index:
                raise SpecializationLoadError(
                    f"Layers {first} and {index} of {path} share weights, so they cannot be "
                    "moved one by one."
                )


def _expert_group(layer: nn.Module) -> ExpertGroup | None:
    """The stacked experts of a layer, or None; also None where there are several."""
    groups = [group for path, module in layer.named_modules() for group in _groups(path, module)]
    return groups[0] if len(groups) == 1 else None


def _groups(path: str, module: nn.Module) -> Iterator[ExpertGroup]:
    """A module's expert group, if it is one."""
    # transformers writes these on every class of stacked experts whose math it can exchange.
    if not all(hasattr(module, name) for name in ("is_transposed", "has_bias", "has_gate")):
        return
    own = dict(module.named_parameters(recurse=False))
    inner = sum(1 for _ in module.parameters()) - len(own)
    counts = {parameter.shape[0] for parameter in own.values()}
    if inner or len(_arguments(module)) != 3 or len(counts) != 1:
        return
    yield ExpertGroup(path=path, experts=counts.pop(), parameters=tuple(own))


def _mlp_path(layer: nn.Module) -> str | None:
    """The largest child that maps each token's hidden state by itself, or None."""
    candidates = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in layer.named_children()
        if _is_position_wise(child)
    }
    return max(candidates, key=candidates.__getitem__) if candidates else None


def _is_position_wise(module: nn.Module) -> bool:
    """Whether a child of a layer takes one tensor of hidden states and mixes no tokens."""
    if isinstance(module, nn.ModuleList) or not any(True for _ in module.children()):
        return False
    if any(isinstance(part, _ConvNd) or _is_attention(part) for part in module.modules()):
        return False
    arguments = _arguments(module)
    alone = all(
        one.default is not one.empty and not any(word in one.name for word in _MIXES_TOKENS)
        for one in arguments[1:]
    )
    return bool(arguments) and alone and _holds_matrix(module)


def _is_attention(module: nn.Module) -> bool:
    """Whether a module attends, whatever its forward takes: it counts heads or keys."""
    return any(hasattr(module, name) for name in ("num_heads", "num_key_value_groups", "q_proj"))


def _holds_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def _arguments(module: nn.Module) -> tuple[inspect.Parameter, ...]:
    """What a module's forward takes by position or keyword, without ``*args`` and ``**kwargs``."""
    parameters: Any = inspect.signature(module.forward).parameters.values()
    return tuple(one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
