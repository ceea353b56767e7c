import { beforeEach, describe, expect, test, vi } from "vitest";
import type { LayersView } from "../protocol";
import { bar, layers } from "../testing/bars";
import { all } from "../testing/roles";
import { press, show } from "../testing/show";
import { plan, snapshot } from "../testing/views";
import { Plan } from "./plan";

const GPU = "Boundary between GPU and RAM";
const DISK = "Boundary between RAM and disk";

beforeEach(() => {
  vi.useFakeTimers();
  // A strip of 320 pixels: 10 for each of 32 layers.
  vi.spyOn(HTMLElement.prototype, "getBoundingClientRect").mockReturnValue({
    left: 100,
    width: 320,
  } as DOMRect);
  return () => {
    vi.useRealTimers();
    vi.restoreAllMocks();
  };
});

const withLayers = (more: Partial<LayersView> = {}, planning = false) =>
  plan({ bars: [bar()], layers: layers(more), planning });

async function showStrip(more: Partial<LayersView> = {}) {
  const shown = await show(Plan, snapshot({ plan: withLayers(more) }));
  const { model, act } = shown;
  const places = () => model.commands("place").map(({ body }) => body);
  const answer = async () => {
    await act(() => model.ack(model.last("place")));
    await act(() => void vi.advanceTimersByTime(50));
  };
  const point = (name: string, kind: string, x = 0) =>
    act(() => {
      const event = new MouseEvent(kind, { bubbles: true, clientX: x, button: 0 });
      shown.by("slider", name).dispatchEvent(event);
    });
  return { ...shown, places, answer, point };
}

const place = (gpu: string, ram: string, settled: boolean) => ({
  gpu_layers: gpu,
  ram_layers: ram,
  settled,
});

describe("a boundary that is dragged", () => {
  test("is drawn at once, and the kernel hears the latest place and the last", async () => {
    const { by, places, answer, point } = await showStrip();
    await point(GPU, "pointerdown");
    await point(GPU, "pointermove", 260);
    await point(GPU, "pointermove", 280);
    await point(GPU, "pointermove", 300);
    expect(by("slider", GPU).getAttribute("aria-valuenow")).toBe("20");
    expect(by("slider", GPU).style.left).toBe("62.5%");
    expect(places()).toEqual([place("16", "", false)]);
    await answer();
    expect(places()).toEqual([place("16", "", false), place("20", "", false)]);
    await point(GPU, "pointerup");
    await answer();
    expect(places().at(-1)).toEqual(place("20", "", true));
    await answer();
    expect(places()).toHaveLength(3);
  });

  test("goes where the kernel says once that has planned the move", async () => {
    const { model, by, act, answer, point } = await showStrip();
    await point(GPU, "pointerdown");
    await point(GPU, "pointermove", 260);
    await point(GPU, "pointerup");
    await answer();
    await answer();
    await act(() => model.event("plan", 1, withLayers({ chosen_gpu: "16" }, true)));
    expect(by("slider", GPU).getAttribute("aria-valuenow")).toBe("16");
    await act(() => model.event("plan", 2, withLayers({ chosen_gpu: "16", gpu_layers: 14 })));
    expect(by("slider", GPU).getAttribute("aria-valuenow")).toBe("14");
  });

  test("that comes to where it was says nothing", async () => {
    const { places, point } = await showStrip();
    await point(GPU, "pointerdown");
    await point(GPU, "pointermove", 221);
    await point(GPU, "pointerup");
    expect(places()).toEqual([]);
  });

  test("goes back to where it was by Escape", async () => {
    const { by, act, places, answer, point } = await showStrip({ chosen_gpu: "12" });
    await point(GPU, "pointerdown");
    await point(GPU, "pointermove", 260);
    await act(() => press(by("slider", GPU), "Escape"));
    await answer();
    await point(GPU, "pointermove", 280);
    await point(GPU, "pointerup");
    expect(places()).toEqual([place("16", "", false), place("12", "", true)]);
    expect(by("slider", GPU).getAttribute("aria-valuenow")).toBe("12");
  });

  test("does not move without the button being held", async () => {
    const { places, point } = await showStrip();
    await point(GPU, "pointermove", 300);
    expect(places()).toEqual([]);
  });

  test("shows a refusal where it happened", async () => {
    const { model, by, act, point } = await showStrip();
    await point(DISK, "pointerdown");
    await point(DISK, "pointermove", 300);
    const problem = { code: "bad-config", message: "It is no count.", hint: "" };
    await act(() => model.refuse(model.last("place"), problem));
    expect(by("alert").textContent).toContain("It is no count.");
  });
});

