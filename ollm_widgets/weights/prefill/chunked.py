"""Layer-major prefill: a long prompt goes through each layer in chunks of tokens."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn

from ollm_widgets.errors import ConfigError
from ollm_widgets.weights.model.structure import DecoderStructure
from ollm_widgets.weights.prefill.layer import PrefillPass, SplitLayer, cache_place, why_whole
from ollm_widgets.weights.prefill.row_chunks import Forward, RowChunkedMLP


class ChunkedPrefill:
    """Sends prompts longer than `rows` through each layer in chunks, one layer after the other.

    A layer's weights are then needed once, whatever the prompt's length, and what it computes
    in between stays bounded by the chunk. Hooks of a layer module still run once a pass: its
    `forward` is replaced on the instance, and put back by `remove`. Layers that are not plain
    attention over a cache run whole, with their feed-forward part in chunks.

    Parameters
    ----------
    structure, model
        A model, and where its layers are.
    rows
        Tokens of a chunk; None leaves the model as it is.
    in_place
        Whether a layer may write over the output of the layer before it, which spares one
        ``[batch, seq, hidden]``. Only for callers who know that no hook keeps these.

    Raises
    ------
    ConfigError
        Where `rows` is not positive.
    """

    def __init__(
        self,
        structure: DecoderStructure,
        model: nn.Module,
        rows: int | None,
        *,
        in_place: bool = False,
    ) -> None:
        if rows is not None and rows < 1:
            raise ConfigError("prefill_chunk_tokens", f"{rows} tokens are not a chunk.")
        self._structure = structure
        self._rows = rows
        self._in_place = in_place
        owner, _, _ = structure.path.rpartition(".")
        self._owner = model.get_submodule(owner)
        self._config: Any = getattr(self._owner, "config", None) or getattr(model, "config", None)
        self._replaced: list[tuple[nn.Module, Forward, Forward | None]] = []
        self._pass: PrefillPass | None = None
        own_caches = self._own_caches()
        self._never_cut: dict[int, str] = {
            index: reason
            for index, layer in enumerate(structure.layers)
            if (reason := why_whole(layer, own_caches[index])) is not None
        }

    @property
    def whole_layers(self) -> dict[int, str]:
        """Why layers take a long prompt whole: those that always do, and did with the last one."""
        latest = self._pass.whole if self._pass is not None else {}
        places = {cache_place(layer): i for i, layer in enumerate(self._structure.layers)}
        return {places[place]: why for place, why in latest.items()} | self._never_cut

    def install(self) -> None:
        """Replace the forwards. Does nothing where they are replaced, or `rows` is None."""
        if self._rows is None or self._replaced:
            return
        shared = PrefillPass(self._rows, self._in_place, self._attention)
        self._pass = shared
        last = len(self._structure.layers) - 1
        for index, layer in enumerate(self._structure.layers):
            place = cache_place(layer)
            if index not in self._never_cut and place is not None:
                split = SplitLayer(layer, place, last=index == last, shared=shared)
                self._replace(layer, split)
            path = self._structure.mlp_paths[index]
            if path is not None:
                mlp = layer.get_submodule(path)
                self._replace(mlp, RowChunkedMLP(mlp.forward, self._rows))
        for norm in filter(_is_norm, self._owner.children()):
            self._replace(norm, RowChunkedMLP(norm.forward, self._rows))

    def remove(self) -> None:
        """Put every forward back as it was. Does nothing where nothing is replaced."""
        while self._replaced:
            module, ours, before = self._replaced.pop()
            if module.__dict__.get("forward") is not ours:
                continue
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before
        if self._pass is not None:
            self._pass.end()
            self._pass = None

    def __enter__(self) -> ChunkedPrefill:
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _replace(self, module: nn.Module, forward: Forward) -> None:
        self._replaced.append((module, forward, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def _attention(self) -> str:
        return str(getattr(self._config, "_attn_implementation", ""))

    def _own_caches(self) -> list[object | None]:
        """The cache layer that transformers would give each layer; None where it says nothing."""
        from transformers import DynamicCache

        caches: list[object | None] = list(DynamicCache(config=self._config).layers)
        count = len(self._structure.layers)
        return caches if len(caches) == count else [None] * count


def _is_norm(module: nn.Module) -> bool:
    """Whether a module scales each token's state by itself: it has vectors only, and no parts."""
    parameters = list(module.parameters())
    alone = not any(True for _ in module.children())
    return alone and bool(parameters) and all(one.dim() == 1 for one in parameters)
