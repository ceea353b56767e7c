"""What the region `Activity` draws itself from: the pictures of a running model.

Figures of many tokens go down as columns, which are small on the wire and in a saved notebook.
"""

from __future__ import annotations

from typing import Literal

from ollm_widgets.protocol.pieces import View


class PaceView(View, frozen=True):
    """How fast the latest answer is, or was, written."""

    state: Literal["reading", "writing", "ended"]
    prompt_tokens: int
    reused_tokens: int  # of the prompt, not computed again
    first_token_s: float
    new_tokens: int
    seconds: float  # from the request's turn to the last token
    tokens_per_s: float  # after the first token; 0 = not known yet
    tokens: tuple[int, ...]  # written so far, at each of `at_s`
    at_s: tuple[float, ...]  # seconds since the request's turn came
    text: str  # the picture in a sentence


class KVItem(View, frozen=True):
    """What the KV cache held after one answer."""

    number: int  # of the answer, from 1
    tokens: int
    hot_tokens: int
    hot_bytes: int  # on the device that computes
    ram_bytes: int
    disk_bytes: int
    text: str


class KVView(View, frozen=True):
    """How the KV cache has grown over the conversation."""

    items: tuple[KVItem, ...]
    limit_tokens: int  # planned for; 0 = not known
    limit_bytes: int  # of a cache that holds as many; 0 = not known
    text: str


PartKind = Literal["disk", "copy", "unpack", "compute", "choose", "between"]


class TracePart(View, frozen=True):
    """One thing that the time of a token goes to."""

    kind: PartKind
    name: str
    help: str
    tokens_ms: tuple[float, ...]  # of each token that was recorded
    layers_ms: tuple[float, ...]  # of each layer of the token that is shown


class TraceView(View, frozen=True):
    """Where the time of each token of an answer went; the parts of a token are its time."""

    parts: tuple[TracePart, ...]
    numbers: tuple[int, ...]  # of the tokens, from 1
    shown: int  # the number of the token whose layers are shown; 0 = none was recorded
    prompt: str  # what the first pass did, which read the prompt
    note: str  # what was not recorded, and why
    text: str


class TruthItem(View, frozen=True):
    """A figure of the plan beside what came true."""

    name: str
    predicted: str
    measured: str
    ratio: float  # measured over predicted
    remark: str


class ActivityView(View, frozen=True):
    """Region `Activity`."""

    pace: PaceView | None = None
    kv: KVView | None = None
    trace: TraceView | None = None
    truth: tuple[TruthItem, ...] = ()
    truth_text: str = ""
    tracing: Literal["off", "starting", "on"] = "off"
    untraceable: str = ""  # why no answer can be traced now
    problem: str = ""  # why the last trace came to nothing
