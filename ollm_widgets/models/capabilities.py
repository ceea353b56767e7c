"""What a model can do here, and for everything it cannot, why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_bytes, format_count

SupportLevel: TypeAlias = Literal["optimized", "generic", "unsupported"]
Modality: TypeAlias = Literal["text", "image", "audio"]
Capability: TypeAlias = Literal[
    "support_level",
    "supports_disk_cache",
    "supports_local_materialization",
    "supports_specialization",
    "has_chat_template",
    "image",
    "audio",
]

NO_DISK_CACHE = "A plan says whether its KV cache can go to disk."
NO_AUDIO = "This version gives models text and images, but no audio."
_WITH_IMAGES = "yes, with multimodal=True"
UNREAD = "Its config and tensor headers, not read yet, say whether optimized-native runs it."
_OPEN_QUESTIONS = (NO_DISK_CACHE, UNREAD)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one capability is a "no".

    Parameters
    ----------
    capability
        Field of `CapabilityProfile` that the text explains, or the kind of input.
    text
        The reason in one sentence.
    """

    capability: Capability
    text: str


DEFAULT_REASONS: tuple[Reason, ...] = (Reason("supports_disk_cache", NO_DISK_CACHE),)


def level_of(refusal: str | None, obstacle: str) -> SupportLevel:
    """Say how well a model runs, by what stands against it; see `reasons_of`."""
    if refusal is not None:
        return "unsupported"
    return "generic" if obstacle else "optimized"


def reasons_of(
    modalities: tuple[Modality, ...], refusal: str | None, obstacle: str
) -> tuple[Reason, ...]:
    """Give the reasons that every profile has to give.

    Parameters
    ----------
    modalities
        Kinds of input the model takes.
    refusal
        Why nothing runs it; ``None`` when something does.
    obstacle
        What stands against optimized-native, as a clause; empty when nothing does.
    """
    reasons = [Reason("support_level", refusal)] if refusal is not None else []
    reasons += DEFAULT_REASONS
    if refusal is not None:
        reasons.append(Reason("supports_specialization", "No backend runs it."))
    elif obstacle:
        why = f"optimized-native does not run it: {obstacle}."
        reasons.append(Reason("supports_specialization", why))
    if "audio" in modalities:
        reasons.append(Reason("audio", NO_AUDIO))
    if "image" in modalities and refusal is not None:
        reasons.append(Reason("image", "No backend runs it."))
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class CapabilityProfile(Renderable):
    """What a model can do on this machine, with the facts a person asks for first.

    Parameters
    ----------
    support_level
        ``optimized``, ``generic`` (plain transformers) or ``unsupported``.
    modalities
        Kinds of input the model takes. One that is not given to it has its entry in `reasons`.
    requires_processor
        Whether a processor beside the tokenizer prepares its input.
    supports_disk_cache, supports_local_materialization, supports_specialization
        Whether KV pages can go to disk, whether a checked local folder can be had, and whether
        an optimized backend knows the model. Each "no" has its entry in `reasons`.
    details
        Sentences for people.
    parameters, bytes_on_disk, dtype, context_length, layers
        Logical parameters, bytes of the weight files, dominant stored dtype, tokens, decoder
        layers; ``None`` where unknown.
    has_chat_template
        ``None`` while the files are not here to be read.
    experts, active_experts
        Experts per layer and how many a token uses; ``None`` for a dense model.
    licence, gated
        Where known.
    reasons
        One entry for every "no".
    """

    support_level: SupportLevel
    modalities: tuple[Modality, ...] = ("text",)
    requires_processor: bool = False
    supports_disk_cache: bool = False
    supports_local_materialization: bool = True
    supports_specialization: bool = False
    details: tuple[str, ...] = ()
    parameters: int | None = None
    bytes_on_disk: int | None = None
    dtype: str | None = None
    context_length: int | None = None
    layers: int | None = None
    has_chat_template: bool | None = None
    experts: int | None = None
    active_experts: int | None = None
    licence: str | None = None
    gated: bool | None = None
    reasons: tuple[Reason, ...] = DEFAULT_REASONS

    def reason_for(self, capability: Capability) -> str | None:
        """Why `capability` is a "no", or ``None`` when nothing stands against it."""
        for reason in self.reasons:
            if reason.capability == capability:
                return reason.text
        return None

    def is_mixture_of_experts(self) -> bool:
        """Whether each token passes through some of several experts."""
        return bool(self.experts and self.experts > 1)

    def card(self) -> Card:
        """Draw the profile as a card."""
        tone: Literal["ok", "no"] = "no" if self.support_level == "unsupported" else "ok"
        return Card(
            title="Capabilities",
            subtitle=" + ".join(self.modalities),
            badge=self.support_level,
            tone=tone,
            rows=self.rows(),
        )

    def rows(self) -> tuple[Row, ...]:
        """Rows of the card: known facts first, then each "no" with its reason."""
        return (*self._fact_rows(), *self._answer_rows())

    def _fact_rows(self) -> tuple[Row, ...]:
        facts: list[tuple[str, str | None]] = [
            ("Parameters", _optional_count(self.parameters)),
            ("Weights on disk", self._weights_text()),
            ("Context", None if self.context_length is None else f"{self.context_length:,} tokens"),
            ("Layers", None if self.layers is None else str(self.layers)),
            ("Experts", self._experts_text()),
            ("Licence", self.licence),
            ("Access", "gated: its licence must be accepted first" if self.gated else None),
        ]
        rows = [Row(term, text) for term, text in facts if text is not None]
        rows.extend(Row("Note", detail) for detail in self.details)
        return tuple(rows)

    def _answer_rows(self) -> tuple[Row, ...]:
        answers: list[tuple[str, Capability, bool | None]] = [
            ("Runs", "support_level", self.support_level != "unsupported"),
            ("Images", "image", self._takes("image")),
            ("Audio", "audio", self._takes("audio")),
            ("Chat template", "has_chat_template", self.has_chat_template),
            ("Local folder", "supports_local_materialization", self.supports_local_materialization),
            ("KV cache on disk", "supports_disk_cache", self.supports_disk_cache),
            ("Specialization", "supports_specialization", self.supports_specialization),
        ]
        rows: list[Row] = []
        for term, capability, answer in answers:
            if answer is None:
                continue
            if answer:
                rows.append(Row(term, _WITH_IMAGES if capability == "image" else "yes", "ok"))
                continue
            reason = self.reason_for(capability)
            if reason in _OPEN_QUESTIONS:
                rows.append(Row(term, f"not known yet: {reason}"))
                continue
            tone: Literal["no", "warn"] = "no" if capability == "support_level" else "warn"
            rows.append(Row(term, f"no: {reason}" if reason else "no", tone))
        return tuple(rows)

    def _takes(self, modality: Literal["image", "audio"]) -> bool | None:
        """Whether such input is given to the model; ``None`` where it knows of none."""
        return self.reason_for(modality) is None if modality in self.modalities else None

    def _weights_text(self) -> str | None:
        if self.bytes_on_disk is None:
            return self.dtype
        size = format_bytes(self.bytes_on_disk)
        return f"{size} ({self.dtype})" if self.dtype else size

    def _experts_text(self) -> str | None:
        if not self.is_mixture_of_experts():
            return None
        if self.active_experts is None:
            return f"{self.experts} per layer"
        return f"{self.experts} per layer, {self.active_experts} used by a token"


def _optional_count(count: int | None) -> str | None:
    return None if count is None else format_count(count)
