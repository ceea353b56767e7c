"""Whether a model runs on this machine, in a few words: what a list of models says of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ollm_widgets.models.hub_cache import default_hub_cache
from ollm_widgets.planning.device_choice import demand_of
from ollm_widgets.planning.ids import DeviceKind, Place
from ollm_widgets.planning.memory import disk_tier
from ollm_widgets.planning.parts import listed
from ollm_widgets.planning.reasons import own_tier
from ollm_widgets.planning.traits import GENERIC_TRAITS, NATIVE_TRAITS
from ollm_widgets.render.units import format_bytes, format_memory
from ollm_widgets.settings import default_models_dir, models_dir_was_chosen

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

VerdictKind: TypeAlias = Literal["fits", "fits-with-offload", "too-large", "unsupported", "unknown"]

_OF: dict[Place, str] = {"gpu": "GPU memory", "ram": "RAM", "disk": "disk"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model runs here.

    Parameters
    ----------
    kind
        ``fits`` (all of it on the device that computes), ``fits-with-offload`` (layers come from
        RAM or disk), ``too-large``, ``unsupported``, or ``unknown`` before its size is known.
    text
        The verdict with its number or its reason.
    tokens_per_s
        Generated tokens per second, where they are predicted.
    needs_bytes
        Memory that it takes, GPU and RAM together; 0 where that is not known.
    missing_bytes
        What would have to be there beside what may be used now; 0 where it fits.
    reason
        Why it cannot run, where that is not a matter of size.
    """

    kind: VerdictKind
    text: str
    tokens_per_s: float | None = None
    needs_bytes: int = 0
    missing_bytes: int = 0
    reason: str = ""

    @property
    def runs(self) -> bool:
        """Whether it runs on this machine, once its files are here."""
        return self.kind in ("fits", "fits-with-offload")

    @property
    def refused(self) -> bool:
        """Whether it cannot run on this machine."""
        return self.kind in ("too-large", "unsupported")

    @property
    def short(self) -> str:
        """The text without a reason, for a place of a few words."""
        return "cannot run" if self.kind == "unsupported" else self.text


def verdict_of(plan: RuntimePlan) -> Verdict:
    """Say of a plan whether it runs, how fast, or what is missing; files are not needed for it."""
    if not plan.resolved_model.is_supported():
        return _unsupported(plan.resolved_model.resolution_message)
    needs_bytes = plan.memory.needed_bytes
    if not plan.memory.fits:
        return _too_large(needs_bytes, _least_missing(plan))
    if not plan.executable and not plan.needs_files:
        return _unsupported(plan.reason)
    if not needs_bytes:
        return Verdict("unknown", "size unknown")
    lacking_bytes = _lacking_for_download(plan)
    if lacking_bytes:
        return _too_large(needs_bytes, {"disk": lacking_bytes})
    offloads = _offloads(plan)
    text = "fits with offload" if offloads else "fits"
    tokens_per_s = plan.speed.tokens_per_s if plan.speed is not None else None
    if tokens_per_s is not None:
        text += f": about {_rounded(tokens_per_s)} tokens/s"
    return Verdict("fits-with-offload" if offloads else "fits", text, tokens_per_s, needs_bytes)


def _unsupported(reason: str) -> Verdict:
    text = f"cannot run: {reason}" if reason else "cannot run"
    return Verdict("unsupported", text, reason=reason)


def _too_large(needs_bytes: int, missing: dict[Place, int]) -> Verdict:
    amounts = [
        f"{(format_bytes if place == 'disk' else format_memory)(size)} more {_OF[place]}"
        for place, size in missing.items()
    ]
    text = f"does not fit: needs {listed(amounts)}"
    return Verdict("too-large", text, None, needs_bytes, sum(missing.values()))


def _least_missing(plan: RuntimePlan) -> dict[Place, int]:
    """Give what each kind of memory lacks; a GPU alone, where that lacks less."""
    missing: dict[Place, int] = {}
    for tier in plan.memory.tiers:
        if not tier.fits:
            missing[tier.place] = missing.get(tier.place, 0) + tier.missing_bytes
    on_gpu_bytes = _missing_on_gpu(plan)
    return {"gpu": on_gpu_bytes} if 0 < on_gpu_bytes < sum(missing.values()) else missing


def _missing_on_gpu(plan: RuntimePlan) -> int:
    """Give what a GPU lacks that was too small to be chosen; 0 where there is none."""
    tier, config = plan.memory.tier("gpu"), plan.config
    if tier is None or plan.device != "cpu" or config.device == "cpu" or plan.backend_id is None:
        return 0
    traits = NATIVE_TRAITS if plan.backend_id == "optimized-native" else GENERIC_TRAITS
    kind: DeviceKind = "mps" if tier.device == "mps" else "cuda"
    if kind not in traits.device_kinds:
        return 0
    demand = demand_of(plan.resolved_model, config, traits)
    stored = plan.resolved_model.weights.dtype if plan.resolved_model.weights else None
    whole = "float32" in (config.dtype, stored if config.dtype == "auto" else None)
    least_bytes = demand.must_hold_bytes("float32" if whole else "bfloat16", kind)
    return max(least_bytes - tier.available_bytes, 0)


def _lacking_for_download(plan: RuntimePlan) -> int:
    """Give what the disk lacks for files that have to be brought first."""
    size_bytes = plan.resolved_model.capabilities.bytes_on_disk
    if plan.model_path is not None or plan.node or not size_bytes:
        return 0  # of a node's disk nothing is known here
    folder = plan.config.models_dir
    if folder is None:
        folder = default_models_dir() if models_dir_was_chosen() else default_hub_cache()
    return max(size_bytes - disk_tier(Path(folder).expanduser()).free_bytes, 0)


def _offloads(plan: RuntimePlan) -> bool:
    own = own_tier(plan)
    return any(tier != own for tier in plan.placement.tiers)


def _rounded(tokens_per_s: float) -> str:
    """Round to what a prediction is good for: two digits, ``"22"``, ``"4.3"``, ``"160"``."""
    return f"{float(f'{tokens_per_s:.2g}'):g}" if tokens_per_s < 100 else f"{tokens_per_s:.0f}"
