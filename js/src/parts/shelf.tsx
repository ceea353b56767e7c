import "../style/segments.css";
import "../style/shelf.css";
import { useMemo, useRef } from "preact/hooks";
import type { MemoryView, ResidentItem } from "../protocol";
import { Chip } from "./chip";
import { OtherKernels } from "./other-kernels";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { RuntimeRow } from "./runtime-row";
import { ShelfHistory } from "./shelf-history";
import { useAsk } from "./use-ask";

interface Props extends PartProps {
  /** Off where something around this part shows them already. */
  withChips?: boolean;
}

/** Region `In memory`: the runtimes of this kernel, what became of others, and who else is there. */
export function Shelf({ session, withChips = true }: Props) {
  const memory = session.view.memory.value;
  const { ask, problem, dismiss } = useAsk(session);
  const region = useRef<HTMLElement>(null);
  const scaleBytes = Math.max(1, ...memory.items.map(sizeOf));
  const aheadS = useClockAhead(memory);
  return (
    <section ref={region} tabIndex={-1} aria-label="In memory" class="ollm-part ollm-shelf">
      <div class="ollm-shelf-head">
        <h3 class="ollm-heading">In memory</h3>
        {memory.items.length === 0 && <p class="ollm-empty">Nothing is loaded yet.</p>}
        {/* Always there, so that a screen reader notices when its text appears. */}
        <span role="status" aria-label="Last change">
          {memory.effect}
        </span>
        {withChips && (
          <span class="ollm-chips ollm-end">
            {memory.chips.map((chip, index) => (
              <Chip key={index} chip={chip} />
            ))}
          </span>
        )}
        {memory.history.length > 0 && <ShelfHistory events={memory.history} aheadS={aheadS} />}
      </div>
      {memory.items.length > 0 && (
        <ul class="ollm-runtimes">
          {memory.items.map((item) => (
            <RuntimeRow
              key={item.id}
              item={item}
              scaleBytes={scaleBytes}
              aheadS={aheadS}
              heir={region}
              ask={ask}
            />
          ))}
        </ul>
      )}
      <OtherKernels others={memory.others} onAsk={(holder) => void ask("ask", { holder })} />
      <ProblemNote problem={problem ?? memory.problem} onDismiss={problem ? dismiss : undefined} />
    </section>
  );
}

function sizeOf(item: ResidentItem): number {
  return item.holdings.reduce((sum, holding) => sum + holding.size_bytes, 0);
}

/** By how many seconds the page's clock is ahead of the kernel's, which may be far away. */
function useClockAhead({ now_s }: MemoryView): number {
  return useMemo(() => (now_s > 0 ? Date.now() / 1000 - now_s : 0), [now_s]);
}
