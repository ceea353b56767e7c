import { useState } from "preact/hooks";
import type { ActivityView } from "../protocol";
import { stackPaths, stackTotals } from "./activity-stack";
import { memoryTicks } from "./activity-units";
import { Picture, Told } from "./picture";
import { Plot } from "./plot";
import { PlotCursor } from "./plot-cursor";
import { formatMemory } from "./size";

type KVView = NonNullable<ActivityView["kv"]>;

/** So many answers fill the width at least: the first one is a column, not a wall. */
const LEAST_COLUMNS = 12;
/** A limit is drawn where it is not more than so many times what there is. */
const NEAR = 2.5;
const PLACES = [
  { key: "hot_bytes", name: "hot", color: "ollm-hue-hot" },
  { key: "ram_bytes", name: "in RAM", color: "ollm-hue-ram" },
  { key: "disk_bytes", name: "on disk", color: "ollm-hue-disk" },
] as const;

/** What the KV cache held after each answer, and where. */
export function Occupancy({ kv }: { kv: KVView }) {
  const [pointed, setPointed] = useState<number | null>(null);
  const [chosen, setChosen] = useState<number | null>(null);
  const { items } = kv;
  const last = items.length - 1;
  const at = Math.min(pointed ?? chosen ?? last, last);
  const stacks = PLACES.map(({ key }) => items.map((item) => item[key]));
  const totals = stackTotals(stacks);
  const highest = Math.max(1, ...totals);
  const limited = kv.limit_bytes > 0 && kv.limit_bytes <= highest * NEAR;
  const most = Math.max(highest, limited ? kv.limit_bytes : 0) * 1.08;
  const slots = Math.max(items.length, LEAST_COLUMNS);
  const now = items[last];
  if (!now) return null;
  return (
    <Picture
      title="KV cache"
      aside={`${formatMemory(totals[last] ?? 0)}, ${tokensOf(kv)}`}
      table={() => ({
        columns: ["Answer", "Tokens", "Hot tokens", "Hot", "RAM", "Disk"],
        rows: items.map((item) => [
          `${item.number}`,
          item.tokens.toLocaleString("en"),
          item.hot_tokens.toLocaleString("en"),
          ...PLACES.map(({ key }) => formatMemory(item[key])),
        ]),
      })}
    >
      <div class="ollm-keeps">
        <Plot
          width={slots}
          label={kv.text}
          lines={[
            ...memoryTicks(most)
              .filter((bytes) => !limited || Math.abs(bytes - kv.limit_bytes) > most * 0.14)
              .map((bytes) => ({ at: (bytes / most) * 100, text: formatMemory(bytes) })),
            ...(limited
              ? [
                  {
                    at: (kv.limit_bytes / most) * 100,
                    text: `plan ${formatMemory(kv.limit_bytes)}`,
                    kind: "limit" as const,
                  },
                ]
              : []),
          ]}
          over={
            <PlotCursor
              label="Answers of the conversation"
              edges={Array.from({ length: items.length + 1 }, (_, index) => index / slots)}
              at={at}
              valueText={items[at]?.text ?? ""}
              onPoint={setPointed}
              onChoose={setChosen}
            />
          }
        >
          {stackPaths(stacks, most).map((d, index) => (
            <path
              key={PLACES[index]?.key}
              class={`ollm-columns-of ${PLACES[index]?.color} ${items.length > 60 ? "ollm-many" : ""}`}
              d={d}
            />
          ))}
        </Plot>
        <div class="ollm-axis ollm-dim">
          <ul class="ollm-places">
            {PLACES.filter(({ key }) => items.some((item) => item[key] > 0)).map(
              ({ key, name, color }) => (
                <li key={key}>
                  <i class={color} />
                  {name} <b>{formatMemory(now[key])}</b>
                </li>
              ),
            )}
          </ul>
        </div>
      </div>
      <Told>{items[at]?.text ?? ""}</Told>
    </Picture>
  );
}

function tokensOf({ items, limit_tokens }: KVView): string {
  const tokens = (items.at(-1)?.tokens ?? 0).toLocaleString("en");
  return limit_tokens > 0
    ? `${tokens} of ${limit_tokens.toLocaleString("en")} tokens`
    : `${tokens} tokens`;
}
