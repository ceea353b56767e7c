"""What the region `In memory` draws itself from."""

from __future__ import annotations

from typing import Literal

from ollm_widgets.protocol.pieces import Chip, Place, Problem, Tone, View

ResidentState = Literal[
    "loading",
    "waiting",
    "idle",
    "busy",
    "demoting",
    "demoted",
    "returning",
    "leaving",
]


class Holding(View, frozen=True):
    """Bytes of one kind in one tier."""

    place: Place
    kind: Literal["layers", "kv"]
    size_bytes: int


class Asker(View, frozen=True):
    """Who runs a request, or waits to; in the order of their turns."""

    caller: str  # "chat 2"
    running: bool


class ResidentItem(View, frozen=True):
    """One runtime on the shelf, or one that is on its way there."""

    id: str
    name: str
    state: ResidentState
    word: str  # the state as a person reads it: "answering"
    current: bool  # the one that this view talks to
    pinned: bool
    holdings: tuple[Holding, ...]
    text: str  # "513 MiB RAM"
    node: str = ""  # "on 10.0.0.2": the machine of a cluster that holds it; empty for this one
    last_used_s: int = 0  # since the epoch, by the kernel's clock; 0 = it is in use
    queue: tuple[Asker, ...] = ()
    can_demote: bool = False
    note: str = ""  # more of its state: whom it waits for


class PastEvent(View, frozen=True):
    """Something that happened to a runtime, in a sentence."""

    at_s: int  # since the epoch, by the kernel's clock
    text: str  # "Evicted a for b: 1.1 GB of RAM freed."
    tone: Tone = "neutral"


class OtherKernel(View, frozen=True):
    """Another kernel of this machine that holds memory."""

    id: str  # what an `ask` command sends back
    title: str  # its notebook, else its command
    text: str  # "holds 7.6 GiB of cuda:0, idle 5 min"
    asked: bool = False  # it was asked to give memory back, and still holds it


class MemoryView(View, frozen=True):
    """Region `In memory`."""

    items: tuple[ResidentItem, ...]
    chips: tuple[Chip, ...]  # "RAM, 2.1 of 23.4 GiB used"
    effect: str = ""  # what the last action did, in bytes
    problem: Problem | None = None  # why the last action of this view did not work
    history: tuple[PastEvent, ...] = ()  # newest first
    others: tuple[OtherKernel, ...] = ()
    now_s: float = 0.0  # the kernel's clock, since the epoch; alone it is no change of the view
