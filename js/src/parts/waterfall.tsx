import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Latest } from "../link/latest";
import type { ActivityView } from "../protocol";
import { stackPaths, stackTotals } from "./activity-stack";
import { formatMs, formatShare, ticks } from "./activity-units";
import { Picture, Told } from "./picture";
import { Plot } from "./plot";
import { PlotCursor } from "./plot-cursor";
import type { PartProps } from "./props";
import { TokenLanes } from "./waterfall-lanes";

type TraceView = NonNullable<ActivityView["trace"]>;

const LEAST_COLUMNS = 12;
const REST_MS = 80;

/** Where the time of each token of an answer went, and of one of them layer by layer. */
export function Waterfall({ trace, session }: { trace: TraceView } & PartProps) {
  const [pointed, setPointed] = useState<number | null>(null);
  const [chosen, setChosen] = useState<number | null>(null);
  const inspect = useRef(
    new Latest<string>((token) => session.link.ask("inspect", { token }), REST_MS),
  );
  // Another answer was traced: what was chosen in the one before means nothing in it.
  useEffect(() => setChosen(null), [trace.text]);
  const stacks = useMemo(() => trace.parts.map((part) => part.tokens_ms), [trace]);
  const totals = stackTotals(stacks);
  const shownIndex = Math.max(0, trace.numbers.indexOf(trace.shown));
  const last = trace.numbers.length - 1;
  const at = Math.min(pointed ?? chosen ?? shownIndex, last);
  const most = Math.max(1e-6, ...totals) * 1.08;
  const slots = Math.max(trace.numbers.length, LEAST_COLUMNS);
  const tell = (index: number) => tellToken(trace, totals, index);
  return (
    <Picture
      title="Where the time of a token goes"
      aside={trace.numbers.length > 0 ? `${formatMs(mean(totals))} on average` : undefined}
      table={() => ({
        columns: ["Token", "ms", ...trace.parts.map(({ name }) => name)],
        rows: trace.numbers.map((number, index) => [
          `${number}`,
          (totals[index] ?? 0).toFixed(1),
          ...trace.parts.map(({ tokens_ms }) => (tokens_ms[index] ?? 0).toFixed(1)),
        ]),
      })}
    >
      {last >= 0 && (
        <>
          <Plot
            width={slots}
            label={trace.text}
            lines={ticks(most).map((ms) => ({ at: (ms / most) * 100, text: formatMs(ms) }))}
            over={
              <PlotCursor
                label="Tokens that were traced"
                edges={Array.from({ length: last + 2 }, (_, index) => index / slots)}
                at={at}
                valueText={tell(at)}
                marked
                onPoint={setPointed}
                onChoose={(index) => {
                  setChosen(index);
                  inspect.current.push(String(trace.numbers[index] ?? ""));
                }}
              />
            }
          >
            {stackPaths(stacks, most).map((d, index) => (
              <path
                key={trace.parts[index]?.kind}
                class={`ollm-columns-of ollm-hue-${trace.parts[index]?.kind} ${last > 60 ? "ollm-many" : ""}`}
                d={d}
              />
            ))}
          </Plot>
          <div class="ollm-axis ollm-dim" aria-hidden="true">
            <span class="ollm-axis-ends" style={{ width: `${((last + 1) / slots) * 100}%` }}>
              <span>token {trace.numbers[0]}</span>
              {last > 0 && <span>{trace.numbers[last]}</span>}
            </span>
          </div>
          <Told>{tell(at)}</Told>
          <TokenLanes trace={trace} />
        </>
      )}
      {[last < 0 && trace.text, trace.prompt, trace.note].filter(Boolean).map((line) => (
        <p key={line} class="ollm-dim ollm-small">
          {line}
        </p>
      ))}
    </Picture>
  );
}

function tellToken(trace: TraceView, totals: readonly number[], index: number): string {
  const total = totals[index] ?? 0;
  const said = trace.parts
    .map((part) => ({ name: part.name, ms: part.tokens_ms[index] ?? 0 }))
    .filter(({ ms }) => ms / total >= 0.005)
    .sort((one, other) => other.ms - one.ms)
    .map(({ name, ms }) => `${name.toLowerCase()} ${formatMs(ms)} (${formatShare(ms / total)})`);
  return `Token ${trace.numbers[index]}: ${formatMs(total)}: ${said.join(", ")}`;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
}
