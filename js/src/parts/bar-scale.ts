import type { LayerRun, MemoryBar } from "../protocol";

/** Where the parts of a bar are, in percent of its whole width. */
export interface BarScale {
  /** The memory there is; less than 100 where the plan needs more than that. */
  capacity: number;
  /** The end of what the plan and others take. */
  filled: number;
  /** What the plan must stay below; null where nothing bounds it. */
  limit: number | null;
  /** Of one byte. */
  perByte: number;
}

export function barScale(bar: MemoryBar): BarScale {
  const filledBytes = bar.segments.reduce((sum, segment) => sum + segment.size_bytes, 0);
  const widestBytes = Math.max(bar.capacity_bytes, filledBytes, 1);
  const perByte = 100 / widestBytes;
  const bounded = bar.limit_bytes > 0 && bar.limit_bytes < bar.capacity_bytes;
  return {
    capacity: bar.capacity_bytes * perByte,
    filled: filledBytes * perByte,
    limit: bounded || bar.missing_bytes > 0 ? bar.limit_bytes * perByte : null,
    perByte,
  };
}

/** The runs of layers that are drawn in a bar. */
export function runsIn(bar: MemoryBar, runs: readonly LayerRun[]): LayerRun[] {
  const ofSeveral = bar.place === "gpu" && bar.device !== "";
  return runs.filter((run) => run.place === bar.place && (!ofSeveral || run.device === bar.device));
}

/** The layer that is number `position` of a strip which shows GPU, RAM and disk in that order. */
export function layerAt(runs: readonly LayerRun[], position: number): [LayerRun, number] | null {
  let before = 0;
  for (const place of ["gpu", "ram", "disk"] as const) {
    for (const run of runs) {
      if (run.place !== place) continue;
      if (position < before + run.count) return [run, run.first + position - before];
      before += run.count;
    }
  }
  return null;
}
