import { useRef, useState } from "preact/hooks";
import type { MemoryBar as Bar, LayerRun, Segment } from "../protocol";
import { barScale, runsIn } from "./bar-scale";
import { layerName, segmentColor, segmentName } from "./memory-names";
import { formatMemory } from "./size";

/** More subdivisions than this would be a grey smear. */
const MOST_LINES = 128;

interface Props {
  bar: Bar;
  runs: readonly LayerRun[];
  /** Says what is pointed at; "" when nothing is. */
  onTell: (text: string) => void;
}

/** One tier of memory to scale; its stretches are one stop of the tab key, arrows move in it. */
export function MemoryBar({ bar, runs, onTell }: Props) {
  const [active, setActive] = useState(0);
  const stretches = useRef<HTMLDivElement>(null);
  const { capacity, filled, limit, perByte } = barScale(bar);
  const current = Math.min(active, bar.segments.length - 1);

  function onKeyDown(event: KeyboardEvent): void {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = Math.min(bar.segments.length - 1, Math.max(0, current + step));
    setActive(next);
    stretches.current?.querySelectorAll<HTMLElement>("[data-stretch]")[next]?.focus();
  }

  const freeFrom = Math.max(filled, limit ?? filled);
  return (
    <>
      <BarLabel label={bar.label} />
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset is for controls, and takes no flex layout */}
      <div
        class={bar.missing_bytes ? "ollm-bar ollm-bar-over" : "ollm-bar"}
        role="group"
        aria-label={`${bar.label}: ${bar.text}`}
        ref={stretches}
        onKeyDown={onKeyDown}
        onPointerLeave={() => onTell("")}
      >
        <i class="ollm-capacity" style={{ width: `${capacity}%` }} />
        {bar.segments.map((segment, index) => (
          <Stretch
            key={segment.kind}
            bar={bar}
            segment={segment}
            percent={segment.size_bytes * perByte}
            runs={segment.kind === "layers" ? runsIn(bar, runs) : []}
            tabIndex={index === current ? 0 : -1}
            onFocus={() => setActive(index)}
            onTell={onTell}
          />
        ))}
        {limit !== null && freeFrom < capacity && (
          <i
            class="ollm-beyond"
            style={{ left: `${freeFrom}%`, width: `${capacity - freeFrom}%` }}
            onPointerEnter={() => onTell(bar.limit_label)}
          />
        )}
        {limit !== null && filled > limit && (
          <i class="ollm-over" style={{ left: `${limit}%`, width: `${filled - limit}%` }} />
        )}
        {limit !== null && <i class="ollm-limit" style={{ left: `${limit}%` }} />}
      </div>
      <span class={bar.missing_bytes ? "ollm-bar-text ollm-no" : "ollm-bar-text ollm-dim"}>
        {bar.text}
      </span>
    </>
  );
}

interface StretchProps {
  bar: Bar;
  segment: Segment;
  percent: number;
  runs: LayerRun[];
  tabIndex: number;
  onFocus: () => void;
  onTell: (text: string) => void;
}

function Stretch({ bar, segment, percent, runs, tabIndex, onFocus, onTell }: StretchProps) {
  const size = formatMemory(segment.size_bytes);
  const share = Math.round((segment.size_bytes / Math.max(bar.capacity_bytes, 1)) * 100);
  const telling =
    `${segmentName(segment.kind, bar.place)}: ${size}, ` +
    `${share < 1 ? "under 1" : share} % of ${bar.label}. ${segment.help}`;
  const ofRuns = runs.reduce((sum, run) => sum + run.count * ownBytes(run), 0);
  return (
    <button
      type="button"
      data-stretch
      class={`ollm-stretch ${segmentColor(segment.kind, bar.place)}`}
      style={{ width: `${percent}%` }}
      tabIndex={tabIndex}
      aria-label={`${segment.label}, ${size}`}
      onFocus={() => {
        onFocus();
        onTell(telling);
      }}
      onBlur={() => onTell("")}
      onPointerEnter={() => onTell(telling)}
      onPointerMove={(event) => {
        const told = ofRuns > 0 ? layerUnder(event, runs, ofRuns) : "";
        if (told) onTell(told);
      }}
    >
      {ofRuns > 0 && (
        <span class="ollm-runs">
          {runs.map((run) => (
            <i
              key={run.first}
              class={run.count > 1 && run.count <= MOST_LINES ? "ollm-parts" : undefined}
              style={{
                width: `${((run.count * ownBytes(run)) / ofRuns) * 100}%`,
                "--ollm-count": run.count,
              }}
            />
          ))}
        </span>
      )}
      <span class="ollm-stretch-label">{segment.label}</span>
    </button>
  );
}

function ownBytes(run: LayerRun): number {
  return run.weights_bytes - run.experts_bytes;
}

function layerUnder(
  event: PointerEvent & { currentTarget: HTMLElement },
  runs: LayerRun[],
  ofRuns: number,
): string {
  const { left, width } = event.currentTarget.getBoundingClientRect();
  let at = width > 0 ? ((event.clientX - left) / width) * ofRuns : 0;
  for (const run of runs) {
    const each = ownBytes(run);
    if (at < run.count * each) return layerName(run, run.first + Math.floor(at / each));
    at -= run.count * each;
  }
  return "";
}

/** "GPU (NVIDIA H200)": which one it is, and below it what it is. */
function BarLabel({ label }: { label: string }) {
  const [, name, device] = /^(.*?) \((.*)\)$/.exec(label) ?? [label, label, ""];
  return (
    <span class="ollm-bar-label">
      {name}
      {device && <small class="ollm-dim">{device}</small>}
    </span>
  );
}
