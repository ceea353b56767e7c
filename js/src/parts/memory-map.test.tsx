import { describe, expect, test } from "vitest";
import type { MemoryBar } from "../protocol";
import { bar, layers, segment } from "../testing/bars";
import { all } from "../testing/roles";
import { press, show } from "../testing/show";
import { plan, snapshot } from "../testing/views";
import { Plan } from "./plan";

const showBars = (...bars: MemoryBar[]) =>
  show(Plan, snapshot({ plan: plan({ bars, layers: layers() }) }));
const widths = (drawn: HTMLElement) => all(drawn, "button").map(({ style }) => style.width);

describe("the memory map", () => {
  test("is drawn to scale, with the bytes of each colour", async () => {
    const gib = 2 ** 30;
    const segments = [segment("layers", gib, "2 layers"), segment("kv", 2 * gib)];
    const { by, text } = await showBars(bar({ segments, capacity_bytes: 4 * gib }));
    expect(widths(by("group", "RAM: 100 of 400"))).toEqual(["25%", "50%"]);
    expect(text()).toContain("layers in RAM 1.0 GiB");
    expect(text()).toContain("KV cache 2.0 GiB");
  });

  test("has a bar for each of several GPUs, and one key for all", async () => {
    const gpu = (number: number, sizeBytes: number) =>
      bar({
        place: "gpu",
        label: `GPU ${number} (NVIDIA H200)`,
        device: `cuda:${number}`,
        text: `${sizeBytes} of 400`,
        segments: [segment("layers", sizeBytes)],
      });
    const { by, text } = await showBars(gpu(0, 140), gpu(1, 180));
    expect(widths(by("group", "GPU 0 (NVIDIA H200): 140 of 400"))).toEqual(["35%"]);
    expect(widths(by("group", "GPU 1 (NVIDIA H200): 180 of 400"))).toEqual(["45%"]);
    expect(text().match(/layers on GPU/g)).toHaveLength(1);
  });

  test("goes on beyond the end of a tier that is too small", async () => {
    const segments = [segment("layers", 500), segment("kv", 300)];
    const over = bar({ segments, limit_bytes: 360, missing_bytes: 440, text: "440 missing" });
    const { by } = await showBars(over);
    const drawn = by("group", "RAM: 440 missing");
    expect(widths(drawn)).toEqual(["62.5%", "37.5%"]);
    const part = (name: string) => drawn.querySelector<HTMLElement>(`.${name}`)?.style;
    expect(part("ollm-capacity")?.width).toBe("50%");
    expect(part("ollm-limit")?.left).toBe("45%");
    expect([part("ollm-over")?.left, part("ollm-over")?.width]).toEqual(["45%", "55%"]);
  });

  test("divides a stretch of layers into runs of equal layers", async () => {
    const { by } = await showBars(
      bar({ place: "gpu", label: "GPU", device: "cuda:0", segments: [segment("layers", 120)] }),
    );
    const runs = by("group", "GPU: 100 of 400").querySelectorAll<HTMLElement>(".ollm-runs > i");
    expect([...runs].map(({ style }) => style.getPropertyValue("--ollm-count"))).toEqual(["12"]);
  });

  test("tells the bytes of a stretch that is pointed at or has the focus", async () => {
    const { by, act, text } = await showBars(
      bar({ segments: [segment("layers", 100, "2 layers"), segment("kv", 200, "KV")] }),
    );
    const kv = by("button", "KV, under 1 MiB");
    await act(() => kv.focus());
    expect(text()).toContain("KV cache in RAM: under 1 MiB, 50 % of RAM.");
    await act(() => kv.blur());
    expect(text()).not.toContain("KV cache in RAM:");
  });

  test("is one stop of the tab key for each tier; arrows go on inside", async () => {
    const { by, act } = await showBars(
      bar({ segments: [segment("layers", 100, "2 layers"), segment("kv", 200, "KV")] }),
    );
    const stops = () => all(by("group", "RAM: 100 of 400"), "button").map((one) => one.tabIndex);
    expect(stops()).toEqual([0, -1]);
    await act(() => by("button", "2 layers, under 1 MiB").focus());
    await act(() => press(by("button", "2 layers, under 1 MiB"), "ArrowRight"));
    expect(document.activeElement).toBe(by("button", "KV, under 1 MiB"));
    expect(stops()).toEqual([-1, 0]);
  });

  test("takes text from the kernel as text", async () => {
    const { el } = await showBars(bar({ label: "<img src=x onerror=alert(1)>" }));
    expect(el.querySelector("img")).toBeNull();
  });
});
