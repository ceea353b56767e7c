import "../style/memory-map.css";
import type { MemoryBar, Segment } from "../protocol";

type Place = MemoryBar["place"];

/** About what one letter takes of a bar; a label that would not fit is only a tooltip. */
const LETTER_PERCENT = 1.25;
/** More subdivisions than this would be a grey smear. */
const MOST_LINES = 80;

const PLACE_NAMES: Record<Place, string> = { gpu: "on GPU", ram: "in RAM", disk: "on disk" };

/** The tiers of memory, each drawn to scale, with a key to the colours. */
export function MemoryMap({ bars }: { bars: readonly MemoryBar[] }) {
  if (bars.length === 0) return null;
  return (
    <div class="ollm-map">
      {bars.map((bar) => (
        <Bar key={bar.label} bar={bar} />
      ))}
      <ul class="ollm-key" aria-hidden="true">
        {legend(bars).map(({ color, text }) => (
          <li key={text}>
            <i class={color} />
            {text}
          </li>
        ))}
      </ul>
    </div>
  );
}

function Bar({ bar }: { bar: MemoryBar }) {
  const filled = bar.segments.reduce((sum, segment) => sum + segment.size_bytes, 0);
  const scale = Math.max(bar.capacity_bytes, filled, 1);
  const over = filled > bar.capacity_bytes;
  const said = bar.segments.map((segment) => segment.label).join(", ");
  return (
    <>
      <span class="ollm-bar-label">{bar.label}</span>
      <div
        class={over ? "ollm-bar ollm-bar-over" : "ollm-bar"}
        role="img"
        aria-label={`${bar.label}: ${bar.text}${said && `: ${said}`}`}
      >
        {bar.segments.map((segment, index) => {
          const percent = (segment.size_bytes / scale) * 100;
          const parts = segment.parts <= MOST_LINES ? segment.parts : 1;
          return (
            <i
              key={index}
              class={`${segmentColor(segment.kind, bar.place)}${parts > 1 ? " ollm-parts" : ""}`}
              style={{ width: `${percent}%`, "--ollm-count": parts }}
              title={segment.label}
            >
              {percent >= segment.label.length * LETTER_PERCENT && <span>{segment.label}</span>}
            </i>
          );
        })}
      </div>
      <span class="ollm-bar-text ollm-dim">{bar.text}</span>
    </>
  );
}

/** The class that gives a segment its colour. */
export function segmentColor(kind: Segment["kind"], place: Place): string {
  return kind === "layers" || kind === "embeddings"
    ? `ollm-seg-${kind} ollm-in-${place}`
    : `ollm-seg-${kind}`;
}

/** What a segment is and where, for its tooltip. */
export function segmentName(kind: Segment["kind"], place: Place): string {
  return `${KIND_NAMES[kind]} ${PLACE_NAMES[place]}`;
}

const KIND_NAMES: Record<Segment["kind"], string> = {
  layers: "layers",
  embeddings: "embeddings",
  staging: "streaming buffers",
  kv: "KV cache",
  activations: "activations",
  used: "used by others",
};

function legend(bars: readonly MemoryBar[]): { color: string; text: string }[] {
  const key = new Map<string, string>();
  for (const bar of bars) {
    for (const { kind } of bar.segments) {
      const color = segmentColor(kind, bar.place);
      const placed = color.includes("ollm-in-");
      key.set(color, placed ? segmentName(kind, bar.place) : KIND_NAMES[kind]);
    }
  }
  return [...key].map(([color, text]) => ({ color, text }));
}
