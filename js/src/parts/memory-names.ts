import type { LayerRun, MemoryBar, Segment } from "../protocol";
import { formatMemory } from "./size";

type Place = MemoryBar["place"];
type Kind = Segment["kind"];

const PLACE_NAMES: Record<Place, string> = { gpu: "on GPU", ram: "in RAM", disk: "on disk" };

const KIND_NAMES: Record<Kind, string> = {
  layers: "layers",
  experts: "experts",
  embeddings: "embeddings",
  ring: "streaming buffers",
  "expert-cache": "hot experts",
  staging: "staging",
  kv: "KV cache",
  activations: "activations",
  used: "used by others",
};

/** Kinds whose colour is that of their place. */
const PLACED = new Set<Kind>(["layers", "experts", "embeddings"]);

/** The class that gives a segment its colour. */
export function segmentColor(kind: Kind, place: Place): string {
  return PLACED.has(kind) ? `ollm-seg-${kind} ollm-in-${place}` : `ollm-seg-${kind}`;
}

/** What a segment is and where, for its tooltip. */
export function segmentName(kind: Kind, place: Place): string {
  return `${KIND_NAMES[kind]} ${PLACE_NAMES[place]}`;
}

/** What one layer is, where, and how large. */
export function layerName(run: LayerRun, index: number): string {
  const said = [`Layer ${index + 1} ${PLACE_NAMES[run.place]}`];
  if (run.weights_bytes) said.push(`${formatMemory(run.weights_bytes)} of weights`);
  if (run.experts_bytes) said.push(`${formatMemory(run.experts_bytes)} of them experts`);
  if (run.kv_bytes) said.push(`${formatMemory(run.kv_bytes)} of KV cache`);
  return said.join(", ");
}

export interface KeyEntry {
  color: string;
  text: string;
  sizeBytes: number;
}

/** The key to the colours of the bars; what is used by others has no sum over unlike tiers. */
export function keyOf(bars: readonly MemoryBar[]): KeyEntry[] {
  const key = new Map<string, KeyEntry>();
  for (const bar of bars) {
    for (const { kind, size_bytes } of bar.segments) {
      const color = segmentColor(kind, bar.place);
      const text = PLACED.has(kind) ? segmentName(kind, bar.place) : KIND_NAMES[kind];
      const entry = key.get(color) ?? { color, text, sizeBytes: 0 };
      if (kind !== "used") entry.sizeBytes += size_bytes;
      key.set(color, entry);
    }
  }
  return [...key.values()];
}
