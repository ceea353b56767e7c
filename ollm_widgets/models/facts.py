"""What an examination of a model's files finds out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ollm_widgets.errors import (
    MalformedModelError,
    UnsafeModelError,
    UnsupportedModelError,
)
from ollm_widgets.models.capabilities import Modality
from ollm_widgets.models.catalog import GenericModelKind
from ollm_widgets.models.decoders import decoder_obstacle
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.resolved import Problem, WeightFormat
from ollm_widgets.models.shape import ModelShape, WeightInventory


@dataclass(frozen=True, slots=True)
class Examination:
    """What the files of a model say about it.

    Parameters
    ----------
    path
        Folder or GGUF file that would be loaded; ``None`` for files that are elsewhere.
    place
        Where the files are, for people.
    refusal, problem
        Why the model cannot run, and which kind of error that is; ``None`` when it can.
    gaps
        What is missing before it can be loaded.

    The other fields are those of `ResolvedModel` and `CapabilityProfile`.
    """

    path: Path | None
    place: str
    refusal: str | None = None
    problem: Problem | None = None
    gaps: tuple[str, ...] = ()
    architecture: str | None = None
    model_type: str | None = None
    kind: GenericModelKind | None = None
    modalities: tuple[Modality, ...] = ("text",)
    shape: ModelShape | None = None
    weights: WeightInventory | None = None
    weight_format: WeightFormat | None = None
    quantization: Quantization | None = None
    dtype: str | None = None
    has_chat_template: bool | None = None
    experts: int | None = None
    active_experts: int | None = None
    licence: str | None = None
    gated: bool | None = None
    details: tuple[str, ...] = ()

    @property
    def layers(self) -> int | None:
        """Decoder layers, by the config, else by the tensor headers."""
        if self.shape is not None:
            return self.shape.layers
        return len(self.weights.layer_bytes) or None if self.weights else None

    @property
    def obstacle(self) -> str:
        """What stands against optimized-native, as a clause; empty when nothing does."""
        return decoder_obstacle(self.kind, self.quantization, self.shape, self.weights, self.layers)

    def refused(self, error: UnsupportedModelError) -> Examination:
        """Copy that says `error` stands against the model; the first refusal stays."""
        if self.refusal is not None:
            return self
        problem: Problem = "unsupported"
        if isinstance(error, UnsafeModelError):
            problem = "unsafe"
        elif isinstance(error, MalformedModelError):
            problem = "malformed"
        return replace(self, refusal=str(error), problem=problem)
