import { useEffect, useRef } from "preact/hooks";
import type { LayersView } from "../protocol";
import { layerAt } from "./bar-scale";
import {
  above,
  type Boundary,
  describeSplit,
  keyTarget,
  pointerTarget,
  type Split,
} from "./layer-moves";
import { layerName } from "./memory-names";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useLayerMoves } from "./use-layer-moves";

const NAMES: Record<Boundary, string> = {
  gpu: "Boundary between GPU and RAM",
  ram: "Boundary between RAM and disk",
};
/** More subdivisions than this would be a grey smear. */
const MOST_LINES = 128;

interface Props extends PartProps {
  layers: LayersView;
  planning: boolean;
  onTell: (text: string) => void;
}

/** All decoder layers by tier, with handles that move the boundaries between the tiers. */
export function LayerStrip({ layers, planning, session, onTell }: Props) {
  const strip = useRef<HTMLDivElement>(null);
  const moves = useLayerMoves(session, layers, planning);
  const { shown } = moves;
  const { problem } = session.moves;
  const { total } = layers;
  const disk = Math.max(0, total - shown.gpu - shown.ram);
  const automatic = layers.chosen_gpu === "" && layers.chosen_ram === "";
  const boundaries: Boundary[] = layers.has_gpu ? ["gpu", "ram"] : ["ram"];

  function tellLayer(event: PointerEvent & { currentTarget: HTMLElement }): void {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const under = layerAt(
      layers.runs,
      Math.floor(pointerTarget(event.clientX, left, width, total)),
    );
    onTell(under && !moves.active ? layerName(...under) : "");
  }

  return (
    <>
      <span class="ollm-bar-label">Layers</span>
      <div
        class="ollm-strip"
        ref={strip}
        onPointerMove={tellLayer}
        onPointerLeave={() => onTell("")}
      >
        <Tier place="gpu" count={shown.gpu} total={total} />
        <Tier place="ram" count={shown.ram} total={total} />
        <Tier place="disk" count={disk} total={total} />
        {!layers.disabled &&
          boundaries.map((boundary) => (
            <Handle
              key={boundary}
              boundary={boundary}
              split={shown}
              total={total}
              meets={layers.has_gpu && shown.ram === 0}
              strip={strip}
              onMove={(to) => moves.move(boundary, to)}
              onSettle={moves.settle}
              onCancel={moves.cancel}
            />
          ))}
      </div>
      <span class="ollm-bar-text ollm-dim">
        <button
          type="button"
          class="ollm-quiet ollm-automatic"
          // Not `disabled`, which would drop the focus of whoever has just pressed it.
          aria-disabled={automatic}
          onClick={() => {
            if (!automatic) moves.release();
          }}
        >
          Back to automatic
        </button>
      </span>
      <p class="ollm-strip-text ollm-dim">
        {describeSplit(shown, total)}
        {layers.disabled && `. ${layers.disabled}`}
      </p>
      <ProblemNote
        problem={problem.value}
        onDismiss={() => {
          problem.value = null;
        }}
      />
    </>
  );
}

interface TierProps {
  place: "gpu" | "ram" | "disk";
  count: number;
  total: number;
}

function Tier({ place, count, total }: TierProps) {
  if (count === 0) return null;
  const lines = count > 1 && total <= MOST_LINES ? " ollm-parts" : "";
  return (
    <i
      class={`ollm-seg-layers ollm-in-${place}${lines}`}
      style={{ width: `${(count / total) * 100}%`, "--ollm-count": count }}
    />
  );
}

interface HandleProps {
  boundary: Boundary;
  split: Split;
  total: number;
  /** The two handles are at the same place and stand side by side. */
  meets: boolean;
  strip: { current: HTMLDivElement | null };
  onMove: (to: number) => void;
  onSettle: () => void;
  /** Put everything back to where it was before the drag. */
  onCancel: () => void;
}

function Handle({ boundary, split, total, meets, strip, ...on }: HandleProps) {
  const { onMove, onSettle, onCancel } = on;
  const at = above(split, boundary);
  const dragging = useRef(false);
  // Keys that repeat are one step of the way back: it ends when the key is up.
  const keyed = useRef(false);
  const settle = useRef(onSettle);
  settle.current = onSettle;

  useEffect(
    () => () => {
      if (dragging.current || keyed.current) settle.current();
    },
    [],
  );

  function endDrag(): void {
    if (!dragging.current) return;
    dragging.current = false;
    onSettle();
  }

  function endKeys(): void {
    if (!keyed.current) return;
    keyed.current = false;
    onSettle();
  }

  return (
    <div
      class={`ollm-handle ollm-handle-${boundary}${meets ? " ollm-meets" : ""}`}
      style={{ left: `${(at / total) * 100}%` }}
      role="slider"
      tabIndex={0}
      aria-label={NAMES[boundary]}
      aria-orientation="horizontal"
      aria-valuemin={0}
      aria-valuemax={total}
      aria-valuenow={at}
      aria-valuetext={describeSplit(split, total)}
      onPointerDown={(event) => {
        if (event.button !== 0) return;
        event.preventDefault();
        event.currentTarget.focus();
        event.currentTarget.setPointerCapture?.(event.pointerId);
        dragging.current = true;
      }}
      onPointerMove={(event) => {
        const box = strip.current?.getBoundingClientRect();
        if (!dragging.current || !box) return;
        onMove(pointerTarget(event.clientX, box.left, box.width, total));
      }}
      onPointerUp={endDrag}
      onPointerCancel={endDrag}
      onLostPointerCapture={endDrag}
      onKeyDown={(event) => {
        if (event.key === "Escape" && dragging.current) {
          dragging.current = false;
          onCancel();
        }
        const to = keyTarget(event.key, at, total);
        if (to === null || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        keyed.current = true;
        onMove(to);
      }}
      onKeyUp={endKeys}
      onBlur={endKeys}
    />
  );
}
