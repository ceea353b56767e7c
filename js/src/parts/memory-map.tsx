import "../style/memory-map.css";
import "../style/segments.css";
import { useState } from "preact/hooks";
import type { PlanView } from "../protocol";
import { LayerStrip } from "./layer-strip";
import { MemoryBar } from "./memory-bar";
import { keyOf } from "./memory-names";
import type { PartProps } from "./props";
import { formatMemory } from "./size";

const HINT = "Drag a handle, or use its arrow keys, to move layers between the tiers.";

/** The decoder layers and the tiers of memory, each drawn to scale, with a key to the colours. */
export function MemoryMap({ plan, session }: { plan: PlanView } & PartProps) {
  const [told, setTold] = useState("");
  if (plan.bars.length === 0) return null;
  const runs = plan.layers?.runs ?? [];
  return (
    <div class="ollm-map">
      {plan.layers && (
        <LayerStrip
          layers={plan.layers}
          planning={plan.planning}
          session={session}
          onTell={setTold}
        />
      )}
      {plan.bars.map((bar) => (
        <MemoryBar key={bar.label} bar={bar} runs={runs} onTell={setTold} />
      ))}
      <div class="ollm-key-row">
        <ul class="ollm-key">
          {keyOf(plan.bars).map(({ color, text, sizeBytes }) => (
            <li key={color}>
              <i class={color} />
              {text}
              {sizeBytes > 0 && <b> {formatMemory(sizeBytes)}</b>}
            </li>
          ))}
        </ul>
        {/* What has the focus is read by its own name. */}
        <p class="ollm-told ollm-dim" aria-hidden="true">
          {told || (plan.layers?.disabled === "" ? HINT : "")}
        </p>
      </div>
    </div>
  );
}
