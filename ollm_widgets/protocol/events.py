"""What goes down after the snapshot: numbered events, each replacing one part of the view."""

from __future__ import annotations

from msgspec import Struct

from ollm_widgets.protocol.activity import ActivityView
from ollm_widgets.protocol.pieces import View
from ollm_widgets.protocol.shelf import MemoryView
from ollm_widgets.protocol.snapshot import (
    CapabilitiesView,
    LoadingView,
    ModelsView,
    PlanView,
    Snapshot,
)
from ollm_widgets.protocol.talk import ChatView


class TextDelta(View, frozen=True):
    """Text to append to a turn."""

    turn: str
    text: str


class HeaderView(View, frozen=True):
    """The line above everything."""

    title: str


class Event(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the events: each replaces one part of the view, except `chat.delta`."""

    v: int
    seq: int
    job: str | None = None


class SnapshotEvent(Event, frozen=True, tag="snapshot"):
    """The answer to `hello` and `resync`."""

    body: Snapshot


class HeaderEvent(Event, frozen=True, tag="header"):
    """The line above everything changed."""

    body: HeaderView


class ModelsEvent(Event, frozen=True, tag="models"):
    """The list of models changed."""

    body: ModelsView


class PlanEvent(Event, frozen=True, tag="plan"):
    """The plan or its fields changed."""

    body: PlanView | None


class LoadingEvent(Event, frozen=True, tag="loading"):
    """A load moved on."""

    body: LoadingView


class CapabilitiesEvent(Event, frozen=True, tag="capabilities"):
    """The profile changed."""

    body: CapabilitiesView | None


class MemoryEvent(Event, frozen=True, tag="memory"):
    """What is in memory changed."""

    body: MemoryView


class ChatEvent(Event, frozen=True, tag="chat"):
    """The conversation changed in more than its last text."""

    body: ChatView


class ActivityEvent(Event, frozen=True, tag="activity"):
    """The pictures changed."""

    body: ActivityView


class ChatDeltaEvent(Event, frozen=True, tag="chat.delta"):
    """The last turn grew."""

    body: TextDelta


AnyEvent = (
    SnapshotEvent
    | HeaderEvent
    | ModelsEvent
    | PlanEvent
    | LoadingEvent
    | CapabilitiesEvent
    | MemoryEvent
    | ChatEvent
    | ActivityEvent
    | ChatDeltaEvent
)
