import { useEffect, useRef, useState } from "preact/hooks";
import type { LayersView, PlaceBody } from "../protocol";
import type { Session } from "../state/session";
import { type Boundary, chosenBy, moveBoundary, type Split } from "./layer-moves";

/** How long a settled move stays drawn if the kernel has nothing new to say of it. */
const FORGET_AFTER_MS = 1_000;

/**
 * Moves layers between tiers. What is dragged is drawn at once; the kernel hears the latest of it,
 * never all of it, and its plan is what is drawn once the drag has ended.
 */
export function useLayerMoves(session: Session, layers: LayersView, planning: boolean) {
  const { moves } = session;
  const [draft, setDraft] = useState<Split | null>(null);
  const [active, setActive] = useState(false);
  const pending = useRef<PlaceBody | null>(null);
  const from = useRef<LayersView | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const settled = useRef<PlaceBody | null>(null);

  const planned = { gpu: layers.gpu_layers, ram: layers.ram_layers };
  const shown = draft ?? planned;

  // Once the kernel has planned what a drag has come to, its plan is drawn.
  useEffect(() => {
    const awaited = settled.current;
    if (!awaited || planning) return;
    const same =
      layers.chosen_gpu === awaited.gpu_layers && layers.chosen_ram === awaited.ram_layers;
    if (same) forget();
  }, [layers, planning]);
  useEffect(() => () => clearTimeout(timer.current), []);

  function forget(): void {
    clearTimeout(timer.current);
    settled.current = null;
    setDraft(null);
  }

  function move(boundary: Boundary, to: number): void {
    from.current ??= layers;
    const start = from.current;
    const started = { gpu: start.gpu_layers, ram: start.ram_layers };
    const next = moveBoundary(started, boundary, to, layers.total);
    const before = draft ?? started;
    setActive(true);
    settled.current = null;
    clearTimeout(timer.current);
    setDraft(next);
    if (next.gpu === before.gpu && next.ram === before.ram) return;
    const chosen = { gpu: start.chosen_gpu, ram: start.chosen_ram };
    const { gpu, ram } = chosenBy(boundary, started, next, chosen, start.has_gpu);
    pending.current = { gpu_layers: gpu, ram_layers: ram, settled: false };
    moves.push(pending.current);
  }

  function settle(): void {
    setActive(false);
    from.current = null;
    const last = pending.current;
    pending.current = null;
    if (!last) {
      setDraft(null);
      return;
    }
    settled.current = { ...last, settled: true };
    moves.push(settled.current);
    timer.current = setTimeout(forget, FORGET_AFTER_MS);
  }

  function cancel(): void {
    const start = from.current;
    if (pending.current && start) {
      pending.current = {
        gpu_layers: start.chosen_gpu,
        ram_layers: start.chosen_ram,
        settled: false,
      };
    }
    settle();
    setDraft(null);
  }

  function release(): void {
    forget();
    moves.push({ gpu_layers: "", ram_layers: "", settled: true });
  }

  return { shown, active, move, settle, cancel, release };
}
