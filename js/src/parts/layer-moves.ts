/** How many layers are on the GPU and in RAM; the rest is on disk. */
export interface Split {
  gpu: number;
  ram: number;
}

/** The boundary below the GPU's layers, or the one below those in RAM. */
export type Boundary = "gpu" | "ram";

/** Layers above a boundary. */
export function above(split: Split, boundary: Boundary): number {
  return boundary === "gpu" ? split.gpu : split.gpu + split.ram;
}

/** The split once `boundary` has `to` layers above it; it pushes the other one where they meet. */
export function moveBoundary(split: Split, boundary: Boundary, to: number, total: number): Split {
  const at = Math.min(total, Math.max(0, Math.round(to)));
  if (boundary === "gpu") return { gpu: at, ram: Math.max(0, split.gpu + split.ram - at) };
  const gpu = Math.min(split.gpu, at);
  return { gpu, ram: at - gpu };
}

/** Where a key moves a boundary that is at `at`; null for keys that move nothing. */
export function keyTarget(key: string, at: number, total: number): number | null {
  const page = Math.max(2, Math.round(total / 8));
  switch (key) {
    case "ArrowLeft":
    case "ArrowDown":
      return Math.max(0, at - 1);
    case "ArrowRight":
    case "ArrowUp":
      return Math.min(total, at + 1);
    case "PageDown":
      return Math.max(0, at - page);
    case "PageUp":
      return Math.min(total, at + page);
    case "Home":
      return 0;
    case "End":
      return total;
    default:
      return null;
  }
}

/** The number of layers above a pointer at `x` over a strip from `left` on. */
export function pointerTarget(x: number, left: number, width: number, total: number): number {
  return width > 0 ? ((x - left) / width) * total : 0;
}

export interface Chosen {
  gpu: string;
  ram: string;
}

/**
 * What a person has chosen by moving a boundary. A count that was left to the planner stays
 * with it, unless the boundary has moved it.
 */
export function chosenBy(
  boundary: Boundary,
  from: Split,
  to: Split,
  chosen: Chosen,
  hasGpu: boolean,
): Chosen {
  const gpuMoves = boundary === "gpu" || to.gpu !== from.gpu || chosen.gpu !== "";
  const ramMoves = boundary === "ram" || chosen.ram !== "";
  return {
    gpu: hasGpu && gpuMoves ? String(to.gpu) : "",
    ram: ramMoves ? String(to.ram) : "",
  };
}

/** "12 on GPU, 20 in RAM, of 32 layers"; tiers without a layer are left out. */
export function describeSplit(split: Split, total: number): string {
  const counts: [number, string][] = [
    [split.gpu, "on GPU"],
    [split.ram, "in RAM"],
    [Math.max(0, total - split.gpu - split.ram), "on disk"],
  ];
  const said = counts.filter(([count]) => count > 0).map(([count, where]) => `${count} ${where}`);
  return `${said.join(", ")}, of ${total} layers`;
}
