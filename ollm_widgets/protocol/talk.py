"""What region `Chat` draws: the conversation and what can be done next."""

from __future__ import annotations

from typing import Literal

from ollm_widgets.protocol.pieces import ShortText, View


class AttachmentView(View, frozen=True):
    """A file that goes with a question; its content stays in the kernel."""

    id: str
    name: str
    kind: Literal["text", "image"]
    size: str  # "3.2 kB"
    thumbnail: str = ""  # a small image as a data URL
    reading: bool = False  # it is still decoded


class Turn(View, frozen=True):
    """One article of the conversation."""

    id: str
    speaker: Literal["you", "model"]
    text: str
    state: Literal["done", "waiting", "streaming", "stopped", "failed"]
    note: str = ""  # "24 tokens, 19.8 tokens/s"; while it waits, what for
    versions: tuple[str, ...] = ()  # ids of what could stand here, its own included; () = only it
    attachments: tuple[AttachmentView, ...] = ()


class SamplingField(View, frozen=True):
    """One field of how answers are generated."""

    name: ShortText  # what a `sample` command names
    label: str
    kind: Literal["count", "number", "texts"]  # texts are one a line
    value: str  # "" = automatic
    automatic: str  # what applies when nothing is typed
    help: str
    unused: str = ""  # why it changes nothing now
    error: str = ""  # what is wrong with the value, and the fix


class SamplingPresetView(View, frozen=True):
    """A set of values that goes by a name."""

    id: ShortText
    title: str
    help: str
    active: bool = False  # what applies now is just this


class SamplingView(View, frozen=True):
    """How the next answers are generated."""

    fields: tuple[SamplingField, ...] = ()
    presets: tuple[SamplingPresetView, ...] = ()
    summary: str = ""  # "Exact", "Temperature 0.8"


class InstructionsView(View, frozen=True):
    """What the model is told before the first question."""

    text: str = ""
    note: str = ""  # what happens to it where the model knows no such role


class TrayView(View, frozen=True):
    """The files that will go with the next question."""

    items: tuple[AttachmentView, ...] = ()
    problem: str = ""  # why the latest file was not taken
    help: str = ""  # what can be attached, and why not more


class ChatView(View, frozen=True):
    """Region `Chat`."""

    turns: tuple[Turn, ...]
    busy: bool
    can_send: bool
    hint: str  # why sending is not possible yet, or what the box is for
    status: str  # "19.8 tokens/s"
    context_tokens: int = 0  # tokens used
    context_limit: int = 0  # tokens available, 0 = unknown
    gone: str = ""  # how the runtime of this conversation left memory; "" while it is there
    can_reload: bool = False  # it can be loaded again now
    instructions: InstructionsView = InstructionsView()
    sampling: SamplingView = SamplingView()
    tray: TrayView = TrayView()
