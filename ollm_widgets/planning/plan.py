"""What would run: the chain's third object, made without loading anything."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ollm_widgets.models.capabilities import CapabilityProfile, Reason, SupportLevel
from ollm_widgets.models.catalog import GenericModelKind
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.advice import Replan, best_change
from ollm_widgets.planning.code import config_to_code
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.difference import PlanDifference, difference
from ollm_widgets.planning.ids import BackendId, DType, SpecializationState
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.memory_picture import memory_bars
from ollm_widgets.planning.parts import (
    KVPlan,
    LayerPlacement,
    StreamingPlan,
    listed,
)
from ollm_widgets.planning.plain import plain
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.reasons import node_in_words
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.story import story
from ollm_widgets.render.bars import bars_to_html
from ollm_widgets.render.card import Card, Row, Tone
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.svg import card_with
from ollm_widgets.render.units import format_memory, format_seconds

__all__ = [
    "Bandwidth",
    "KVPlan",
    "LayerPlacement",
    "MemoryMap",
    "RuntimePlan",
    "SpeedPrediction",
    "StreamingPlan",
    "TierMemory",
]


@dataclass(frozen=True, slots=True)
class RuntimePlan(Renderable):
    """What would run, whether it fits and how fast.

    Parameters
    ----------
    resolved_model, config
        What was planned: the model, and a copy of the config.
    backend_id, device, dtype
        What would run it, where (a torch device name; of several the one on which a pass
        begins) and in which dtype. No backend: nothing can run it.
    model_path
        Its files; None while they are not on this machine.
    executable, needs_files
        Whether it can run as it is; if not, whether only its files are missing.
    support_level, generic_model_kind
        As in the capability profile, for this backend.
    supports_disk_cache, supports_cpu_offload, supports_gpu_offload
        What this backend can do.
    specialization_enabled, specialization_applied, specialization_state
        Whether passes were wanted, did apply, and how far that came.
    specialization_provider_id, specialization_pass_ids, applied_specialization_pass_ids
        Whose passes, which were planned, and which did apply.
    fallback_reason
        Why another backend took over.
    node, node_reason
        The machine of a cluster that it was planned for, and runs on, and why that one; its
        bytes, devices and speed are of there. Empty for this machine.
    provisional
        Whether more is known in a moment, so that it had better be planned again.
    reason
        Why it runs so, or why it does not, in a sentence or two.
    details
        Further sentences for people; nothing is decided from them.
    placement, memory, kv
        Tier of each layer, bytes per tier and kind, and how keys and values are kept.
    streaming
        The buffers through which layers stream, and how prompts and steps run.
    speed
        None where it cannot be predicted.
    """

    resolved_model: ResolvedModel
    config: RuntimeConfig = field(hash=False)
    backend_id: BackendId | None
    device: str
    dtype: DType
    model_path: Path | None
    executable: bool
    support_level: SupportLevel
    generic_model_kind: GenericModelKind | None
    reason: str
    kv: KVPlan
    placement: LayerPlacement = field(default_factory=LayerPlacement)
    streaming: StreamingPlan = field(default_factory=StreamingPlan)
    memory: MemoryMap = field(default_factory=MemoryMap)
    speed: SpeedPrediction | None = None
    details: tuple[str, ...] = ()
    needs_files: bool = False
    supports_disk_cache: bool = False
    supports_cpu_offload: bool = False
    supports_gpu_offload: bool = False
    specialization_enabled: bool = True
    specialization_applied: bool = False
    specialization_provider_id: str | None = None
    specialization_state: SpecializationState = "not-planned"
    specialization_pass_ids: tuple[str, ...] = ()
    applied_specialization_pass_ids: tuple[str, ...] = ()
    fallback_reason: str | None = None
    node: str = ""
    node_reason: str = ""
    provisional: bool = False

    def is_executable(self) -> bool:
        """Whether the plan can run as it is, on this machine or its node, now."""
        return self.executable

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that compute, `device` first."""
        return tuple(dict.fromkeys((self.device, *self.placement.devices)))

    @property
    def capabilities(self) -> CapabilityProfile:
        """What the model can do as this plan would run it."""
        profile = self.resolved_model.capabilities
        specialized = bool(self.specialization_pass_ids)
        reasons = tuple(
            each for each in profile.reasons if each.capability != "supports_specialization"
        )
        if not specialized:
            reasons += (Reason("supports_specialization", self._why_not_specialized()),)
        return replace(
            profile,
            support_level=self.support_level,
            supports_disk_cache=self.supports_disk_cache,
            supports_specialization=specialized,
            reasons=reasons,
        )

    def refine(self, **changes: Any) -> RuntimePlan:
        """Return the plan with some fields replaced, as a load finds out more."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values that `json.dumps` takes."""
        document: dict[str, Any] = {
            item.name: plain(getattr(self, item.name))
            for item in fields(self)
            if item.name != "resolved_model"
        }
        resolved = self.resolved_model
        document["resolved_model"] = {
            "reference": resolved.reference.raw,
            "source_kind": resolved.source_kind,
            "normalized_name": resolved.normalized_name,
            "display_name": resolved.display_name,
            "repo_id": resolved.repo_id,
            "revision": resolved.revision,
            "resolution_message": resolved.resolution_message,
        }
        return document

    def to_code(self) -> str:
        """Return the Python that rebuilds the config, without the fields left at default."""
        return config_to_code(self.config)

    def explain(self, replan: Replan | None = None) -> str:
        """Tell in sentences what runs, where and why, what it takes, how fast, and what is next.

        Of a plan that does not run it says why, and what to do.

        Parameters
        ----------
        replan
            Plans the model anew for another config or with more memory; see
            `ollm_widgets.planning.advice.replanning`. With it the last paragraph names the one
            change that would help most, where any would.
        """
        paragraphs = story(self)
        advice = best_change(self, replan) if replan is not None else None
        return "\n".join((*paragraphs, *((advice.text,) if advice is not None else ())))

    def diff(self, other: RuntimePlan) -> PlanDifference:
        """Say what is different here than in `other`, which counts as the plan before."""
        return difference(other, self)

    def headline(self) -> str:
        """Say in a few words what would run: ``"Runs with transformers-generic on cpu"``."""
        if self.executable and self.node and not self.placement.tiers:
            return f"Runs on {self.node}"
        if self.executable:
            on_node = f" of {self.node}" if self.node else ""
            return f"Runs with {self.backend_id} on {listed(self.devices)}{on_node}"
        if self.needs_files:
            return f"Not on {self.node or 'this machine'} yet"
        return "Does not run as asked"

    def card(self) -> Card:
        """Draw the plan as a card: what runs, where it goes, how fast, and why."""
        tone: Tone = "ok" if self.executable else "warn" if self.needs_files else "no"
        badge = {"ok": "runs", "warn": "needs its files", "no": "does not run"}[tone]
        return Card(
            title=self.resolved_model.display_name,
            subtitle=self.headline(),
            badge=badge,
            tone=tone,
            rows=(
                Row("Reason", self.reason, "neutral" if self.executable else tone),
                *self._fact_rows(),
                *(Row("Note", detail) for detail in self.details),
            ),
        )

    def to_html(self) -> str:
        """Return the card, with the memory map drawn to scale."""
        return card_with(self.card(), bars_to_html(memory_bars(self.memory)))

    def _why_not_specialized(self) -> str:
        if self.fallback_reason:
            return self.fallback_reason
        if not self.resolved_model.is_supported():
            return "No backend runs it."
        if not self.specialization_enabled:
            return "use_specialization=False: no pass was wanted."
        said = (each for each in (self.reason, *self.details) if "optimized-native" in each)
        return next(said, f"{self.backend_id or 'No backend'} was asked for, which has no passes.")

    def _fact_rows(self) -> tuple[Row, ...]:
        rows = [
            Row("Backend", f"{self.backend_id or 'none'}, {self.dtype} on {listed(self.devices)}"),
            *([Row("Node", node_in_words(self))] if self.node else ()),
            Row("Layers", self.placement.summary()),
        ]
        rows += [
            Row(tier.title, tier.summary(), "neutral" if tier.fits else "no")
            for tier in self.memory.tiers
            if tier.needed_bytes
        ]
        size = f", {format_memory(self.kv.total_bytes)}" if self.kv.total_bytes else ""
        context = f"{self.kv.context_tokens:,} tokens of context{size}"
        rows.append(Row("KV cache", f"{self.kv.strategy} for {context}"))
        if self.speed is not None:
            first = format_seconds(self.speed.time_to_first_token_s)
            rows.append(
                Row(
                    "Speed",
                    f"about {self.speed.tokens_per_s:.3g} tokens/s, first token after {first} "
                    f"for {self.speed.prompt_tokens} prompt tokens",
                )
            )
        if self.fallback_reason:
            rows.append(Row("Fallback", self.fallback_reason, "warn"))
        return tuple(rows)
