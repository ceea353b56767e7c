"""What a reference turned out to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ollm_widgets.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.capabilities import CapabilityProfile
from ollm_widgets.models.catalog import CatalogEntry, GenericModelKind
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.shape import ModelShape, WeightInventory
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable

SourceKind: TypeAlias = Literal["builtin", "hugging-face", "local-path", "opaque"]
WeightFormat: TypeAlias = Literal["safetensors", "gguf"]
Problem: TypeAlias = Literal["unsupported", "unsafe", "malformed"]

_ERRORS: dict[Problem, type[UnsupportedModelError]] = {
    "unsupported": UnsupportedModelError,
    "unsafe": UnsafeModelError,
    "malformed": MalformedModelError,
}


@dataclass(frozen=True, slots=True)
class ResolvedModel(Renderable):
    """A reference together with everything that could be found out without loading weights.

    Parameters
    ----------
    reference
        What was asked for.
    source_kind
        ``builtin`` (a catalog alias), ``hugging-face``, ``local-path`` or ``opaque`` (unknown).
    normalized_name
        Alias, repository id or path under which the model is known.
    capabilities
        What it can do here.
    model_path
        Folder, or GGUF file, with the weights; ``None`` when nothing is on this machine.
    repo_id, revision
        Hub repository and revision, where there is one.
    catalog_entry
        The catalog's facts, where it has any.
    native_family
        Family name for the optimized backend: the catalog's, else the model type.
    architecture, model_type, generic_model_kind
        From the config: ``LlamaForCausalLM``, ``llama``, ``causal-lm``.
    resolution_message
        How the model was found, or why it cannot run.
    shape, weights, weight_format
        Dimensions, header sums and file format, for planning.
    quantization
        How the safetensors are quantized; ``None`` for plain ones, and for GGUF, which is
        expanded before it is loaded.
    problem
        Which error a load raises when the model is unsupported; ``None`` otherwise.
    """

    reference: ModelReference
    source_kind: SourceKind
    normalized_name: str
    capabilities: CapabilityProfile
    model_path: Path | None = None
    repo_id: str | None = None
    revision: str | None = None
    catalog_entry: CatalogEntry | None = None
    native_family: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    generic_model_kind: GenericModelKind | None = None
    resolution_message: str = ""
    shape: ModelShape | None = None
    weights: WeightInventory | None = None
    weight_format: WeightFormat | None = None
    quantization: Quantization | None = None
    problem: Problem | None = None

    @property
    def display_name(self) -> str:
        """Short name for people: the catalog's alias, the repository id or the folder's name."""
        if self.catalog_entry is not None:
            return self.catalog_entry.alias
        if self.repo_id is not None:
            return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id
        if self.model_path is not None:
            return self.model_path.name
        return self.normalized_name

    def is_supported(self) -> bool:
        """Whether some backend can run the model."""
        return self.capabilities.support_level != "unsupported"

    def is_downloadable(self) -> bool:
        """Whether the model's files can be had from the hub."""
        return self.repo_id is not None and self.source_kind in ("builtin", "hugging-face")

    def refusal(self) -> UnsupportedModelError:
        """Build the error that a load of this unsupported model raises."""
        return _ERRORS[self.problem or "unsupported"](self.resolution_message)

    def card(self) -> Card:
        """Draw the model as a card: where it is, what it is, what it can do."""
        found = self.is_supported() and self.model_path is not None
        facts: list[tuple[str, str | None]] = [
            ("Reference", str(self.reference)),
            ("Repository", self.repo_id),
            ("Revision", self.revision),
            ("Files", None if self.model_path is None else str(self.model_path)),
            ("Architecture", self.architecture),
            ("Kind", self.generic_model_kind),
            ("Found", (self.resolution_message or None) if not found else None),
        ]
        rows = tuple(Row(term, text) for term, text in facts if text is not None)
        if not self.is_supported():
            tone: Literal["ok", "warn", "no"] = "no"
        else:
            tone = "warn" if self.model_path is None else "ok"
        return Card(
            title=self.display_name,
            subtitle=self.source_kind,
            badge=self.capabilities.support_level,
            tone=tone,
            rows=(*rows, *self.capabilities.rows()),
        )
