import { useState } from "preact/hooks";
import type { ActivityView } from "../protocol";
import { lanesOf } from "./activity-lanes";
import { lanePath } from "./activity-stack";
import { formatMs, formatShare } from "./activity-units";
import { Told } from "./picture";
import { PlotCursor } from "./plot-cursor";

type TraceView = NonNullable<ActivityView["trace"]>;

/** Below this share of its time nothing is to be gained. */
const LEAST_SHARE = 0.005;

/** One token, a lane for each thing that its time went to. */
export function TokenLanes({ trace }: { trace: TraceView }) {
  const [pointed, setPointed] = useState<number | null>(null);
  const [chosen, setChosen] = useState(0);
  const lanes = lanesOf(trace);
  const { totalMs, stretches, layersMs } = lanes;
  const index = trace.numbers.indexOf(trace.shown);
  const shown = trace.parts.filter((part) => (part.tokens_ms[index] ?? 0) >= totalMs * LEAST_SHARE);
  const layers = layersMs.length - 1;
  if (totalMs <= 0 || layers < 1) return null;
  const at = Math.min(pointed ?? chosen, layers - 1);
  const told = tellLayer(trace, at);
  return (
    <div class="ollm-lanes">
      <p class="ollm-lanes-head">
        <b>
          Token {trace.shown}, {formatMs(totalMs)}
        </b>{" "}
        <span class="ollm-dim">layer by layer</span>
      </p>
      <ol>
        {shown.map((part, row) => {
          const ms = part.tokens_ms[index] ?? 0;
          return (
            <li key={part.kind} title={part.help} style={{ gridRow: row + 1 }}>
              <span class="ollm-lane-name">{part.name}</span>
              <svg
                class="ollm-lane"
                viewBox={`0 0 ${totalMs} 1`}
                preserveAspectRatio="none"
                aria-hidden="true"
              >
                <path class={`ollm-hue-${part.kind}`} d={lanePath(stretches[part.kind])} />
              </svg>
              <span class="ollm-lane-text">
                {formatMs(ms)} <span class="ollm-dim">{formatShare(ms / totalMs)}</span>
              </span>
            </li>
          );
        })}
        <li class="ollm-lanes-over" style={{ gridRow: `1 / ${shown.length + 1}` }}>
          <PlotCursor
            label="Layers of the token"
            edges={layersMs.map((ms) => ms / totalMs)}
            at={at}
            valueText={told}
            onPoint={setPointed}
            onChoose={setChosen}
          />
        </li>
      </ol>
      <Told>{told}</Told>
    </div>
  );
}

function tellLayer(trace: TraceView, layer: number): string {
  const parts = trace.parts
    .map((part) => ({ name: part.name, ms: part.layers_ms[layer] ?? 0 }))
    .filter(({ ms }) => ms >= 0.05)
    .map(({ name, ms }) => `${name.toLowerCase()} ${formatMs(ms)}`);
  const layers = trace.parts[0]?.layers_ms.length ?? 0;
  return `Layer ${layer + 1} of ${layers}: ${parts.join(", ") || "no time to speak of"}`;
}
