"""Names of a model that stand for one parameter, and what a checkpoint says about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ollm_widgets.weights.checkpoint.index import TensorSpan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ollm_widgets.weights.checkpoint.recipe import TensorRecipe

_COMPARED_AT_ONCE_BYTES = 8 << 20


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """The source of every tied name: by transformers' rules, or the same object under two names."""
    sources = dict(getattr(model, "all_tied_weights_keys", None) or {})
    first: dict[int, str] = {}
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    for name, value in named:
        if name not in sources:
            source = first.setdefault(id(value), name)
            if source != name:
                sources[name] = source
    return sources


def settle_tied(
    recipes: Mapping[str, TensorRecipe], tied: Mapping[str, str]
) -> dict[str, TensorRecipe]:
    """Leave one recipe for names that share a parameter, under the name of the source.

    A checkpoint that holds other values under a tied name is believed, as `from_pretrained` does:
    that name then keeps a recipe of its own.

    Parameters
    ----------
    recipes
        By name in the model.
    tied
        Source by tied name.
    """
    settled = dict(recipes)
    for name, source in tied.items():
        own = settled.get(name)
        if own is None:
            continue
        other = settled.get(source)
        if other is None:
            settled[source] = replace(own, name=source)
        elif not _read_the_same(own, other):
            continue
        del settled[name]
    return settled


def untied(missing: Iterable[str], tied: Mapping[str, str], known: Iterable[str]) -> set[str]:
    """Of the names without a recipe, those that no tied name provides."""
    provided = set(known)
    return {name for name in missing if tied.get(name, name) not in provided}


def _read_the_same(one: TensorRecipe, other: TensorRecipe) -> bool:
    spans = (_whole_span(one), _whole_span(other))
    if one.shape != other.shape or one.dtype != other.dtype or None in spans:
        return False
    first, second = (span for span in spans if span is not None)
    if first == second:
        return True
    if first.dtype != second.dtype:
        return False
    with first.path.open("rb") as left, second.path.open("rb") as right:
        left.seek(first.offset_bytes)
        right.seek(second.offset_bytes)
        rest = first.size_bytes
        while rest:
            count = min(rest, _COMPARED_AT_ONCE_BYTES)
            if left.read(count) != right.read(count):
                return False
            rest -= count
    return True


def _whole_span(recipe: TensorRecipe) -> TensorSpan | None:
    if len(recipe.pieces) == 1 and recipe.pieces[0].size_bytes == recipe.pieces[0].span.size_bytes:
        return recipe.pieces[0].span
    return None
