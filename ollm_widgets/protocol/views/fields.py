"""The editable fields of the plan, each with what it means and what rules it out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypeAlias, TypedDict, Unpack

from msgspec.structs import replace

from ollm_widgets.planning.ids import Place
from ollm_widgets.protocol.snapshot import Choice, Field
from ollm_widgets.protocol.views import choices as options
from ollm_widgets.protocol.views.choices import ruled_out
from ollm_widgets.render.units import format_memory
from ollm_widgets.session.edits import edit_text
from ollm_widgets.session.kernel_manager import offers_cluster

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits
    from ollm_widgets.session.session import Session

_Kind: TypeAlias = Literal["choice", "count", "size"]


def view_fields(session: Session) -> tuple[Field, ...]:
    """All fields in the order they are shown; the caller holds the session's lock."""
    offered = [backend.traits for backend in session.manager.loader.backends.values()]
    plan = session.plan
    traits = next((one for one in offered if plan and one.backend_id == plan.backend_id), None)
    form = _Form(session, plan, traits)
    rare = (replace(field, rare=True) for field in _rare(form))
    return (*_main(form, offered), *rare)


def _main(form: _Form, offered: Iterable[BackendTraits]) -> Iterable[Field]:
    session, plan, traits = form.session, form.plan, form.traits
    config = session.config
    yield form.choice(
        "backend",
        label="Backend",
        automatic=f"auto: {plan.backend_id}" if plan and plan.backend_id else "automatic",
        choices=options.backends(config, offered),
        meaning="What runs the model. Automatic takes the fastest one that can.",
    )
    yield form.choice(
        "device",
        label="Device",
        automatic=_automatic_device(plan),
        choices=options.devices(session.desk.machine, plan, offers_cluster(session.manager)),
        meaning="Where it computes. Automatic takes a GPU where there is one.",
    )
    yield form.choice(
        "kv_cache_strategy",
        label="KV strategy",
        automatic=f"auto: {plan.kv.strategy}" if plan else "automatic",
        choices=options.strategies(config, traits),
        meaning="Where the attention cache lives, and what it keeps.",
    )
    yield form.count(
        "kv_cache_window_tokens",
        label="Window tokens",
        automatic=(str(plan.kv.window_tokens or "") if plan else "") or "full history",
        meaning="Attend to the last N tokens only: memory stays bounded, older text is forgotten.",
        disabled=ruled_out(config, "kv_cache_window_tokens", 1),
    )
    placement = plan.placement if plan is not None and plan.placement.tiers else None
    on_cpu = plan is not None and placement is not None and plan.device == "cpu"
    yield form.count(
        "offload_gpu_layers",
        label="Layers on GPU",
        automatic=f"{placement.accelerator_layers} (auto)" if placement else "automatic",
        meaning="Decoder layers that stay on the accelerator.",
        disabled="This plan runs on the CPU." if on_cpu else form.no_offload,
    )
    yield form.count(
        "offload_cpu_layers",
        label="Layers in RAM",
        automatic=f"{placement.host_layers} (auto)" if placement else "automatic",
        meaning="Decoder layers that stay in host memory.",
        disabled=form.no_offload,
    )
    yield form.count(
        "context_tokens",
        label="Context",
        automatic=f"{plan.kv.context_tokens:,}" if plan else "automatic",
        meaning="Tokens to plan memory for, question and answer together.",
    )
    yield form.choice(
        "kv_cache_lifecycle",
        label="KV lifecycle",
        automatic="auto: runtime-scoped",
        choices=options.lifecycles(config, traits),
        meaning="Whether the attention cache outlives the loaded model.",
    )


def _automatic_device(plan: RuntimePlan | None) -> str:
    if plan is None:
        return "automatic"
    if not plan.node:
        return f"auto: {plan.device}"
    # What the device is called on a node says nothing of this machine.
    return f"auto: {plan.node}" if plan.config.device == "auto" else "automatic"


