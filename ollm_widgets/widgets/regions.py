"""What each region of a view says, without the controls that need a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.render.bars import Bar, Paint, Stretch
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.talk import Said

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollm_widgets.protocol.pieces import Place
    from ollm_widgets.protocol.snapshot import MemoryBar, Segment, SegmentKind, Snapshot

_MOST_MODELS = 40
_WEIGHTS: tuple[SegmentKind, ...] = ("layers", "experts", "embeddings")
_PAINTS: dict[SegmentKind, Paint] = {
    "ring": "buffers",
    "expert-cache": "buffers",
    "staging": "buffers",
    "kv": "kv",
    "activations": "work",
    "used": "used",
}


@dataclass(frozen=True, slots=True)
class Region:
    """One region of a view.

    Parameters
    ----------
    card
        What it says; titled as a person sees it in the widget.
    bars
        Its memory bars.
    turns
        Its conversation.
    """

    card: Card
    bars: tuple[Bar, ...] = ()
    turns: tuple[Said, ...] = ()


def models_region(snapshot: Snapshot) -> Region:
    """The list, as long as a person would read it."""
    models = snapshot.models
    rows = [
        Row(item.name, ", ".join(filter(None, (item.verdict.text, item.facts))), item.verdict.tone)
        for item in models.items[:_MOST_MODELS]
    ]
    left = len(models.items) - len(rows)
    if left:
        rows.append(Row("", f"and {left} more"))
    subtitle = f"that have “{models.query}” in their names" if models.query else ""
    if not rows:
        subtitle = f"None {subtitle}." if models.query else "None was listed yet."
    return Region(Card("Models", subtitle, rows=tuple(rows)))


def plan_region(snapshot: Snapshot) -> Region | None:
    """What would run, and the memory map; None while nothing is chosen."""
    plan = snapshot.plan
    if plan is None:
        return None
    rows = [Row("Reason", plan.reason)] if plan.reason else []
    if plan.figures:
        rows.append(Row("Predicted", ", ".join(f"{one.value} {one.unit}" for one in plan.figures)))
    if plan.correction:
        rows.append(Row("Note", plan.correction))
    if plan.code:
        rows.append(Row("Config", plan.code, is_code=True))
    badge = "runs" if plan.executable else "does not run"
    card = Card("Plan", plan.headline, badge, "ok" if plan.executable else "no", tuple(rows))
    return Region(card, tuple(map(_bar, plan.bars)))


def loading_region(snapshot: Snapshot) -> Region | None:
    """How the load went; None where there was none."""
    loading = snapshot.loading
    if loading.state == "idle" and not loading.stages:
        return None
    rows = [Row(stage.name, stage.text or stage.state) for stage in loading.stages]
    if loading.problem is not None:
        problem = loading.problem
        rows.append(Row("", f"{problem.message} {problem.hint}".rstrip(), "no"))
    return Region(Card("Loading", loading.summary or loading.model, rows=tuple(rows)))


def chat_region(snapshot: Snapshot) -> Region | None:
    """The conversation; None before the first question."""
    chat = snapshot.chat
    if not chat.turns:
        return None
    used = f"{chat.context_tokens:,} tokens of context used" if chat.context_tokens else ""
    of = f", of {chat.context_limit:,}" if used and chat.context_limit else ""
    told = chat.instructions.text
    turns = tuple(
        Said(
            "You" if turn.speaker == "you" else snapshot.title,
            "\n".join((*(f"[{file.name}, {file.size}]" for file in turn.attachments), turn.text)),
            turn.note,
        )
        for turn in chat.turns
    )
    rows = (Row("Instructions", told),) if told else ()
    return Region(Card("Chat", f"{used}{of}", rows=rows), turns=turns)


def capabilities_region(snapshot: Snapshot) -> Region | None:
    """What the model can do; None while nothing is chosen."""
    seen = snapshot.capabilities
    if seen is None:
        return None
    rows = tuple(Row(row.term, row.text, row.tone) for row in seen.rows)
    return Region(Card("Capabilities", "", seen.support.text, seen.support.tone, rows))


def activity_region(snapshot: Snapshot) -> Region | None:
    """The pictures of a running model in their own words; None before it ran."""
    seen = snapshot.activity
    told = (("Speed", seen.pace), ("KV cache", seen.kv), ("Time of a token", seen.trace))
    rows = [Row(term, view.text) for term, view in told if view is not None and view.text]
    return Region(Card("Activity", rows=tuple(rows))) if rows else None


def memory_region(snapshot: Snapshot) -> Region:
    """What is in memory, and how full the machine is."""
    memory = snapshot.memory
    rows = [
        Row(item.name, ", ".join(filter(None, (item.text, item.node, item.word, item.note))))
        for item in memory.items
    ]
    rows += [Row(other.title, f"another kernel, {other.text}") for other in memory.others]
    chips = "; ".join(chip.text for chip in memory.chips)
    if not memory.items:
        chips = f"No model is loaded. {chips}".rstrip()
    return Region(Card("In memory", chips, rows=tuple(rows)))


def _bar(bar: MemoryBar) -> Bar:
    stretches = tuple(_stretches(bar.place, bar.segments))
    return Bar(bar.label, bar.text, bar.capacity_bytes, stretches, bar.limit_bytes)


def _stretches(place: Place, segments: Iterable[Segment]) -> Iterable[Stretch]:
    for one in segments:
        paint: Paint = place if one.kind in _WEIGHTS else _PAINTS[one.kind]
        yield Stretch(one.label, one.size_bytes, paint)
