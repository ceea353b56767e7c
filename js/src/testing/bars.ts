import type { LayersView, MemoryBar, Segment } from "../protocol";

export function segment(kind: Segment["kind"], sizeBytes: number, label: string = kind): Segment {
  return { kind, label, size_bytes: sizeBytes, help: "" };
}

/** A bar of 400 bytes, 100 of them layers. */
export function bar(more: Partial<MemoryBar> = {}): MemoryBar {
  return {
    place: "ram",
    label: "RAM",
    capacity_bytes: 400,
    text: "100 of 400",
    segments: [segment("layers", 100, "30 layers")],
    device: "",
    limit_bytes: 0,
    limit_label: "",
    missing_bytes: 0,
    ...more,
  };
}

/** 32 layers, 12 of them on a GPU, all left to the planner. */
export function layers(more: Partial<LayersView> = {}): LayersView {
  const run = { weights_bytes: 10, experts_bytes: 0, kv_bytes: 0, device: "cuda:0" };
  return {
    runs: [
      { ...run, place: "gpu", first: 0, count: 12 },
      { ...run, place: "ram", first: 12, count: 20 },
    ],
    total: 32,
    gpu_layers: 12,
    ram_layers: 20,
    has_gpu: true,
    chosen_gpu: "",
    chosen_ram: "",
    disabled: "",
    ...more,
  };
}
