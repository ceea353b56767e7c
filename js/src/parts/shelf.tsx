import "../style/segments.css";
import "../style/shelf.css";
import type { ResidentItem } from "../protocol";
import { Chip } from "./chip";
import { segmentColor, segmentName } from "./memory-names";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";

interface Props extends PartProps {
  /** Off where something around this part shows them already. */
  withChips?: boolean;
}

/** Region `In memory`: the loaded runtimes. */
export function Shelf({ session, withChips = true }: Props) {
  const memory = session.view.memory.value;
  const { ask, problem, dismiss } = useAsk(session);
  const scaleBytes = Math.max(1, ...memory.items.map(sizeOf));
  return (
    <section aria-label="In memory" class="ollm-part ollm-shelf">
      <div class="ollm-shelf-row">
        <h3 class="ollm-heading">In memory</h3>
        {memory.items.length === 0 && <p class="ollm-empty">Nothing is loaded yet.</p>}
        {memory.items.length > 0 && (
          <ul class="ollm-runtimes">
            {memory.items.map((item) => (
              <Runtime
                key={item.id}
                item={item}
                scaleBytes={scaleBytes}
                onUse={() => void ask("use", { runtime: item.id })}
                onPin={() => void ask("pin", { runtime: item.id, pinned: !item.pinned })}
                onUnload={() => void ask("unload", { runtime: item.id })}
              />
            ))}
          </ul>
        )}
        {withChips && (
          <span class="ollm-chips">
            {memory.chips.map((chip, index) => (
              <Chip key={index} chip={chip} />
            ))}
          </span>
        )}
      </div>
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </section>
  );
}

function sizeOf(item: ResidentItem): number {
  return item.holdings.reduce((sum, holding) => sum + holding.size_bytes, 0);
}

interface RuntimeProps {
  item: ResidentItem;
  scaleBytes: number;
  onUse: () => void;
  onPin: () => void;
  onUnload: () => void;
}

function Runtime({ item, scaleBytes, onUse, onPin, onUnload }: RuntimeProps) {
  return (
    <li aria-label={item.name} class="ollm-runtime" aria-current={item.current}>
      <span class={`ollm-dot ollm-dot-${item.state}`} title={item.state} />
      <span class={item.current ? "ollm-runtime-name ollm-strong" : "ollm-runtime-name"}>
        {item.name}
      </span>
      <span class="ollm-mini" aria-hidden="true">
        {item.holdings.map(({ kind, place, size_bytes }) => (
          <i
            key={`${kind} ${place}`}
            class={segmentColor(kind, place)}
            style={{ width: `${(size_bytes / scaleBytes) * 100}%` }}
            title={segmentName(kind, place)}
          />
        ))}
      </span>
      <span class="ollm-dim">{item.text}</span>
      <span class="ollm-runtime-buttons">
        {!item.current && (
          <button type="button" class="ollm-quiet" onClick={onUse}>
            Use
          </button>
        )}
        <button type="button" class="ollm-quiet" onClick={onPin}>
          {item.pinned ? "Unpin" : "Pin"}
        </button>
        <button type="button" class="ollm-quiet" onClick={onUnload}>
          Unload
        </button>
      </span>
    </li>
  );
}
