import { describe, expect, test } from "vitest";
import type { LayerRun } from "../protocol";
import { bar, layers, segment } from "../testing/bars";
import { barScale, layerAt, runsIn } from "./bar-scale";

describe("the scale of a bar", () => {
  test("is that of the memory there is", () => {
    const scale = barScale(bar());
    expect(scale).toEqual({ capacity: 100, filled: 25, limit: null, perByte: 0.25 });
  });

  test("shows where a budget ends", () => {
    expect(barScale(bar({ limit_bytes: 300 })).limit).toBe(75);
  });

  test("goes beyond the memory there is where the plan needs more", () => {
    const full = bar({
      segments: [segment("layers", 500)],
      limit_bytes: 400,
      missing_bytes: 100,
    });
    expect(barScale(full)).toEqual({ capacity: 80, filled: 100, limit: 80, perByte: 0.2 });
  });

  test("of a tier of nothing is no division by nothing", () => {
    expect(barScale(bar({ capacity_bytes: 0, segments: [] })).capacity).toBe(0);
  });
});

describe("layers", () => {
  const [first, second] = [
    bar({ place: "gpu", device: "cuda:0" }),
    bar({ place: "gpu", device: "cuda:1" }),
  ];

  test("are drawn in the bar of the device that holds them", () => {
    const [run] = layers().runs;
    const runs = [run, { ...run, device: "cuda:1", first: 12 }] as LayerRun[];
    expect(runsIn(first, runs)).toHaveLength(1);
    expect(runsIn(second, runs)[0]?.first).toBe(12);
  });

  test("that wait in RAM are drawn there, whatever device computes them", () => {
    expect(runsIn(bar({ device: "cpu" }), layers().runs).map(({ count }) => count)).toEqual([20]);
  });

  test("are found by their place in a strip that shows the fastest tier first", () => {
    const { runs } = layers();
    const diskFirst = [{ ...runs[1], place: "disk", first: 0, count: 4 }, ...runs] as typeof runs;
    expect(layerAt(diskFirst, 0)?.[1]).toBe(0);
    expect(layerAt(diskFirst, 12)?.[1]).toBe(12);
    expect(layerAt(diskFirst, 32)).toEqual([diskFirst[0], 0]);
    expect(layerAt(diskFirst, 36)).toBeNull();
  });
});
