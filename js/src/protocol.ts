// Generated from the schema in ollm_widgets/protocol, do not edit: see protocol.mjs.

export type AnyEvent =
  | SnapshotEvent
  | HeaderEvent
  | ModelsEvent
  | PlanEvent
  | LoadingEvent
  | CapabilitiesEvent
  | MemoryEvent
  | ChatEvent
  | ActivityEvent
  | ChatDeltaEvent;
export type AnyReply = Ack | Failure;
export type AnyCommand =
  | Hello
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
  | Clear;

/**
 * Messages between the kernel and the page.
 */
export interface Protocol {
  version: 1;
  event: AnyEvent;
  reply: AnyReply;
  command: AnyCommand;
  snapshot: Snapshot;
}
/**
 * The answer to `hello` and `resync`.
 */
export interface SnapshotEvent {
  kind: "snapshot";
  body: Snapshot;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * Everything a view needs to draw itself; `seq` is the last event it contains.
 */
export interface Snapshot {
  v: number;
  seq: number;
  title: string;
  models: ModelsView;
  plan: PlanView | null;
  loading: LoadingView;
  capabilities: CapabilitiesView | null;
  memory: MemoryView;
  chat: ChatView;
  activity: ActivityView;
}
/**
 * Region `Models`.
 */
export interface ModelsView {
  query: string;
  items: ModelItem[];
  chosen: string | null;
  note: string;
  searching: boolean;
  more: boolean;
  problem: string;
}
/**
 * One option of the model picker.
 */
export interface ModelItem {
  reference: string;
  name: string;
  group: "As typed" | "In the catalog" | "On the hub" | "On this machine";
  facts: string;
  verdict: Chip;
  available: boolean;
  reason: string;
  frees_bytes: number;
}
/**
 * A short verdict in a rounded frame.
 */
export interface Chip {
  text: string;
  tone: "neutral" | "no" | "ok" | "warn";
}
/**
 * Region `Plan`.
 */
export interface PlanView {
  fields: Field[];
  executable: boolean;
  headline: string;
  reason: string;
  bars: MemoryBar[];
  figures: Figure[];
  notes: string[];
  code: string;
  planning: boolean;
  layers: LayersView | null;
  times: TimeView[];
  correction: string;
  presets: PresetView[];
  can_undo: boolean;
  can_redo: boolean;
  changes: Change[];
  story: string;
}
/**
 * One editable field of the plan.
 */
export interface Field {
  name: string;
  label: string;
  kind: "choice" | "count" | "size";
  value: string;
  automatic: string;
  help: string;
  choices: Choice[];
  disabled: string;
  error: string;
  rare: boolean;
}
/**
 * One option of a select field.
 */
export interface Choice {
  value: string;
  label: string;
  disabled: string;
  help: string;
}
/**
 * One tier of the memory map, to scale: `segments` over `capacity_bytes`.
 */
export interface MemoryBar {
  place: "disk" | "gpu" | "ram";
  label: string;
  capacity_bytes: number;
  segments: Segment[];
  text: string;
  device: string;
  limit_bytes: number;
  limit_label: string;
  missing_bytes: number;
}
/**
 * A stretch of a memory bar.
 */
export interface Segment {
  kind:
    | "activations"
    | "embeddings"
    | "expert-cache"
    | "experts"
    | "kv"
    | "layers"
    | "ring"
    | "staging"
    | "used";
  label: string;
  size_bytes: number;
  help: string;
}
/**
 * A predicted or measured number with its unit.
 */
export interface Figure {
  value: string;
  unit: string;
  explanation: string;
}
/**
 * Where the decoder layers are, and how far a person may move them.
 */
export interface LayersView {
  runs: LayerRun[];
  total: number;
  gpu_layers: number;
  ram_layers: number;
  has_gpu: boolean;
  chosen_gpu: string;
  chosen_ram: string;
  disabled: string;
}
/**
 * Neighbouring decoder layers in one tier that take the same bytes.
 */
export interface LayerRun {
  place: "disk" | "gpu" | "ram";
  first: number;
  count: number;
  weights_bytes: number;
  experts_bytes: number;
  kv_bytes: number;
  device: string;
}
/**
 * What a time is made of.
 */
export interface TimeView {
  title: string;
  parts: TimePart[];
  note: string;
}
/**
 * One thing that takes time, beside the others or after them.
 */
export interface TimePart {
  label: string;
  seconds: number;
  text: string;
  explanation: string;
}
/**
 * A set of choices that goes by a name.
 */
export interface PresetView {
  id: string;
  title: string;
  help: string;
  active: boolean;
  disabled: string;
}
/**
 * What the last edit changed in the plan.
 */
export interface Change {
  term: string;
  before: string;
  after: string;
  why: string;
}
/**
 * Region `Loading`.
 */
export interface LoadingView {
  state: "cancelled" | "cancelling" | "failed" | "idle" | "loaded" | "loading";
  model: string;
  stages: StageView[];
  problem: Problem | null;
  can_load: boolean;
  summary: string;
}
/**
 * One stage of a load; named, so that its progress bar has a name.
 */
export interface StageView {
  name: string;
  state: "done" | "failed" | "running" | "waiting";
  done_bytes: number;
  total_bytes: number;
  text: string;
  files: FileView[];
}
/**
 * One file on its way, within a stage.
 */
export interface FileView {
  name: string;
  done_bytes: number;
  total_bytes: number;
  text: string;
}
/**
 * An error as a person reads it.
 */
export interface Problem {
  code: string;
  message: string;
  hint: string;
}
/**
 * Region `Capabilities`.
 */
export interface CapabilitiesView {
  title: string;
  support: Chip;
  rows: Row[];
}
/**
 * A term and what is said of it.
 */
export interface Row {
  term: string;
  text: string;
  tone: "neutral" | "no" | "ok" | "warn";
}
/**
 * Region `In memory`.
 */
export interface MemoryView {
  items: ResidentItem[];
  chips: Chip[];
  effect: string;
  problem: Problem | null;
  history: PastEvent[];
  others: OtherKernel[];
  now_s: number;
}
/**
 * One runtime on the shelf, or one that is on its way there.
 */
export interface ResidentItem {
  id: string;
  name: string;
  state: "busy" | "demoted" | "demoting" | "idle" | "leaving" | "loading" | "returning" | "waiting";
  word: string;
  current: boolean;
  pinned: boolean;
  holdings: Holding[];
  text: string;
  node: string;
  last_used_s: number;
  queue: Asker[];
  can_demote: boolean;
  note: string;
}
/**
 * Bytes of one kind in one tier.
 */
export interface Holding {
  place: "disk" | "gpu" | "ram";
  kind: "kv" | "layers";
  size_bytes: number;
}
/**
 * Who runs a request, or waits to; in the order of their turns.
 */
export interface Asker {
  caller: string;
  running: boolean;
}
/**
 * Something that happened to a runtime, in a sentence.
 */
export interface PastEvent {
  at_s: number;
  text: string;
  tone: "neutral" | "no" | "ok" | "warn";
}
/**
 * Another kernel of this machine that holds memory.
 */
export interface OtherKernel {
  id: string;
  title: string;
  text: string;
  asked: boolean;
}
/**
 * Region `Chat`.
 */
export interface ChatView {
  turns: Turn[];
  busy: boolean;
  can_send: boolean;
  hint: string;
  status: string;
  context_tokens: number;
  context_limit: number;
  gone: string;
  can_reload: boolean;
  instructions: InstructionsView;
  sampling: SamplingView;
  tray: TrayView;
}
/**
 * One article of the conversation.
 */
export interface Turn {
  id: string;
  speaker: "model" | "you";
  text: string;
  state: "done" | "failed" | "stopped" | "streaming" | "waiting";
  note: string;
  versions: string[];
  attachments: AttachmentView[];
}
/**
 * A file that goes with a question; its content stays in the kernel.
 */
export interface AttachmentView {
  id: string;
  name: string;
  kind: "image" | "text";
  size: string;
  thumbnail: string;
  reading: boolean;
}
/**
 * What the model is told before the first question.
 */
export interface InstructionsView {
  text: string;
  note: string;
}
/**
 * How the next answers are generated.
 */
export interface SamplingView {
  fields: SamplingField[];
  presets: SamplingPresetView[];
  summary: string;
}
/**
 * One field of how answers are generated.
 */
export interface SamplingField {
  name: string;
  label: string;
  kind: "count" | "number" | "texts";
  value: string;
  automatic: string;
  help: string;
  unused: string;
  error: string;
}
/**
 * A set of values that goes by a name.
 */
export interface SamplingPresetView {
  id: string;
  title: string;
  help: string;
  active: boolean;
}
/**
 * The files that will go with the next question.
 */
export interface TrayView {
  items: AttachmentView[];
  problem: string;
  help: string;
}
/**
 * Region `Activity`.
 */
export interface ActivityView {
  pace: PaceView | null;
  kv: KVView | null;
  trace: TraceView | null;
  truth: TruthItem[];
  truth_text: string;
  tracing: "off" | "on" | "starting";
  untraceable: string;
  problem: string;
}
/**
 * How fast the latest answer is, or was, written.
 */
export interface PaceView {
  state: "ended" | "reading" | "writing";
  prompt_tokens: number;
  reused_tokens: number;
  first_token_s: number;
  new_tokens: number;
  seconds: number;
  tokens_per_s: number;
  tokens: number[];
  at_s: number[];
  text: string;
}
/**
 * How the KV cache has grown over the conversation.
 */
export interface KVView {
  items: KVItem[];
  limit_tokens: number;
  limit_bytes: number;
  text: string;
}
/**
 * What the KV cache held after one answer.
 */
export interface KVItem {
  number: number;
  tokens: number;
  hot_tokens: number;
  hot_bytes: number;
  ram_bytes: number;
  disk_bytes: number;
  text: string;
}
/**
 * Where the time of each token of an answer went; the parts of a token are its time.
 */
export interface TraceView {
  parts: TracePart[];
  numbers: number[];
  shown: number;
  prompt: string;
  note: string;
  text: string;
}
/**
 * One thing that the time of a token goes to.
 */
export interface TracePart {
  kind: "between" | "choose" | "compute" | "copy" | "disk" | "unpack";
  name: string;
  help: string;
  tokens_ms: number[];
  layers_ms: number[];
}
/**
 * A figure of the plan beside what came true.
 */
export interface TruthItem {
  name: string;
  predicted: string;
  measured: string;
  ratio: number;
  remark: string;
}
/**
 * The line above everything changed.
 */
export interface HeaderEvent {
  kind: "header";
  body: HeaderView;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * The line above everything.
 */
export interface HeaderView {
  title: string;
}
/**
 * The list of models changed.
 */
export interface ModelsEvent {
  kind: "models";
  body: ModelsView;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * The plan or its fields changed.
 */
export interface PlanEvent {
  kind: "plan";
  body: PlanView | null;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * A load moved on.
 */
export interface LoadingEvent {
  kind: "loading";
  body: LoadingView;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * The profile changed.
 */
export interface CapabilitiesEvent {
  kind: "capabilities";
  body: CapabilitiesView | null;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * What is in memory changed.
 */
export interface MemoryEvent {
  kind: "memory";
  body: MemoryView;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * The conversation changed in more than its last text.
 */
export interface ChatEvent {
  kind: "chat";
  body: ChatView;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * The pictures changed.
 */
export interface ActivityEvent {
  kind: "activity";
  body: ActivityView;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * The last turn grew.
 */
export interface ChatDeltaEvent {
  kind: "chat.delta";
  body: TextDelta;
  v: number;
  seq: number;
  job: string | null;
}
/**
 * Text to append to a turn.
 */
export interface TextDelta {
  turn: string;
  text: string;
}
/**
 * The command was accepted.
 */
export interface Ack {
  kind: "ack";
  job: string | null;
  text: string;
  v: number;
  id: string;
}
/**
 * The command was refused.
 */
export interface Failure {
  kind: "error";
  body: Problem;
  v: number;
  id: string;
}
/**
 * A page has opened; the reply is followed by a snapshot event.
 */
export interface Hello {
  name: "hello";
  body?: Nothing;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing {}
/**
 * The page missed an event; the reply is followed by a snapshot event.
 */
export interface Resync {
  name: "resync";
  body?: Nothing1;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing1 {}
/**
 * Filter the list of models.
 */
export interface Search {
  name: "search";
  body: SearchBody;
  v: number;
  id: string;
}
/**
 * Text of the search box.
 */
export interface SearchBody {
  text: string;
}
/**
 * Fetch the hub's next models.
 */
export interface More {
  name: "more";
  body?: Nothing2;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing2 {}
/**
 * Delete a model's files; the page has asked the person.
 */
export interface Remove {
  name: "remove";
  body: ChooseBody;
  v: number;
  id: string;
}
/**
 * A reference, as listed or typed.
 */
export interface ChooseBody {
  reference: string;
}
/**
 * Choose a model.
 */
export interface Choose {
  name: "choose";
  body: ChooseBody;
  v: number;
  id: string;
}
/**
 * Change one field of the plan.
 */
export interface Edit {
  name: "edit";
  body: EditBody;
  v: number;
  id: string;
}
/**
 * A field and its new value.
 */
export interface EditBody {
  field:
    | "backend"
    | "context_tokens"
    | "cpu_memory_budget"
    | "dense_projection_chunk_rows"
    | "device"
    | "dtype"
    | "gpu_memory_budget"
    | "kv_cache_codec"
    | "kv_cache_lifecycle"
    | "kv_cache_memory_budget"
    | "kv_cache_sink_tokens"
    | "kv_cache_strategy"
    | "kv_cache_window_tokens"
    | "offload_cpu_layers"
    | "offload_cpu_policy"
    | "offload_gpu_layers"
    | "strategy_selector_profile"
    | "use_specialization";
  value: string;
}
/**
 * Move layers between the tiers of memory.
 */
export interface Place {
  name: "place";
  body: PlaceBody;
  v: number;
  id: string;
}
/**
 * How many layers stay on the GPU and in RAM.
 */
export interface PlaceBody {
  gpu_layers: string;
  ram_layers: string;
  settled: boolean;
}
/**
 * Choose a whole set of values.
 */
export interface Preset {
  name: "preset";
  body: PresetBody;
  v: number;
  id: string;
}
/**
 * A set of choices by its name.
 */
export interface PresetBody {
  preset: "fastest" | "least-gpu-memory" | "longest-context" | "small-machine";
}
/**
 * Take the last edit of the plan back.
 */
export interface Undo {
  name: "undo";
  body?: Nothing3;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing3 {}
/**
 * Do again what was taken back.
 */
export interface Redo {
  name: "redo";
  body?: Nothing4;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing4 {}
/**
 * Load the chosen model by the current plan; also the retry after a failure.
 */
export interface Load {
  name: "load";
  body: LoadBody;
  v: number;
  id: string;
}
/**
 * Whether to load although room could not be made.
 */
export interface LoadBody {
  anyway: boolean;
}
/**
 * Cancel the load that runs.
 */
export interface Cancel {
  name: "cancel";
  body?: Nothing5;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing5 {}
/**
 * Give a runtime's memory back.
 */
export interface Unload {
  name: "unload";
  body: UnloadBody;
  v: number;
  id: string;
}
/**
 * A runtime, and whether to stop what it does; without that its end is waited for.
 */
export interface UnloadBody {
  runtime: string;
  force: boolean;
}
/**
 * Move a runtime from the accelerator to host memory.
 */
export interface Demote {
  name: "demote";
  body: RuntimeBody;
  v: number;
  id: string;
}
/**
 * A runtime in memory.
 */
export interface RuntimeBody {
  runtime: string;
}
/**
 * Ask another kernel to give memory back; it need not.
 */
export interface Ask {
  name: "ask";
  body: AskBody;
  v: number;
  id: string;
}
/**
 * Another kernel, as the shelf lists it.
 */
export interface AskBody {
  holder: string;
}
/**
 * Load the runtime of this conversation again, which has left memory.
 */
export interface Reload {
  name: "reload";
  body?: Nothing6;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing6 {}
/**
 * Keep a runtime, or allow its eviction.
 */
export interface Pin {
  name: "pin";
  body: PinBody;
  v: number;
  id: string;
}
/**
 * A runtime, and whether to keep it.
 */
export interface PinBody {
  runtime: string;
  pinned: boolean;
}
/**
 * Talk to another loaded runtime.
 */
export interface Use {
  name: "use";
  body: RuntimeBody;
  v: number;
  id: string;
}
/**
 * Ask the loaded model.
 */
export interface Send {
  name: "send";
  body: SendBody;
  v: number;
  id: string;
}
/**
 * A question.
 */
export interface SendBody {
  text: string;
}
/**
 * Stop the answer that runs; its text so far stays.
 */
export interface Stop {
  name: "stop";
  body?: Nothing7;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing7 {}
/**
 * Answer the question before this model turn once more; this answer stays as a version.
 */
export interface Retry {
  name: "retry";
  body: TurnBody;
  v: number;
  id: string;
}
/**
 * A turn of the conversation.
 */
export interface TurnBody {
  turn: string;
}
/**
 * Ask another question in the place of one, which stays as a version, and answer it.
 */
export interface EditTurn {
  name: "edit-turn";
  body: EditTurnBody;
  v: number;
  id: string;
}
/**
 * A turn, and the question in its place.
 */
export interface EditTurnBody {
  turn: string;
  text: string;
}
/**
 * Show another version of a turn, and what followed it.
 */
export interface Show {
  name: "show";
  body: ShowBody;
  v: number;
  id: string;
}
/**
 * A version of a turn, by its own id.
 */
export interface ShowBody {
  turn: string;
}
/**
 * Tell the model something before the first question, from the next answer on.
 */
export interface Instruct {
  name: "instruct";
  body: InstructBody;
  v: number;
  id: string;
}
/**
 * What the model is told before the first question; "" = nothing.
 */
export interface InstructBody {
  text: string;
}
/**
 * Change one field of how the next answers are generated.
 */
export interface Sample {
  name: "sample";
  body: SampleBody;
  v: number;
  id: string;
}
/**
 * A field of how answers are generated, and its new value.
 */
export interface SampleBody {
  field:
    | "max_new_tokens"
    | "min_p"
    | "repetition_penalty"
    | "seed"
    | "stop"
    | "temperature"
    | "top_k"
    | "top_p";
  value: string;
}
/**
 * Choose a whole set of values for how the next answers are generated.
 */
export interface SamplingPreset {
  name: "sampling-preset";
  body: SamplingPresetBody;
  v: number;
  id: string;
}
/**
 * A set of values for how answers are generated, by its name.
 */
export interface SamplingPresetBody {
  preset: "balanced" | "creative" | "exact";
}
/**
 * Give the next question a file, in pieces.
 */
export interface Attach {
  name: "attach";
  body: AttachBody;
  v: number;
  id: string;
}
/**
 * A piece of a file; its bytes are the message's one buffer.
 */
export interface AttachBody {
  upload: string;
  name: string;
  last: boolean;
}
/**
 * Put a file away that was to go with the next question.
 */
export interface Detach {
  name: "detach";
  body: DetachBody;
  v: number;
  id: string;
}
/**
 * A file that was to go with the next question.
 */
export interface DetachBody {
  attachment: string;
}
/**
 * Ask for the conversation as text; the reply carries it.
 */
export interface Export {
  name: "export";
  body: ExportBody;
  v: number;
  id: string;
}
/**
 * What the conversation is to become; the reply carries it.
 */
export interface ExportBody {
  form: "markdown" | "python";
}
/**
 * Trace the next answer, or do not after all.
 */
export interface Trace {
  name: "trace";
  body: TraceBody;
  v: number;
  id: string;
}
/**
 * Whether to trace the next answer.
 */
export interface TraceBody {
  on: boolean;
}
/**
 * Show where the time of another traced token went, layer by layer.
 */
export interface Inspect {
  name: "inspect";
  body: InspectBody;
  v: number;
  id: string;
}
/**
 * A token of the answer that was traced.
 */
export interface InspectBody {
  token: string;
}
/**
 * Start a new conversation.
 */
export interface Clear {
  name: "clear";
  body?: Nothing8;
  v: number;
  id: string;
}
/**
 * The body of a command without arguments.
 */
export interface Nothing8 {}

export const PROTOCOL_VERSION = 1;

/** The struct of each event, by its kind. */
export const EVENTS: Record<string, string> = {
  snapshot: "SnapshotEvent",
  header: "HeaderEvent",
  models: "ModelsEvent",
  plan: "PlanEvent",
  loading: "LoadingEvent",
  capabilities: "CapabilitiesEvent",
  memory: "MemoryEvent",
  chat: "ChatEvent",
  activity: "ActivityEvent",
  "chat.delta": "ChatDeltaEvent",
};

/** The struct of each reply, by its kind. */
export const REPLIES: Record<string, string> = { ack: "Ack", error: "Failure" };

/** The shape of everything that comes down, for the reader of messages. */
export const SHAPES: Record<string, unknown> = {
  Ack: {
    type: "object",
    properties: {
      kind: { enum: ["ack"] },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
      text: { type: "string", default: "" },
      v: { type: "integer" },
      id: { type: "string" },
    },
  },
  ActivityEvent: {
    type: "object",
    properties: {
      kind: { enum: ["activity"] },
      body: { $ref: "ActivityView" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  ActivityView: {
    type: "object",
    properties: {
      pace: { anyOf: [{ $ref: "PaceView" }, { type: "null" }], default: null },
      kv: { anyOf: [{ $ref: "KVView" }, { type: "null" }], default: null },
      trace: { anyOf: [{ $ref: "TraceView" }, { type: "null" }], default: null },
      truth: { type: "array", items: { $ref: "TruthItem" }, default: [] },
      truth_text: { type: "string", default: "" },
      tracing: { enum: ["off", "on", "starting"], default: "off" },
      untraceable: { type: "string", default: "" },
      problem: { type: "string", default: "" },
    },
  },
  AnyEvent: {
    anyOf: [
      { $ref: "SnapshotEvent" },
      { $ref: "HeaderEvent" },
      { $ref: "ModelsEvent" },
      { $ref: "PlanEvent" },
      { $ref: "LoadingEvent" },
      { $ref: "CapabilitiesEvent" },
      { $ref: "MemoryEvent" },
      { $ref: "ChatEvent" },
      { $ref: "ActivityEvent" },
      { $ref: "ChatDeltaEvent" },
    ],
  },
  AnyReply: { anyOf: [{ $ref: "Ack" }, { $ref: "Failure" }] },
  Asker: {
    type: "object",
    properties: { caller: { type: "string" }, running: { type: "boolean" } },
  },
  AttachmentView: {
    type: "object",
    properties: {
      id: { type: "string" },
      name: { type: "string" },
      kind: { enum: ["image", "text"] },
      size: { type: "string" },
      thumbnail: { type: "string", default: "" },
      reading: { type: "boolean", default: false },
    },
  },
  CapabilitiesEvent: {
    type: "object",
    properties: {
      kind: { enum: ["capabilities"] },
      body: { anyOf: [{ $ref: "CapabilitiesView" }, { type: "null" }] },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  CapabilitiesView: {
    type: "object",
    properties: {
      title: { type: "string" },
      support: { $ref: "Chip" },
      rows: { type: "array", items: { $ref: "Row" } },
    },
  },
  Change: {
    type: "object",
    properties: {
      term: { type: "string" },
      before: { type: "string" },
      after: { type: "string" },
      why: { type: "string", default: "" },
    },
  },
  ChatDeltaEvent: {
    type: "object",
    properties: {
      kind: { enum: ["chat.delta"] },
      body: { $ref: "TextDelta" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  ChatEvent: {
    type: "object",
    properties: {
      kind: { enum: ["chat"] },
      body: { $ref: "ChatView" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  ChatView: {
    type: "object",
    properties: {
      turns: { type: "array", items: { $ref: "Turn" } },
      busy: { type: "boolean" },
      can_send: { type: "boolean" },
      hint: { type: "string" },
      status: { type: "string" },
      context_tokens: { type: "integer", default: 0 },
      context_limit: { type: "integer", default: 0 },
      gone: { type: "string", default: "" },
      can_reload: { type: "boolean", default: false },
      instructions: { $ref: "InstructionsView", default: { text: "", note: "" } },
      sampling: { $ref: "SamplingView", default: { fields: [], presets: [], summary: "" } },
      tray: { $ref: "TrayView", default: { items: [], problem: "", help: "" } },
    },
  },
  Chip: {
    type: "object",
    properties: {
      text: { type: "string" },
      tone: { enum: ["neutral", "no", "ok", "warn"], default: "neutral" },
    },
  },
  Choice: {
    type: "object",
    properties: {
      value: { type: "string" },
      label: { type: "string" },
      disabled: { type: "string", default: "" },
      help: { type: "string", default: "" },
    },
  },
  Failure: {
    type: "object",
    properties: {
      kind: { enum: ["error"] },
      body: { $ref: "Problem" },
      v: { type: "integer" },
      id: { type: "string" },
    },
  },
  Field: {
    type: "object",
    properties: {
      name: { type: "string" },
      label: { type: "string" },
      kind: { enum: ["choice", "count", "size"] },
      value: { type: "string" },
      automatic: { type: "string" },
      help: { type: "string" },
      choices: { type: "array", items: { $ref: "Choice" }, default: [] },
      disabled: { type: "string", default: "" },
      error: { type: "string", default: "" },
      rare: { type: "boolean", default: false },
    },
  },
  Figure: {
    type: "object",
    properties: {
      value: { type: "string" },
      unit: { type: "string" },
      explanation: { type: "string", default: "" },
    },
  },
  FileView: {
    type: "object",
    properties: {
      name: { type: "string" },
      done_bytes: { type: "integer" },
      total_bytes: { type: "integer" },
      text: { type: "string" },
    },
  },
  HeaderEvent: {
    type: "object",
    properties: {
      kind: { enum: ["header"] },
      body: { $ref: "HeaderView" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  HeaderView: { type: "object", properties: { title: { type: "string" } } },
  Holding: {
    type: "object",
    properties: {
      place: { enum: ["disk", "gpu", "ram"] },
      kind: { enum: ["kv", "layers"] },
      size_bytes: { type: "integer" },
    },
  },
  InstructionsView: {
    type: "object",
    properties: { text: { type: "string", default: "" }, note: { type: "string", default: "" } },
  },
  KVItem: {
    type: "object",
    properties: {
      number: { type: "integer" },
      tokens: { type: "integer" },
      hot_tokens: { type: "integer" },
      hot_bytes: { type: "integer" },
      ram_bytes: { type: "integer" },
      disk_bytes: { type: "integer" },
      text: { type: "string" },
    },
  },
  KVView: {
    type: "object",
    properties: {
      items: { type: "array", items: { $ref: "KVItem" } },
      limit_tokens: { type: "integer" },
      limit_bytes: { type: "integer" },
      text: { type: "string" },
    },
  },
  LayerRun: {
    type: "object",
    properties: {
      place: { enum: ["disk", "gpu", "ram"] },
      first: { type: "integer" },
      count: { type: "integer" },
      weights_bytes: { type: "integer", default: 0 },
      experts_bytes: { type: "integer", default: 0 },
      kv_bytes: { type: "integer", default: 0 },
      device: { type: "string", default: "" },
    },
  },
  LayersView: {
    type: "object",
    properties: {
      runs: { type: "array", items: { $ref: "LayerRun" } },
      total: { type: "integer" },
      gpu_layers: { type: "integer" },
      ram_layers: { type: "integer" },
      has_gpu: { type: "boolean" },
      chosen_gpu: { type: "string", default: "" },
      chosen_ram: { type: "string", default: "" },
      disabled: { type: "string", default: "" },
    },
  },
  LoadingEvent: {
    type: "object",
    properties: {
      kind: { enum: ["loading"] },
      body: { $ref: "LoadingView" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  LoadingView: {
    type: "object",
    properties: {
      state: { enum: ["cancelled", "cancelling", "failed", "idle", "loaded", "loading"] },
      model: { type: "string", default: "" },
      stages: { type: "array", items: { $ref: "StageView" }, default: [] },
      problem: { anyOf: [{ $ref: "Problem" }, { type: "null" }], default: null },
      can_load: { type: "boolean", default: false },
      summary: { type: "string", default: "" },
    },
  },
  MemoryBar: {
    type: "object",
    properties: {
      place: { enum: ["disk", "gpu", "ram"] },
      label: { type: "string" },
      capacity_bytes: { type: "integer" },
      segments: { type: "array", items: { $ref: "Segment" } },
      text: { type: "string" },
      device: { type: "string", default: "" },
      limit_bytes: { type: "integer", default: 0 },
      limit_label: { type: "string", default: "" },
      missing_bytes: { type: "integer", default: 0 },
    },
  },
  MemoryEvent: {
    type: "object",
    properties: {
      kind: { enum: ["memory"] },
      body: { $ref: "MemoryView" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  MemoryView: {
    type: "object",
    properties: {
      items: { type: "array", items: { $ref: "ResidentItem" } },
      chips: { type: "array", items: { $ref: "Chip" } },
      effect: { type: "string", default: "" },
      problem: { anyOf: [{ $ref: "Problem" }, { type: "null" }], default: null },
      history: { type: "array", items: { $ref: "PastEvent" }, default: [] },
      others: { type: "array", items: { $ref: "OtherKernel" }, default: [] },
      now_s: { type: "number", default: 0 },
    },
  },
  ModelItem: {
    type: "object",
    properties: {
      reference: { type: "string" },
      name: { type: "string" },
      group: { enum: ["As typed", "In the catalog", "On the hub", "On this machine"] },
      facts: { type: "string" },
      verdict: { $ref: "Chip" },
      available: { type: "boolean" },
      reason: { type: "string", default: "" },
      frees_bytes: { type: "integer", default: 0 },
    },
  },
  ModelsEvent: {
    type: "object",
    properties: {
      kind: { enum: ["models"] },
      body: { $ref: "ModelsView" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  ModelsView: {
    type: "object",
    properties: {
      query: { type: "string" },
      items: { type: "array", items: { $ref: "ModelItem" } },
      chosen: { anyOf: [{ type: "string" }, { type: "null" }] },
      note: { type: "string" },
      searching: { type: "boolean", default: false },
      more: { type: "boolean", default: false },
      problem: { type: "string", default: "" },
    },
  },
  OtherKernel: {
    type: "object",
    properties: {
      id: { type: "string" },
      title: { type: "string" },
      text: { type: "string" },
      asked: { type: "boolean", default: false },
    },
  },
  PaceView: {
    type: "object",
    properties: {
      state: { enum: ["ended", "reading", "writing"] },
      prompt_tokens: { type: "integer" },
      reused_tokens: { type: "integer" },
      first_token_s: { type: "number" },
      new_tokens: { type: "integer" },
      seconds: { type: "number" },
      tokens_per_s: { type: "number" },
      tokens: { type: "array", items: { type: "integer" } },
      at_s: { type: "array", items: { type: "number" } },
      text: { type: "string" },
    },
  },
  PastEvent: {
    type: "object",
    properties: {
      at_s: { type: "integer" },
      text: { type: "string" },
      tone: { enum: ["neutral", "no", "ok", "warn"], default: "neutral" },
    },
  },
  PlanEvent: {
    type: "object",
    properties: {
      kind: { enum: ["plan"] },
      body: { anyOf: [{ $ref: "PlanView" }, { type: "null" }] },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  PlanView: {
    type: "object",
    properties: {
      fields: { type: "array", items: { $ref: "Field" } },
      executable: { type: "boolean" },
      headline: { type: "string" },
      reason: { type: "string" },
      bars: { type: "array", items: { $ref: "MemoryBar" } },
      figures: { type: "array", items: { $ref: "Figure" } },
      notes: { type: "array", items: { type: "string" }, default: [] },
      code: { type: "string", default: "" },
      planning: { type: "boolean", default: false },
      layers: { anyOf: [{ $ref: "LayersView" }, { type: "null" }], default: null },
      times: { type: "array", items: { $ref: "TimeView" }, default: [] },
      correction: { type: "string", default: "" },
      presets: { type: "array", items: { $ref: "PresetView" }, default: [] },
      can_undo: { type: "boolean", default: false },
      can_redo: { type: "boolean", default: false },
      changes: { type: "array", items: { $ref: "Change" }, default: [] },
      story: { type: "string", default: "" },
    },
  },
  PresetView: {
    type: "object",
    properties: {
      id: { type: "string" },
      title: { type: "string" },
      help: { type: "string" },
      active: { type: "boolean", default: false },
      disabled: { type: "string", default: "" },
    },
  },
  Problem: {
    type: "object",
    properties: {
      code: { type: "string" },
      message: { type: "string" },
      hint: { type: "string", default: "" },
    },
  },
  ResidentItem: {
    type: "object",
    properties: {
      id: { type: "string" },
      name: { type: "string" },
      state: {
        enum: ["busy", "demoted", "demoting", "idle", "leaving", "loading", "returning", "waiting"],
      },
      word: { type: "string" },
      current: { type: "boolean" },
      pinned: { type: "boolean" },
      holdings: { type: "array", items: { $ref: "Holding" } },
      text: { type: "string" },
      node: { type: "string", default: "" },
      last_used_s: { type: "integer", default: 0 },
      queue: { type: "array", items: { $ref: "Asker" }, default: [] },
      can_demote: { type: "boolean", default: false },
      note: { type: "string", default: "" },
    },
  },
  Row: {
    type: "object",
    properties: {
      term: { type: "string" },
      text: { type: "string" },
      tone: { enum: ["neutral", "no", "ok", "warn"], default: "neutral" },
    },
  },
  SamplingField: {
    type: "object",
    properties: {
      name: { type: "string" },
      label: { type: "string" },
      kind: { enum: ["count", "number", "texts"] },
      value: { type: "string" },
      automatic: { type: "string" },
      help: { type: "string" },
      unused: { type: "string", default: "" },
      error: { type: "string", default: "" },
    },
  },
  SamplingPresetView: {
    type: "object",
    properties: {
      id: { type: "string" },
      title: { type: "string" },
      help: { type: "string" },
      active: { type: "boolean", default: false },
    },
  },
  SamplingView: {
    type: "object",
    properties: {
      fields: { type: "array", items: { $ref: "SamplingField" }, default: [] },
      presets: { type: "array", items: { $ref: "SamplingPresetView" }, default: [] },
      summary: { type: "string", default: "" },
    },
  },
  Segment: {
    type: "object",
    properties: {
      kind: {
        enum: [
          "activations",
          "embeddings",
          "expert-cache",
          "experts",
          "kv",
          "layers",
          "ring",
          "staging",
          "used",
        ],
      },
      label: { type: "string" },
      size_bytes: { type: "integer" },
      help: { type: "string", default: "" },
    },
  },
  Snapshot: {
    type: "object",
    properties: {
      v: { type: "integer" },
      seq: { type: "integer" },
      title: { type: "string" },
      models: { $ref: "ModelsView" },
      plan: { anyOf: [{ $ref: "PlanView" }, { type: "null" }] },
      loading: { $ref: "LoadingView" },
      capabilities: { anyOf: [{ $ref: "CapabilitiesView" }, { type: "null" }] },
      memory: { $ref: "MemoryView" },
      chat: { $ref: "ChatView" },
      activity: { $ref: "ActivityView" },
    },
  },
  SnapshotEvent: {
    type: "object",
    properties: {
      kind: { enum: ["snapshot"] },
      body: { $ref: "Snapshot" },
      v: { type: "integer" },
      seq: { type: "integer" },
      job: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    },
  },
  StageView: {
    type: "object",
    properties: {
      name: { type: "string" },
      state: { enum: ["done", "failed", "running", "waiting"] },
      done_bytes: { type: "integer", default: 0 },
      total_bytes: { type: "integer", default: 0 },
      text: { type: "string", default: "" },
      files: { type: "array", items: { $ref: "FileView" }, default: [] },
    },
  },
  TextDelta: { type: "object", properties: { turn: { type: "string" }, text: { type: "string" } } },
  TimePart: {
    type: "object",
    properties: {
      label: { type: "string" },
      seconds: { type: "number" },
      text: { type: "string" },
      explanation: { type: "string", default: "" },
    },
  },
  TimeView: {
    type: "object",
    properties: {
      title: { type: "string" },
      parts: { type: "array", items: { $ref: "TimePart" } },
      note: { type: "string", default: "" },
    },
  },
  TracePart: {
    type: "object",
    properties: {
      kind: { enum: ["between", "choose", "compute", "copy", "disk", "unpack"] },
      name: { type: "string" },
      help: { type: "string" },
      tokens_ms: { type: "array", items: { type: "number" } },
      layers_ms: { type: "array", items: { type: "number" } },
    },
  },
  TraceView: {
    type: "object",
    properties: {
      parts: { type: "array", items: { $ref: "TracePart" } },
      numbers: { type: "array", items: { type: "integer" } },
      shown: { type: "integer" },
      prompt: { type: "string" },
      note: { type: "string" },
      text: { type: "string" },
    },
  },
  TrayView: {
    type: "object",
    properties: {
      items: { type: "array", items: { $ref: "AttachmentView" }, default: [] },
      problem: { type: "string", default: "" },
      help: { type: "string", default: "" },
    },
  },
  TruthItem: {
    type: "object",
    properties: {
      name: { type: "string" },
      predicted: { type: "string" },
      measured: { type: "string" },
      ratio: { type: "number" },
      remark: { type: "string" },
    },
  },
  Turn: {
    type: "object",
    properties: {
      id: { type: "string" },
      speaker: { enum: ["model", "you"] },
      text: { type: "string" },
      state: { enum: ["done", "failed", "stopped", "streaming", "waiting"] },
      note: { type: "string", default: "" },
      versions: { type: "array", items: { type: "string" }, default: [] },
      attachments: { type: "array", items: { $ref: "AttachmentView" }, default: [] },
    },
  },
};
