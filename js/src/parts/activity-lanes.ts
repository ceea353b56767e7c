import type { ActivityView } from "../protocol";
import type { Stretch } from "./activity-stack";

type TraceView = NonNullable<ActivityView["trace"]>;
export type Kind = TraceView["parts"][number]["kind"];

export interface Lanes {
  totalMs: number;
  stretches: Record<Kind, Stretch[]>;
  /** Where each layer begins, and the last one ends, in milliseconds. */
  layersMs: number[];
}

/** What a layer does, in the order in which it does it. */
const IN_A_LAYER: readonly Kind[] = ["disk", "copy", "unpack", "compute"];
/** What comes after the layers; the moments between two of them are put together here. */
const AFTER: readonly Kind[] = ["choose", "copy", "between"];

/** The parts of the token that is shown, one after the other as they ran. */
export function lanesOf(trace: TraceView): Lanes {
  const parts = new Map(trace.parts.map((part) => [part.kind, part]));
  const stretches: Lanes["stretches"] = {
    disk: [],
    copy: [],
    unpack: [],
    compute: [],
    choose: [],
    between: [],
  };
  const index = trace.numbers.indexOf(trace.shown);
  const layers = trace.parts[0]?.layers_ms.length ?? 0;
  const layersMs = [0];
  let at = 0;
  const add = (kind: Kind, ms: number) => {
    if (ms <= 0) return;
    stretches[kind].push({ from: at, to: at + ms });
    at += ms;
  };
  for (let layer = 0; layer < layers; layer += 1) {
    for (const kind of IN_A_LAYER) add(kind, parts.get(kind)?.layers_ms[layer] ?? 0);
    layersMs.push(at);
  }
  for (const kind of AFTER) {
    const part = parts.get(kind);
    const inLayers = part?.layers_ms.reduce((sum, ms) => sum + ms, 0) ?? 0;
    add(kind, (part?.tokens_ms[index] ?? 0) - inLayers);
  }
  return { totalMs: at, stretches, layersMs };
}