def _rare(form: _Form) -> Iterable[Field]:
    session, plan = form.session, form.plan
    config, machine = session.config, session.desk.machine
    has_gpu = machine is None or bool(machine.accelerators) or form.tier_bytes("gpu") is not None
    yield form.size(
        "gpu_memory_budget",
        label="GPU budget",
        automatic=form.tier_bytes("gpu") or "what is free",
        meaning="The most memory to use of each GPU, such as 6GiB.",
        disabled="" if has_gpu else "This machine has no GPU.",
    )
    yield form.size(
        "cpu_memory_budget",
        label="RAM budget",
        automatic=form.tier_bytes("ram") or "what is free",
        meaning="The most RAM to use, such as 16GiB.",
    )
    yield form.size(
        "kv_cache_memory_budget",
        label="KV budget",
        automatic="what is left",
        meaning="The most memory of the device that the KV cache may take, such as 512MiB; the "
        "rest goes to slower tiers.",
    )
    yield form.choice(
        "dtype",
        label="Data type",
        automatic=f"auto: {plan.dtype}" if plan else "automatic",
        choices=options.dtypes(),
        meaning="What it computes in: 16 bits take half of the memory of 32.",
    )
    yield form.choice(
        "strategy_selector_profile",
        label="KV aim",
        automatic="balanced",
        choices=options.profiles(),
        meaning="By what aim a KV strategy is chosen, where none is.",
    )
    yield form.choice(
        "kv_cache_codec",
        label="KV codec",
        automatic=f"auto: {plan.kv.codec}" if plan and plan.kv.codec else "automatic",
        choices=options.codecs(config),
        meaning="How the cold part of a quantized KV cache is kept.",
    )
    yield form.count(
        "kv_cache_sink_tokens",
        label="Sink tokens",
        automatic="0",
        meaning="First tokens that a window keeps beside its last ones.",
        disabled=ruled_out(config, "kv_cache_sink_tokens", 1),
    )
    yield form.choice(
        "offload_cpu_policy",
        label="Which layers in RAM",
        automatic="auto",
        choices=options.policies(),
        meaning="Which of the layers are the ones in RAM.",
        disabled=form.no_offload,
    )
    rows = plan.streaming.prefill_chunk_tokens if plan else None
    yield form.count(
        "dense_projection_chunk_rows",
        label="Rows at a time",
        automatic=f"{rows:,}" if rows else "all",
        meaning="Rows of a prompt that pass a layer at once: fewer take less memory.",
    )
    yield form.choice(
        "use_specialization",
        label="Optimized passes",
        automatic="on",
        choices=options.passes(config),
        meaning="Whether passes that make a model faster may apply where they match.",
    )


class _Said(TypedDict):
    """What is said of a field: its name, what applies when nothing is chosen, what it is for."""

    label: str
    automatic: str
    meaning: str
    disabled: NotRequired[str]


@dataclass(frozen=True, slots=True)
class _Form:
    """What fields are made from."""

    session: Session
    plan: RuntimePlan | None
    traits: BackendTraits | None

    @property
    def no_offload(self) -> str:
        """Why no layer can be placed; empty if they can."""
        traits = self.traits
        if traits is None or traits.supports_cpu_offload or traits.supports_gpu_offload:
            return ""
        return traits.offload_reason

    def tier_bytes(self, place: Place) -> str | None:
        """What the plan may use of a tier, None where it has no such tier."""
        tier = self.plan.memory.tier(place) if self.plan is not None else None
        return format_memory(tier.available_bytes) if tier is not None else None

    def choice(self, name: str, *, choices: Iterable[Choice], **said: Unpack[_Said]) -> Field:
        """A select, automatic first."""
        field = self._field(name, "choice", **said)
        return replace(field, choices=(Choice(value="", label=said["automatic"]), *choices))

    def count(self, name: str, **said: Unpack[_Said]) -> Field:
        """A box for a whole number."""
        return self._field(name, "count", **said)

    def size(self, name: str, **said: Unpack[_Said]) -> Field:
        """A box for a size of memory."""
        return self._field(name, "size", **said)

    def _field(self, name: str, kind: _Kind, **said: Unpack[_Said]) -> Field:
        session = self.session
        error = session.desk.errors.get(name, "")
        if error:
            value = session.desk.edits[name]
        else:
            value = edit_text(session.config, name) if session.config is not None else ""
        return Field(
            name=name,
            label=said["label"],
            kind=kind,
            value=value,
            automatic=said["automatic"],
            help=said["meaning"],
            # A value that is there can always be taken back.
            disabled="" if value else said.get("disabled", ""),
            error=error.removeprefix(f"{name}: "),
        )
