"""The editable fields of the plan, each with what it means and what rules it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.kv_presets import KV_PRESETS
from ollm_widgets.protocol.snapshot import Choice, Field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollm_widgets.planning.traits import BackendTraits
    from ollm_widgets.session.session import Session


def view_fields(session: Session) -> tuple[Field, ...]:
    """All fields in the order they are shown; the caller holds the session's lock."""
    plan = session.plan
    backends = [backend.traits for backend in session.manager.loader.backends.values()]
    traits = next((one for one in backends if plan and one.backend_id == plan.backend_id), None)
    window = str(plan.kv.window_tokens or "") if plan else ""
    return (
        _choice(
            session,
            "backend",
            label="Backend",
            automatic=f"auto: {plan.backend_id}" if plan and plan.backend_id else "automatic",
            choices=_backends(backends),
            meaning="What runs the model. Automatic takes the fastest one that can.",
        ),
        _choice(
            session,
            "kv_cache_strategy",
            label="KV strategy",
            automatic=f"auto: {plan.kv.strategy}" if plan else "automatic",
            choices=_strategies(traits),
            meaning="Where the attention cache lives, and what it keeps.",
        ),
        _count(
            session,
            "kv_cache_window_tokens",
            label="Window tokens",
            automatic=window or "full history",
            meaning="Attend to the last N tokens only: memory stays bounded, older text is "
            "forgotten.",
        ),
        _count(
            session,
            "offload_gpu_layers",
            label="Layers on GPU",
            automatic=f"{plan.placement.accelerator_layers} (auto)" if plan else "automatic",
            meaning="Decoder layers that stay on the accelerator.",
            disabled=_no_offload(traits),
        ),
        _count(
            session,
            "offload_cpu_layers",
            label="Layers in RAM",
            automatic=f"{plan.placement.host_layers} (auto)" if plan else "automatic",
            meaning="Decoder layers that stay in host memory.",
            disabled=_no_offload(traits),
        ),
        _count(
            session,
            "context_tokens",
            label="Context",
            automatic=f"{plan.kv.context_tokens:,}" if plan else "automatic",
            meaning="Tokens to plan memory for, question and answer together.",
        ),
        _choice(
            session,
            "kv_cache_lifecycle",
            label="KV lifecycle",
            automatic="auto: runtime-scoped",
            choices=_lifecycles(traits),
            meaning="Whether the attention cache outlives the loaded model.",
        ),
    )


def _choice(
    session: Session,
    name: str,
    *,
    label: str,
    automatic: str,
    choices: Iterable[Choice],
    meaning: str,
) -> Field:
    value, error = _value(session, name)
    return Field(
        name=name,
        label=label,
        kind="choice",
        value=value,
        automatic=automatic,
        help=meaning,
        choices=(Choice(value="", label=automatic), *choices),
        error=error,
    )


def _count(
    session: Session, name: str, *, label: str, automatic: str, meaning: str, disabled: str = ""
) -> Field:
    value, error = _value(session, name)
    return Field(
        name=name,
        label=label,
        kind="count",
        value=value,
        automatic=automatic,
        help=meaning,
        # A value that is there can always be taken back.
        disabled="" if value else disabled,
        error=error,
    )


def _value(session: Session, name: str) -> tuple[str, str]:
    """What was typed or chosen, and what is wrong with it."""
    if name in session.edits:
        return session.edits[name], session.edit_errors[name]
    value = getattr(session.config, name, None)
    default = "runtime-scoped" if name == "kv_cache_lifecycle" else None
    return "" if value == default else str(value), ""


def _backends(backends: Iterable[BackendTraits]) -> Iterable[Choice]:
    for traits in backends:
        yield Choice(
            value=traits.backend_id,
            label=traits.backend_id,
            disabled=traits.unavailable,
            help=traits.title,
        )


def _strategies(traits: BackendTraits | None) -> Iterable[Choice]:
    for preset in KV_PRESETS:
        held = traits is None or preset.strategy_id in traits.kv_strategies
        yield Choice(
            value=preset.strategy_id,
            label=preset.strategy_id,
            disabled="" if held or traits is None else f"{traits.backend_id} cannot hold it.",
            help=preset.help,
        )


def _lifecycles(traits: BackendTraits | None) -> Iterable[Choice]:
    keeps = traits is not None and traits.supports_disk_cache
    yield Choice(
        value="persistent",
        label="persistent",
        disabled="" if keeps else "No backend here keeps the cache on disk.",
        help="Found again by a later kernel.",
    )


def _no_offload(traits: BackendTraits | None) -> str:
    if traits is None or traits.supports_cpu_offload or traits.supports_gpu_offload:
        return ""
    return traits.offload_reason
