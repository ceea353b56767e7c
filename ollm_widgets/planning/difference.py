"""What differs between two plans, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.ids import Place
from ollm_widgets.planning.parts import listed
from ollm_widgets.planning.reasons import (
    passes_in_words,
    passes_of,
    rate_in_words,
    why_backend,
    why_device,
    why_dtype,
    why_kv,
    why_layers,
    why_passes,
    why_speed,
)
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_memory, format_seconds

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

ChangeKind: TypeAlias = Literal["config", "consequence"]
Say: TypeAlias = "Callable[[RuntimePlan], str]"
Topic: TypeAlias = "tuple[str, Say, Say]"  # its name, what is said of it, and why it is so

_AUTOMATIC = "automatic"
_NONE = "none"
_UNKNOWN = "not known"
_ORDER: dict[Place, int] = {"gpu": 0, "ram": 1, "disk": 2}


@dataclass(frozen=True, slots=True)
class PlanChange:
    """One thing that differs.

    Parameters
    ----------
    kind
        A field of the config, or what follows from it.
    field
        The config field, or the name of the consequence in words.
    before, after
        What it was, and what it is, as texts.
    why
        Why it is so now, where a reason is known.
    """

    kind: ChangeKind
    field: str
    before: str
    after: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class PlanDifference(Tabular):
    """What differs between two plans; false when nothing does.

    Parameters
    ----------
    rows
        Fields of the config that differ, then what follows.
    """

    rows: tuple[PlanChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def config(self) -> tuple[PlanChange, ...]:
        """The fields of the config that differ."""
        return tuple(each for each in self.rows if each.kind == "config")

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return one plain dict a change, as `json.dumps` and DataFrames take them."""
        return [asdict(each) for each in self.rows]

    def table(self) -> Table:
        """One row a change, its reason below it."""
        count = len(self.rows)
        return Table(
            title="What differs between two plans",
            subtitle=f"{count} difference{'' if count == 1 else 's'}" if count else "nothing",
            columns=tuple(Column(title, numbers=False) for title in ("Field", "Before", "After")),
            rows=tuple(
                TableRow((each.field, each.before, each.after), each.why) for each in self.rows
            ),
        )


def difference(before: RuntimePlan, after: RuntimePlan) -> PlanDifference:
    """Compare two plans; the reasons are those of `after`.

    What follows from a config is compared as it reads, so that a megabyte that another program
    took meanwhile is no difference.
    """
    rows = [
        PlanChange("config", name, _value(old), _value(new), _why_chosen(name, new))
        for name, old, new in _config_values(before.config, after.config)
        if old != new
    ]
    rows += _said(before, after, _SAYS)
    rows += _passes(before, after)
    tiers = [(title, _memory_of(title), _no_reason) for title in _titles(before, after)]
    rows += _said(before, after, tiers)
    rows += _said(before, after, _SPEEDS)
    return PlanDifference(tuple(rows))


def _said(before: RuntimePlan, after: RuntimePlan, says: Iterable[Topic]) -> list[PlanChange]:
    """Compare what is said of both plans."""
    texts = [(name, say(before), say(after), why) for name, say, why in says]
    return [
        PlanChange("consequence", name, old, new, why(after))
        for name, old, new, why in texts
        if old != new
    ]


def _titles(before: RuntimePlan, after: RuntimePlan) -> list[str]:
    """Name the tiers of both plans, the fastest first, whichever plan comes first."""
    tiers = {(tier.place, tier.title) for plan in (before, after) for tier in plan.memory.tiers}
    return [title for _place, title in sorted(tiers, key=lambda one: (_ORDER[one[0]], one[1]))]


def _config_values(before: RuntimeConfig, after: RuntimeConfig) -> list[tuple[str, object, object]]:
    names = (item.name for item in fields(RuntimeConfig))
    return [(name, getattr(before, name), getattr(after, name)) for name in names]


def _value(value: object) -> str:
    if value is None or value == "auto":
        return _AUTOMATIC
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _why_chosen(name: str, value: object) -> str:
    default = next(item.default for item in fields(RuntimeConfig) if item.name == name)
    if name == "model_reference" or value != default:
        return "It was asked for."
    return "It is left to the planner." if _value(value) == _AUTOMATIC else "It is the default."


