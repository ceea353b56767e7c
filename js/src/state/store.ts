import { batch, type Signal, signal } from "@preact/signals";
import type {
  ActivityView,
  AnyEvent,
  CapabilitiesView,
  ChatView,
  LoadingView,
  MemoryView,
  ModelsView,
  PlanView,
  Snapshot,
} from "../protocol";
import { appendText } from "./transcript";

const NO_MODELS: ModelsView = {
  query: "",
  items: [],
  chosen: null,
  note: "",
  searching: false,
  more: false,
  problem: "",
};
const NO_LOADING: LoadingView = {
  state: "idle",
  model: "",
  stages: [],
  problem: null,
  can_load: false,
  summary: "",
};
const NO_CHAT: ChatView = {
  turns: [],
  busy: false,
  can_send: false,
  hint: "",
  status: "",
  context_tokens: 0,
  context_limit: 0,
  gone: "",
  can_reload: false,
  instructions: { text: "", note: "" },
  sampling: { fields: [], presets: [], summary: "" },
  tray: { items: [], problem: "", help: "" },
};
const NO_MEMORY: MemoryView = {
  items: [],
  chips: [],
  effect: "",
  problem: null,
  history: [],
  others: [],
  now_s: 0,
};
const NO_ACTIVITY: ActivityView = {
  pace: null,
  kv: null,
  trace: null,
  truth: [],
  truth_text: "",
  tracing: "off",
  untraceable: "",
  problem: "",
};

/** What the kernel last said, one signal for each part, so that only what changed redraws. */
export class Store {
  readonly title: Signal<string> = signal("");
  readonly models: Signal<ModelsView> = signal(NO_MODELS);
  readonly plan: Signal<PlanView | null> = signal(null);
  readonly loading: Signal<LoadingView> = signal(NO_LOADING);
  readonly capabilities: Signal<CapabilitiesView | null> = signal(null);
  readonly memory: Signal<MemoryView> = signal(NO_MEMORY);
  readonly chat: Signal<ChatView> = signal(NO_CHAT);
  readonly activity: Signal<ActivityView> = signal(NO_ACTIVITY);

  /** Number of the last event that is drawn; -1 before the first snapshot. */
  seq = -1;

  /** Take a snapshot unless what is drawn is newer; says whether it was taken. */
  adopt(snapshot: Snapshot): boolean {
    if (snapshot.seq < this.seq) return false;
    this.replace(snapshot, snapshot.seq);
    return true;
  }

  replace(snapshot: Snapshot, seq: number): void {
    this.seq = seq;
    batch(() => {
      this.title.value = snapshot.title;
      this.models.value = snapshot.models;
      this.plan.value = snapshot.plan;
      this.loading.value = snapshot.loading;
      this.capabilities.value = snapshot.capabilities;
      this.memory.value = snapshot.memory;
      this.chat.value = snapshot.chat;
      this.activity.value = snapshot.activity;
    });
  }

  apply(event: Exclude<AnyEvent, { kind: "snapshot" }>): void {
    this.seq = event.seq;
    switch (event.kind) {
      case "header":
        this.title.value = event.body.title;
        break;
      case "models":
        this.models.value = event.body;
        break;
      case "plan":
        this.plan.value = event.body;
        break;
      case "loading":
        this.loading.value = event.body;
        break;
      case "capabilities":
        this.capabilities.value = event.body;
        break;
      case "memory":
        this.memory.value = event.body;
        break;
      case "chat":
        this.chat.value = event.body;
        break;
      case "activity":
        this.activity.value = event.body;
        break;
      case "chat.delta":
        this.chat.value = appendText(this.chat.value, event.body);
        break;
    }
  }
}
