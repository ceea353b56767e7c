import { describe, expect, test } from "vitest";
import {
  above,
  chosenBy,
  describeSplit,
  keyTarget,
  moveBoundary,
  pointerTarget,
} from "./layer-moves";

const split = { gpu: 12, ram: 16 };

describe("a boundary", () => {
  test("between GPU and RAM moves layers between them, and leaves the disk alone", () => {
    expect(moveBoundary(split, "gpu", 20, 32)).toEqual({ gpu: 20, ram: 8 });
    expect(moveBoundary(split, "gpu", 0, 32)).toEqual({ gpu: 0, ram: 28 });
  });

  test("pushes the one below it where they meet", () => {
    expect(moveBoundary(split, "gpu", 30, 32)).toEqual({ gpu: 30, ram: 0 });
    expect(moveBoundary(split, "ram", 5, 32)).toEqual({ gpu: 5, ram: 0 });
  });

  test("between RAM and disk leaves the GPU alone", () => {
    expect(moveBoundary(split, "ram", 20, 32)).toEqual({ gpu: 12, ram: 8 });
    expect(moveBoundary(split, "ram", 32, 32)).toEqual({ gpu: 12, ram: 20 });
  });

  test("stays between no layer and all of them, at whole layers", () => {
    for (const boundary of ["gpu", "ram"] as const) {
      for (let to = -5; to < 40; to += 0.7) {
        const { gpu, ram } = moveBoundary(split, boundary, to, 32);
        expect(gpu).toBeGreaterThanOrEqual(0);
        expect(ram).toBeGreaterThanOrEqual(0);
        expect(gpu + ram).toBeLessThanOrEqual(32);
        expect(Number.isInteger(gpu) && Number.isInteger(ram)).toBe(true);
        expect(above({ gpu, ram }, boundary)).toBe(Math.min(32, Math.max(0, Math.round(to))));
      }
    }
  });
});

describe("keys", () => {
  test.each([
    ["ArrowLeft", 11],
    ["ArrowDown", 11],
    ["ArrowRight", 13],
    ["ArrowUp", 13],
    ["PageDown", 8],
    ["PageUp", 16],
    ["Home", 0],
    ["End", 32],
    ["a", null],
    ["Tab", null],
  ])("%s moves 12 of 32 layers to %s", (key, to) => {
    expect(keyTarget(key, 12, 32)).toBe(to);
  });

  test("stop at the ends", () => {
    expect(keyTarget("ArrowLeft", 0, 32)).toBe(0);
    expect(keyTarget("PageUp", 31, 32)).toBe(32);
  });
});

test("a pointer over a strip means as many layers as are left of it", () => {
  expect(pointerTarget(150, 100, 200, 32)).toBe(8);
  expect(pointerTarget(150, 100, 0, 32)).toBe(0);
});

describe("what was chosen by a move", () => {
  const automatic = { gpu: "", ram: "" };

  test("leaves the other count to the planner", () => {
    const to = moveBoundary(split, "gpu", 20, 32);
    expect(chosenBy("gpu", split, to, automatic, true)).toEqual({ gpu: "20", ram: "" });
    const less = moveBoundary(split, "ram", 20, 32);
    expect(chosenBy("ram", split, less, automatic, true)).toEqual({ gpu: "", ram: "8" });
  });

  test("has both counts where the boundary has moved both, or both were chosen", () => {
    const pushed = moveBoundary(split, "ram", 5, 32);
    expect(chosenBy("ram", split, pushed, automatic, true)).toEqual({ gpu: "5", ram: "0" });
    const to = moveBoundary(split, "gpu", 20, 32);
    const chosen = { gpu: "12", ram: "16" };
    expect(chosenBy("gpu", split, to, chosen, true)).toEqual({ gpu: "20", ram: "8" });
  });

  test("says nothing of a GPU that there is not", () => {
    const onCpu = { gpu: 0, ram: 30 };
    const to = moveBoundary(onCpu, "ram", 17, 30);
    expect(chosenBy("ram", onCpu, to, automatic, false)).toEqual({ gpu: "", ram: "17" });
  });
});

test("a split is described without the tiers that have no layer", () => {
  expect(describeSplit({ gpu: 12, ram: 20 }, 32)).toBe("12 on GPU, 20 in RAM, of 32 layers");
  expect(describeSplit({ gpu: 0, ram: 17 }, 30)).toBe("17 in RAM, 13 on disk, of 30 layers");
});
