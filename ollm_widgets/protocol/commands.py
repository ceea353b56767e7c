"""What comes up from the page, and how each command is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ollm_widgets.protocol.pieces import Problem, ShortText

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


class LoadBody(Body, frozen=True):
    """Whether to load although room could not be made."""

    anyway: bool


class RuntimeBody(Body, frozen=True):
    """A runtime in memory."""

    runtime: Id


class PinBody(Body, frozen=True):
    """A runtime, and whether to keep it."""

    runtime: Id
    pinned: bool


class UnloadBody(Body, frozen=True):
    """A runtime, and whether to stop what it does; without that its end is waited for."""

    runtime: Id
    force: bool


class AskBody(Body, frozen=True):
    """Another kernel, as the shelf lists it."""

    holder: Id


SamplingFieldName = Literal[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "seed",
    "stop",
]
SamplingPresetId = Literal["exact", "balanced", "creative"]
FileName = Annotated[str, Meta(max_length=1_024)]
# Jupyter's server closes a connection over a message of more than 10 MiB.
MOST_OF_A_PIECE = 4 * 1024**2  # bytes


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


class ShowBody(Body, frozen=True):
    """A version of a turn, by its own id."""

    turn: Id


class InstructBody(Body, frozen=True):
    """What the model is told before the first question; "" = nothing."""

    text: PromptText


class SampleBody(Body, frozen=True):
    """A field of how answers are generated, and its new value."""

    field: SamplingFieldName
    value: ShortText  # "" = automatic


class SamplingPresetBody(Body, frozen=True):
    """A set of values for how answers are generated, by its name."""

    preset: SamplingPresetId


class AttachBody(Body, frozen=True):
    """A piece of a file; its bytes are the message's one buffer."""

    upload: Id  # the same for all pieces of a file
    name: FileName
    last: bool


class DetachBody(Body, frozen=True):
    """A file that was to go with the next question."""

    attachment: Id


class ExportBody(Body, frozen=True):
    """What the conversation is to become; the reply carries it."""

    form: Literal["markdown", "python"]


class TraceBody(Body, frozen=True):
    """Whether to trace the next answer."""

    on: bool


class InspectBody(Body, frozen=True):
    """A token of the answer that was traced."""

    token: Count  # its number; "" = the typical one


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


class Load(Command, frozen=True, tag="load"):
    """Load the chosen model by the current plan; also the retry after a failure."""

    body: LoadBody


class Cancel(BareCommand, frozen=True, tag="cancel"):
    """Cancel the load that runs."""


class Unload(Command, frozen=True, tag="unload"):
    """Give a runtime's memory back."""

    body: UnloadBody


class Demote(Command, frozen=True, tag="demote"):
    """Move a runtime from the accelerator to host memory."""

    body: RuntimeBody


class Ask(Command, frozen=True, tag="ask"):
    """Ask another kernel to give memory back; it need not."""

    body: AskBody


class Reload(BareCommand, frozen=True, tag="reload"):
    """Load the runtime of this conversation again, which has left memory."""


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
    """Answer the question before this model turn once more; this answer stays as a version."""

    body: TurnBody


class EditTurn(Command, frozen=True, tag="edit-turn"):
    """Ask another question in the place of one, which stays as a version, and answer it."""

    body: EditTurnBody


class Show(Command, frozen=True, tag="show"):
    """Show another version of a turn, and what followed it."""

    body: ShowBody


class Instruct(Command, frozen=True, tag="instruct"):
    """Tell the model something before the first question, from the next answer on."""

    body: InstructBody


class Sample(Command, frozen=True, tag="sample"):
    """Change one field of how the next answers are generated."""

    body: SampleBody


class SamplingPreset(Command, frozen=True, tag="sampling-preset"):
    """Choose a whole set of values for how the next answers are generated."""

    body: SamplingPresetBody


class Attach(Command, frozen=True, tag="attach"):
    """Give the next question a file, in pieces."""

    body: AttachBody


class Detach(Command, frozen=True, tag="detach"):
    """Put a file away that was to go with the next question."""

    body: DetachBody


class Export(Command, frozen=True, tag="export"):
    """Ask for the conversation as text; the reply carries it."""

    body: ExportBody


class Trace(Command, frozen=True, tag="trace"):
    """Trace the next answer, or do not after all."""

    body: TraceBody


class Inspect(Command, frozen=True, tag="inspect"):
    """Show where the time of another traced token went, layer by layer."""

    body: InspectBody


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
    | Demote
    | Ask
    | Reload
    | Pin
    | Use
    | Send
    | Stop
    | Retry
    | EditTurn
    | Show
    | Instruct
    | Sample
    | SamplingPreset
    | Attach
    | Detach
    | Export
    | Trace
    | Inspect
    | Clear
)


class Reply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the replies; not numbered, since each belongs to a command."""

    v: int
    id: str


class Ack(Reply, frozen=True, tag="ack"):
    """The command was accepted."""

    job: str | None = None  # the job a command has started
    text: str = ""  # what `export` has asked for


class Failure(Reply, frozen=True, tag="error"):
    """The command was refused."""

    body: Problem


AnyReply = Ack | Failure