def _passes(before: RuntimePlan, after: RuntimePlan) -> list[PlanChange]:
    """Compare the passes, as those that only one of the plans has."""
    old, new = passes_of(before), passes_of(after)
    gone = tuple(each for each in old if each not in new)
    come = tuple(each for each in new if each not in old)
    if not gone and not come:
        return []
    why = passes_in_words(come) if come else why_passes(after) if not new else ""
    texts = [", ".join(ids) or _NONE for ids in (gone, come)]
    return [PlanChange("consequence", "Passes", texts[0], texts[1], why)]


def _no_reason(_plan: RuntimePlan) -> str:
    return ""


def _runs(plan: RuntimePlan) -> str:
    if plan.executable:
        return "yes"
    where = "there" if plan.node else "here"
    return f"once its files are {where}" if plan.needs_files else "no"


def _why_it_runs(plan: RuntimePlan) -> str:
    return "" if plan.executable else plan.reason


def _kv_size(plan: RuntimePlan) -> str:
    kv = plan.kv
    kept = f", last {kv.window_tokens:,} kept" if kv.window_tokens is not None else ""
    size = f", {format_memory(kv.total_bytes)}" if kv.total_bytes else ""
    return f"{kv.context_tokens:,} tokens{kept}{size}"


def _streaming(plan: RuntimePlan) -> str:
    streaming = plan.streaming
    words = (
        ("packed in RAM", streaming.packed),
        ("only chosen experts move", streaming.expert_streaming),
        ("read past the page cache", streaming.read_direct),
        ("steps replayed from a recording", streaming.captured_steps),
    )
    buffers = f"{streaming.device_slots} buffers" if streaming.device_slots else ""
    said = [text for text, holds in ((buffers, buffers), *words) if holds]
    return ", ".join(said) or _NONE


def _memory_of(title: str) -> Say:
    def say(plan: RuntimePlan) -> str:
        if not plan.memory.tiers:
            return _UNKNOWN
        tier = next((each for each in plan.memory.tiers if each.title == title), None)
        return tier.summary() if tier is not None and tier.needed_bytes else _NONE

    return say


def _tokens_per_s(plan: RuntimePlan) -> str:
    if plan.speed is None:
        return "not predicted"
    return f"{rate_in_words(plan.speed.tokens_per_s)} tokens/s"


def _first_token(plan: RuntimePlan) -> str:
    speed = plan.speed
    if speed is None:
        return "not predicted"
    return f"{format_seconds(speed.time_to_first_token_s)} for {speed.prompt_tokens:,} tokens"


def _load(plan: RuntimePlan) -> str:
    load_s = plan.speed.load_s if plan.speed is not None else None
    return format_seconds(load_s) if load_s is not None else "not predicted"


_SAYS: tuple[Topic, ...] = (
    ("Model", lambda plan: plan.resolved_model.display_name, _no_reason),
    ("Runs", _runs, _why_it_runs),
    ("Node", lambda plan: plan.node or "this machine", lambda plan: plan.node_reason),
    ("Backend", lambda plan: plan.backend_id or _NONE, why_backend),
    ("Device", lambda plan: listed(plan.devices), why_device),
    ("Number format", lambda plan: plan.dtype, why_dtype),
    ("Layers", lambda plan: plan.placement.summary(), why_layers),
    ("Streaming", _streaming, _no_reason),
    ("KV strategy", lambda plan: plan.kv.strategy, why_kv),
    ("KV cache", _kv_size, _no_reason),
    ("KV codec", lambda plan: plan.kv.codec or "full precision", _no_reason),
    ("KV fallbacks", lambda plan: ", ".join(plan.kv.fallbacks) or _NONE,
     _no_reason),
    ("State of the passes", lambda plan: plan.specialization_state,
     lambda plan: plan.fallback_reason or ""),
)  # fmt: skip
_SPEEDS: tuple[Topic, ...] = (
    ("Speed", _tokens_per_s, why_speed),
    ("First token", _first_token, _no_reason),
    ("Loading", _load, _no_reason),
)
