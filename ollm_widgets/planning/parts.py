"""The typed parts of a plan: where layers go, what memory holds, how the KV cache is kept."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.bandwidth import Bandwidth
from ollm_widgets.planning.ids import KVRule, KVStrategyId, LayerTier, Place
from ollm_widgets.render.units import format_memory

_TIER_WORDS: dict[LayerTier, str] = {
    "accelerator": "on the accelerator",
    "host": "in RAM",
    "disk": "on disk",
}


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """The tier of each decoder layer, in order; empty when the layers are not known."""

    tiers: tuple[LayerTier, ...] = ()

    @property
    def accelerator_layers(self) -> int:
        """Layers that stay on the accelerator."""
        return self.tiers.count("accelerator")

    @property
    def host_layers(self) -> int:
        """Layers that stay in host memory."""
        return self.tiers.count("host")

    @property
    def disk_layers(self) -> int:
        """Layers that are read from disk each pass."""
        return self.tiers.count("disk")

    def summary(self) -> str:
        """Say the placement in words: ``"30 layers in RAM"``."""
        counts = [(self.tiers.count(tier), words) for tier, words in _TIER_WORDS.items()]
        used = [f"{count} layers {words}" for count, words in counts if count]
        return ", ".join(used) or "not known"


@dataclass(frozen=True, slots=True)
class TierMemory:
    """What one tier holds, and what this plan would put there. All sizes are in bytes.

    Parameters
    ----------
    place, title
        ``gpu``, ``ram`` or ``disk``, and its name for people.
    capacity_bytes
        All of it.
    free_bytes, used_by_others_bytes
        What nobody uses now, and the rest.
    available_bytes
        What the plan may use: the free bytes less a margin, or a budget.
    layers_bytes, layer_count
        Decoder layers.
    embeddings_bytes
        Embedding, output projection and all other weights.
    kv_bytes
        The KV cache at the planned context.
    activations_bytes
        Intermediate results of a prompt of the planned context.
    """

    place: Place
    title: str
    capacity_bytes: int
    free_bytes: int
    used_by_others_bytes: int
    available_bytes: int
    layers_bytes: int = 0
    layer_count: int = 0
    embeddings_bytes: int = 0
    kv_bytes: int = 0
    activations_bytes: int = 0

    @property
    def needed_bytes(self) -> int:
        """Everything the plan puts here."""
        return self.layers_bytes + self.embeddings_bytes + self.kv_bytes + self.activations_bytes

    @property
    def fits(self) -> bool:
        """Whether that is within what the plan may use."""
        return self.needed_bytes <= self.available_bytes

    def summary(self) -> str:
        """Say it in words: ``"0.8 of 21.5 GiB"``, against what the plan may use."""
        needed, available = format_memory(self.needed_bytes), format_memory(self.available_bytes)
        unit = available.rpartition(" ")[2]
        return f"{needed.removesuffix(f' {unit}')} of {available}"


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The tiers that matter for a plan, the fastest first."""

    tiers: tuple[TierMemory, ...] = ()

    @property
    def needed_bytes(self) -> int:
        """Bytes of memory, GPU and RAM together, that the plan needs."""
        return sum(tier.needed_bytes for tier in self.tiers if tier.place != "disk")

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache at the planned context, in all tiers."""
        return sum(tier.kv_bytes for tier in self.tiers)

    @property
    def fits(self) -> bool:
        """Whether every tier holds its part."""
        return all(tier.fits for tier in self.tiers)

    def tier(self, place: Place) -> TierMemory | None:
        """Return the tier of that place, where there is one."""
        return next((tier for tier in self.tiers if tier.place == place), None)


@dataclass(frozen=True, slots=True)
class KVPlan:
    """How keys and values are kept.

    Parameters
    ----------
    strategy, rule, why
        The strategy, the rule that chose it, and the rule in words.
    fallbacks
        Strategies to try, in order, if it cannot be built.
    bytes_per_1k_tokens
        Growth per 1,000 tokens of history, as long as nothing is dropped; 0 when unknown.
    window_tokens
        Tokens that are kept, None for all.
    context_tokens
        Tokens planned for.
    total_bytes
        Bytes of a cache filled to the planned context.
    """

    strategy: KVStrategyId
    rule: KVRule
    why: str
    fallbacks: tuple[KVStrategyId, ...] = ()
    bytes_per_1k_tokens: int = 0
    window_tokens: int | None = None
    context_tokens: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SpeedPrediction:
    """How fast the plan should run.

    Parameters
    ----------
    seconds_per_token
        For each generated token, after the first.
    time_to_first_token_s, prompt_tokens
        Seconds until the first token for a prompt of that many tokens.
    bandwidth
        The measured bandwidth it follows from.
    why
        The calculation in words.
    """

    seconds_per_token: float
    time_to_first_token_s: float
    prompt_tokens: int
    bandwidth: Bandwidth
    why: str

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return 1 / self.seconds_per_token
