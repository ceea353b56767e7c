"""The state a view draws itself from, part by part.

This file, `pieces`, `shelf`, `talk`, `activity`, `events` and `commands` are the schema of
everything that crosses between kernel and page, written once: `python -m ollm_widgets.protocol`
exports it as JSON Schema, from which the page's TypeScript types are generated.
"""

from __future__ import annotations

from typing import Literal

from ollm_widgets.protocol.activity import ActivityView
from ollm_widgets.protocol.pieces import Chip, Place, Problem, ShortText, Tone, View
from ollm_widgets.protocol.shelf import MemoryView
from ollm_widgets.protocol.talk import ChatView

PROTOCOL_VERSION = 1

Group = Literal["On this machine", "In the catalog", "As typed", "On the hub"]


class ModelItem(View, frozen=True):
    """One option of the model picker."""

    reference: str  # what a `choose` command sends back
    name: str
    group: Group
    facts: str  # "0.13B parameters, 270 MB, text"
    verdict: Chip
    available: bool  # its files are here, so it can be loaded now
    reason: str = ""  # why not, when it is not available
    frees_bytes: int = 0  # what deleting its files gives back; 0 = they are not ours to delete


class ModelsView(View, frozen=True):
    """Region `Models`."""

    query: str
    items: tuple[ModelItem, ...]
    chosen: str | None  # reference of the chosen model
    note: str  # e.g. where the list comes from
    searching: bool = False
    more: bool = False  # the hub has further models
    problem: str = ""  # why the hub's models are missing


class Choice(View, frozen=True):
    """One option of a select field."""

    value: str  # "" stands for automatic
    label: str
    disabled: str = ""  # the reason, when this machine or model rules it out
    help: str = ""


class Field(View, frozen=True):
    """One editable field of the plan."""

    name: ShortText  # config field an `edit` command names
    label: str  # accessible name, a contract
    kind: Literal["choice", "count", "size"]
    value: str  # what the person chose; "" = automatic
    automatic: str  # what applies when nothing is chosen, e.g. "auto: resident"
    help: str
    choices: tuple[Choice, ...] = ()
    disabled: str = ""  # the reason, when the field cannot be used
    error: str = ""  # what is wrong with the value, and the fix
    rare: bool = False  # folded under "More"


SegmentKind = Literal[
    "layers",
    "experts",
    "embeddings",
    "ring",
    "expert-cache",
    "staging",
    "kv",
    "activations",
    "used",
]


class Segment(View, frozen=True):
    """A stretch of a memory bar."""

    kind: SegmentKind
    label: str
    size_bytes: int
    help: str = ""  # what it is, in a sentence


class MemoryBar(View, frozen=True):
    """One tier of the memory map, to scale: `segments` over `capacity_bytes`."""

    place: Place
    label: str
    capacity_bytes: int
    segments: tuple[Segment, ...]
    text: str  # "0.6 GiB of 20.1 GiB free"
    device: str = ""  # torch name; layers that compute on it are drawn here
    limit_bytes: int = 0  # from the start of the bar: what the plan must stay below; 0 = none
    limit_label: str = ""  # "budget 6.0 GiB"
    missing_bytes: int = 0  # by how much the plan exceeds what it may use


class LayerRun(View, frozen=True):
    """Neighbouring decoder layers in one tier that take the same bytes."""

    place: Place
    first: int  # index of the first one, from 0
    count: int
    weights_bytes: int = 0  # of each, where it is; 0 = not known
    experts_bytes: int = 0  # the part of them that is experts
    kv_bytes: int = 0  # of each
    device: str = ""  # on which it computes


class LayersView(View, frozen=True):
    """Where the decoder layers are, and how far a person may move them."""

    runs: tuple[LayerRun, ...]
    total: int
    gpu_layers: int
    ram_layers: int
    has_gpu: bool  # a GPU computes, so that there is a boundary between it and RAM
    chosen_gpu: str = ""  # what the person chose; "" = automatic
    chosen_ram: str = ""
    disabled: str = ""  # why no layer can be moved


class Figure(View, frozen=True):
    """A predicted or measured number with its unit."""

    value: str
    unit: str
    explanation: str = ""


class TimePart(View, frozen=True):
    """One thing that takes time, beside the others or after them."""

    label: str
    seconds: float
    text: str  # "0.19 s"
    explanation: str = ""


class TimeView(View, frozen=True):
    """What a time is made of."""

    title: str  # "One token takes 190 ms"
    parts: tuple[TimePart, ...]
    note: str = ""  # what bounds it


class PresetView(View, frozen=True):
    """A set of choices that goes by a name."""

    id: ShortText
    title: str
    help: str
    active: bool = False  # what is chosen now is just this
    disabled: str = ""  # the reason, when it cannot be had


class Change(View, frozen=True):
    """What the last edit changed in the plan."""

    term: str
    before: str
    after: str
    why: str = ""


class PlanView(View, frozen=True):
    """Region `Plan`."""

    fields: tuple[Field, ...]
    executable: bool  # it can be loaded, its files downloaded first if need be
    headline: str  # "Runs with transformers-generic on the CPU"
    reason: str
    bars: tuple[MemoryBar, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    code: str = ""  # the Python that rebuilds this config
    planning: bool = False  # what is drawn is older than the fields
    layers: LayersView | None = None
    times: tuple[TimeView, ...] = ()
    correction: str = ""  # what earlier answers changed in the figures
    presets: tuple[PresetView, ...] = ()
    can_undo: bool = False
    can_redo: bool = False
    changes: tuple[Change, ...] = ()  # by the last edit
    story: str = ""  # why the plan is as it is


class FileView(View, frozen=True):
    """One file on its way, within a stage."""

    name: str
    done_bytes: int
    total_bytes: int
    text: str


class StageView(View, frozen=True):
    """One stage of a load; named, so that its progress bar has a name."""

    name: str
    state: Literal["waiting", "running", "done", "failed"]
    done_bytes: int = 0
    total_bytes: int = 0  # 0 = unknown
    text: str = ""  # "120 of 269 MB, 1.1 GB/s, 1 s left"
    files: tuple[FileView, ...] = ()  # those that move now


class LoadingView(View, frozen=True):
    """Region `Loading`."""

    state: Literal["idle", "loading", "cancelling", "loaded", "cancelled", "failed"]
    model: str = ""
    stages: tuple[StageView, ...] = ()
    problem: Problem | None = None
    can_load: bool = False
    summary: str = ""  # "Loaded in 2.1 s"


class Row(View, frozen=True):
    """A term and what is said of it."""

    term: str
    text: str
    tone: Tone = "neutral"


class CapabilitiesView(View, frozen=True):
    """Region `Capabilities`."""

    title: str
    support: Chip
    rows: tuple[Row, ...]


class Snapshot(View, frozen=True):
    """Everything a view needs to draw itself; `seq` is the last event it contains."""

    v: int
    seq: int
    title: str
    models: ModelsView
    plan: PlanView | None
    loading: LoadingView
    capabilities: CapabilitiesView | None
    memory: MemoryView
    chat: ChatView
    activity: ActivityView
