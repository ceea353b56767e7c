import type {
  ActivityView,
  Field,
  MemoryView,
  ModelItem,
  PlanView,
  ResidentItem,
  Snapshot,
  Turn,
} from "../protocol";
import { PROTOCOL_VERSION } from "../protocol";

export function item(name: string, more: Partial<ModelItem> = {}): ModelItem {
  return {
    reference: `ref/${name}`,
    name,
    group: "On this machine",
    facts: "0.13B parameters, 270 MB, text",
    verdict: { text: "fits", tone: "ok" },
    available: true,
    reason: "",
    frees_bytes: 0,
    ...more,
  };
}

export function field(name: string, label: string, more: Partial<Field> = {}): Field {
  return {
    name,
    label,
    kind: "count",
    value: "",
    automatic: "auto",
    help: "",
    choices: [],
    disabled: "",
    error: "",
    rare: false,
    ...more,
  };
}

export function plan(more: Partial<PlanView> = {}): PlanView {
  return {
    fields: [],
    executable: true,
    headline: "Runs with transformers-generic on the CPU",
    reason: "It fits in RAM.",
    bars: [],
    figures: [],
    notes: [],
    code: "Config()",
    planning: false,
    layers: null,
    times: [],
    correction: "",
    presets: [],
    can_undo: false,
    can_redo: false,
    changes: [],
    story: "",
    ...more,
  };
}

export function turn(id: string, speaker: Turn["speaker"], text: string, more: Partial<Turn> = {}) {
  return {
    id,
    speaker,
    text,
    state: "done" as const,
    note: "",
    versions: [],
    attachments: [],
    ...more,
  };
}

export function resident(name: string, more: Partial<ResidentItem> = {}): ResidentItem {
  return {
    id: name,
    name,
    state: "idle",
    word: "idle",
    current: false,
    pinned: false,
    holdings: [{ place: "ram", kind: "layers", size_bytes: 100 }],
    text: "100 MiB RAM",
    node: "",
    last_used_s: 0,
    queue: [],
    can_demote: false,
    note: "",
    ...more,
  };
}

export function memory(more: Partial<MemoryView> = {}): MemoryView {
  return {
    items: [],
    chips: [],
    effect: "",
    problem: null,
    history: [],
    others: [],
    now_s: 0,
    ...more,
  };
}

export function activityView(more: Partial<ActivityView> = {}): ActivityView {
  return {
    pace: null,
    kv: null,
    trace: null,
    truth: [],
    truth_text: "",
    tracing: "off",
    untraceable: "",
    problem: "",
    ...more,
  };
}

export function snapshot(more: Partial<Snapshot> = {}): Snapshot {
  return {
    v: PROTOCOL_VERSION,
    seq: 0,
    title: "ollm",
    models: {
      query: "",
      items: [],
      chosen: null,
      note: "",
      searching: false,
      more: false,
      problem: "",
    },
    plan: null,
    loading: {
      state: "idle",
      model: "",
      stages: [],
      problem: null,
      can_load: false,
      summary: "",
    },
    capabilities: null,
    memory: memory(),
    chat: {
      turns: [],
      busy: false,
      can_send: true,
      hint: "",
      status: "",
      context_tokens: 0,
      context_limit: 0,
      gone: "",
      can_reload: false,
      instructions: { text: "", note: "" },
      sampling: { fields: [], presets: [], summary: "" },
      tray: { items: [], problem: "", help: "" },
    },
    activity: activityView(),
    ...more,
  };
}