describe("by the keyboard", () => {
  test("a key moves a boundary, and its release is one step of the way back", async () => {
    const { by, act, places, answer } = await showStrip();
    await act(() => press(by("slider", DISK), "ArrowLeft"));
    await act(() => press(by("slider", DISK), "ArrowLeft"));
    expect(by("slider", DISK).getAttribute("aria-valuenow")).toBe("30");
    await answer();
    await act(() => {
      by("slider", DISK).dispatchEvent(new KeyboardEvent("keyup", { key: "ArrowLeft" }));
    });
    await answer();
    expect(places()).toEqual([
      place("", "19", false),
      place("", "18", false),
      place("", "18", true),
    ]);
  });

  test("keys that follow fast are steps of their own all the same", async () => {
    const { by, act, places, answer } = await showStrip();
    for (const _press of [1, 2]) {
      await act(() => press(by("slider", DISK), "ArrowLeft"));
      await act(() => {
        by("slider", DISK).dispatchEvent(new KeyboardEvent("keyup", { key: "ArrowLeft" }));
      });
    }
    for (const _turn of [1, 2, 3]) await answer();
    expect(places()).toEqual([
      place("", "19", false),
      place("", "19", true),
      place("", "18", true),
    ]);
  });

  test("a step back does not overtake the moves before it", async () => {
    const { model, by, act, answer } = await showStrip();
    await act(() => press(by("slider", DISK), "ArrowLeft"));
    await act(() => press(by("slider", DISK), "z", { ctrlKey: true }));
    expect(model.commands("undo")).toHaveLength(0);
    await answer();
    expect(model.commands("undo")).toHaveLength(1);
  });

  test("says in words where the layers are", async () => {
    const { by, act } = await showStrip();
    expect(by("slider", GPU).getAttribute("aria-valuetext")).toBe(
      "12 on GPU, 20 in RAM, of 32 layers",
    );
    await act(() => press(by("slider", GPU), "End"));
    expect(by("slider", GPU).getAttribute("aria-valuetext")).toBe("32 on GPU, of 32 layers");
  });
});

test("without a GPU there is one boundary, that between RAM and disk", async () => {
  const { el, by, act, places } = await showStrip({
    has_gpu: false,
    gpu_layers: 0,
    ram_layers: 32,
  });
  expect(all(el, "slider")).toHaveLength(1);
  await act(() => press(by("slider", DISK), "PageDown"));
  expect(places()).toEqual([place("", "28", false)]);
});

test("what was chosen can be given back to the planner, and the focus stays", async () => {
  const { model, by, act, places } = await showStrip({ chosen_gpu: "12" });
  by("button", "Back to automatic").focus();
  await act(() => by("button", "Back to automatic").click());
  expect(places()).toEqual([place("", "", true)]);
  await act(() => model.event("plan", 1, withLayers()));
  expect(document.activeElement).toBe(by("button", "Back to automatic"));
  await act(() => by("button", "Back to automatic").click());
  expect(places()).toHaveLength(1);
});

test("layers that cannot be moved have no handle, but the reason", async () => {
  const { el, text } = await showStrip({ disabled: "It keeps the model on one device." });
  expect(all(el, "slider")).toEqual([]);
  expect(text()).toContain("It keeps the model on one device.");
});
