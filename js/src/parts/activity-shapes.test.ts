import { describe, expect, test } from "vitest";
import { trace as traceView } from "../testing/activity";
import { lanesOf } from "./activity-lanes";
import { paceSteps } from "./activity-pace";
import { lanePath, stackPaths, stackTotals } from "./activity-stack";
import { formatMs, formatShare, memoryTicks, ticks } from "./activity-units";

describe("units", () => {
  test.each([
    [0, "0 ms"],
    [0.42, "0.4 ms"],
    [31.4, "31 ms"],
    [271, "271 ms"],
    [999.6, "1.0 s"],
    [9_960, "10 s"],
    [125_000, "2 min 5 s"],
  ])("%d ms are %s", (ms, text) => {
    expect(formatMs(ms)).toBe(text);
  });

  test("a share that is there is never said to be none", () => {
    expect([0, 0.001, 0.62].map(formatShare)).toEqual(["0%", "under 1%", "62%"]);
  });

  test("lines across a picture are at round values within it", () => {
    expect(ticks(4.2)).toEqual([2, 4]);
    expect(ticks(131)).toEqual([50, 100]);
    expect(ticks(0)).toEqual([]);
    expect(ticks(Number.NaN)).toEqual([]);
    for (let most = 0.001; most < 1e6; most *= 1.37) {
      const found = ticks(most);
      expect(found.length).toBeGreaterThan(0);
      expect(found.length).toBeLessThan(4);
      expect(Math.max(...found)).toBeLessThanOrEqual(most * (1 + 1e-9));
    }
  });

  test("sizes of memory have lines at powers of two", () => {
    expect(memoryTicks(3.9 * 2 ** 20)).toEqual([2 ** 20, 2 * 2 ** 20, 3 * 2 ** 20]);
    expect(memoryTicks(0.9 * 2 ** 20)).toEqual([]);
    expect(memoryTicks(0)).toEqual([]);
  });
});

describe("stacked columns", () => {
  const kinds = [
    [1, 0],
    [3, 2],
  ];

  test("stand on each other and reach as high as their sum", () => {
    expect(stackTotals(kinds)).toEqual([4, 2]);
    expect(stackPaths(kinds, 4)).toEqual(["M0 75h1v25h-1z", "M0 0h1v75h-1zM1 50h1v50h-1z"]);
  });

  test("are nothing where there is nothing", () => {
    expect(stackPaths([[]], 1)).toEqual([""]);
    expect(lanePath([{ from: 1, to: 1 }])).toBe("");
  });
});

describe("the course of an answer", () => {
  const pace = (tokens: number[], at_s: number[]) => ({
    state: "ended" as const,
    prompt_tokens: 3,
    reused_tokens: 0,
    first_token_s: 1,
    new_tokens: tokens.at(-1) ?? 0,
    seconds: at_s.at(-1) ?? 0,
    tokens_per_s: 1,
    tokens,
    at_s,
    text: "",
  });

  test("is each token where there are few", () => {
    const steps = paceSteps(pace([1, 2, 4], [1, 1.5, 2]));
    expect(steps).toEqual([
      { first: 2, last: 2, fromS: 1, toS: 1.5, rate: 2 },
      { first: 3, last: 4, fromS: 1.5, toS: 2, rate: 4 },
    ]);
  });

  test("leaves no token and no time out where there are many", () => {
    const count = 512;
    const tokens = Array.from({ length: count }, (_, index) => 1 + index * 3);
    const steps = paceSteps(
      pace(
        tokens,
        tokens.map((token) => 1 + token * 0.01),
      ),
    );
    expect(steps.length).toBeLessThanOrEqual(72);
    let token = 1;
    for (const step of steps) {
      expect(step.first).toBe(token + 1);
      token = step.last;
    }
    expect(token).toBe(tokens.at(-1));
    const written = steps.reduce((sum, step) => sum + step.rate * (step.toS - step.fromS), 0);
    expect(written).toBeCloseTo(token - 1, 6);
  });

  test("is nothing before the second token", () => {
    expect(paceSteps(pace([], []))).toEqual([]);
    expect(paceSteps(pace([1], [1]))).toEqual([]);
  });
});

describe("the lanes of a token", () => {
  const trace = traceView();

  test("hold each part for as long as it took, one after the other", () => {
    const { stretches, totalMs, layersMs } = lanesOf(trace);
    const index = trace.numbers.indexOf(trace.shown);
    for (const part of trace.parts) {
      const inLane = stretches[part.kind].reduce((sum, { from, to }) => sum + to - from, 0);
      expect(inLane).toBeCloseTo(part.tokens_ms[index] ?? 0, 6);
    }
    const all = Object.values(stretches)
      .flat()
      .sort((one, other) => one.from - other.from);
    let at = 0;
    for (const { from, to } of all) {
      expect(from).toBeCloseTo(at, 6);
      at = to;
    }
    expect(at).toBeCloseTo(totalMs, 6);
    expect(layersMs).toHaveLength((trace.parts[0]?.layers_ms.length ?? 0) + 1);
  });
});
