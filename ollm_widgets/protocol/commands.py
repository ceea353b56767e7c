"""What comes up from the page, and how each command is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ollm_widgets.protocol.snapshot import Problem, ShortText

PromptText = Annotated[str, Meta(max_length=1_000_000)]
Id = Annotated[str, Meta(min_length=1, max_length=128)]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what commands carry."""


class Nothing(Body, frozen=True):
    """The body of a command without arguments."""


class SearchBody(Body, frozen=True):
    """Text of the search box."""

    text: ShortText


class ChooseBody(Body, frozen=True):
    """A reference, as listed or typed."""

    reference: ShortText


EditableField = Literal[
    "backend",
    "device",
    "dtype",
    "kv_cache_strategy",
    "kv_cache_window_tokens",
    "kv_cache_sink_tokens",
    "kv_cache_codec",
    "kv_cache_memory_budget",
    "kv_cache_lifecycle",
    "strategy_selector_profile",
    "offload_gpu_layers",
    "offload_cpu_layers",
    "offload_cpu_policy",
    "gpu_memory_budget",
    "cpu_memory_budget",
    "context_tokens",
    "dense_projection_chunk_rows",
    "use_specialization",
]
PresetId = Literal["fastest", "least-gpu-memory", "longest-context", "small-machine"]
Count = Annotated[str, Meta(max_length=16)]  # digits; "" = automatic


class EditBody(Body, frozen=True):
    """A field and its new value."""

    field: EditableField
    value: Annotated[str, Meta(max_length=64)]  # "" = automatic


class PlaceBody(Body, frozen=True):
    """How many layers stay on the GPU and in RAM."""

    gpu_layers: Count
    ram_layers: Count
    settled: bool  # false while a boundary is still being dragged


class PresetBody(Body, frozen=True):
    """A set of choices by its name."""

    preset: PresetId


class RuntimeBody(Body, frozen=True):
    """A runtime in memory."""

    runtime: Id


class PinBody(Body, frozen=True):
    """A runtime, and whether to keep it."""

    runtime: Id
    pinned: bool


class SendBody(Body, frozen=True):
    """A question."""

    text: PromptText


class TurnBody(Body, frozen=True):
    """A turn of the conversation."""

    turn: Id


class EditTurnBody(Body, frozen=True):
    """A turn, and the question in its place."""

    turn: Id
    text: PromptText


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"):
    """Base of the commands; `id` is made by the page and comes back in the reply."""

    v: int
    id: Id


class BareCommand(Command, frozen=True, tag_field="name"):
    """Base of the commands that carry nothing."""

    body: Nothing = Nothing()


class Hello(BareCommand, frozen=True, tag="hello"):
    """A page has opened; the reply is followed by a snapshot event."""


class Resync(BareCommand, frozen=True, tag="resync"):
    """The page missed an event; the reply is followed by a snapshot event."""


class Search(Command, frozen=True, tag="search"):
    """Filter the list of models."""

    body: SearchBody


class More(BareCommand, frozen=True, tag="more"):
    """Fetch the hub's next models."""


class Remove(Command, frozen=True, tag="remove"):
    """Delete a model's files; the page has asked the person."""

    body: ChooseBody


class Choose(Command, frozen=True, tag="choose"):
    """Choose a model."""

    body: ChooseBody


class Edit(Command, frozen=True, tag="edit"):
    """Change one field of the plan."""

    body: EditBody


class Place(Command, frozen=True, tag="place"):
    """Move layers between the tiers of memory."""

    body: PlaceBody


class Preset(Command, frozen=True, tag="preset"):
    """Choose a whole set of values."""

    body: PresetBody


class Undo(BareCommand, frozen=True, tag="undo"):
    """Take the last edit of the plan back."""


class Redo(BareCommand, frozen=True, tag="redo"):
    """Do again what was taken back."""


class Load(BareCommand, frozen=True, tag="load"):
    """Load the chosen model by the current plan; also the retry after a failure."""


class Cancel(BareCommand, frozen=True, tag="cancel"):
    """Cancel the load that runs."""


class Unload(Command, frozen=True, tag="unload"):
    """Give a runtime's memory back."""

    body: RuntimeBody


class Pin(Command, frozen=True, tag="pin"):
    """Keep a runtime, or allow its eviction."""

    body: PinBody


class Use(Command, frozen=True, tag="use"):
    """Talk to another loaded runtime."""

    body: RuntimeBody


class Send(Command, frozen=True, tag="send"):
    """Ask the loaded model."""

    body: SendBody


class Stop(BareCommand, frozen=True, tag="stop"):
    """Stop the answer that runs; its text so far stays."""


class Retry(Command, frozen=True, tag="retry"):
    """Answer the question before this model turn once more."""

    body: TurnBody


class EditTurn(Command, frozen=True, tag="edit-turn"):
    """Replace a question, drop what follows, answer again."""

    body: EditTurnBody


class Clear(BareCommand, frozen=True, tag="clear"):
    """Start a new conversation."""


AnyCommand = (
    Hello
    | Resync
    | Search
    | More
    | Remove
    | Choose
    | Edit
    | Place
    | Preset
    | Undo
    | Redo
    | Load
    | Cancel
    | Unload
    | Pin
    | Use
    | Send
    | Stop
    | Retry
    | EditTurn
    | Clear
)


class Reply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the replies; not numbered, since each belongs to a command."""

    v: int
    id: str


class Ack(Reply, frozen=True, tag="ack"):
    """The command was accepted."""

    job: str | None = None  # the job a command has started


class Failure(Reply, frozen=True, tag="error"):
    """The command was refused."""

    body: Problem


AnyReply = Ack | Failure
