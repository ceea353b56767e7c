import { beforeEach, describe, expect, test, vi } from "vitest";
import { press, show, type } from "../testing/show";
import { field, plan, snapshot } from "../testing/views";
import { Plan } from "./plan";

const windowField = field("kv_cache_window_tokens", "Window tokens", { automatic: "full history" });
const backend = field("backend", "Backend", {
  kind: "choice",
  automatic: "auto: generic",
  choices: [
    { value: "", label: "auto: generic", disabled: "", help: "" },
    { value: "generic", label: "transformers-generic", disabled: "", help: "" },
    { value: "ray", label: "ray", disabled: "ray is not installed", help: "" },
  ],
});
const fields = [backend, windowField];

beforeEach(() => {
  vi.useFakeTimers();
  return () => vi.useRealTimers();
});

const box = (by: (role: string, name: string) => HTMLElement) =>
  by("textbox", "Window tokens") as HTMLInputElement;

describe("the plan", () => {
  test("asks for a model where there is none", async () => {
    const { text } = await show(Plan, snapshot());
    expect(text()).toBe("Pick a model to see whether it fits.");
  });

  test("says whether it runs, and draws memory to scale", async () => {
    const bar = {
      place: "ram" as const,
      label: "RAM",
      capacity_bytes: 400,
      text: "100 of 400",
      segments: [{ kind: "layers" as const, label: "30 layers", size_bytes: 100, parts: 30 }],
    };
    const { by, text } = await show(Plan, snapshot({ plan: plan({ fields, bars: [bar] }) }));
    expect(text()).toContain("Runs with transformers-generic on the CPU");
    const drawn = by("img", "RAM: 100 of 400: 30 layers");
    expect(drawn.querySelector("i")?.style.width).toBe("25%");
  });

  test("names the buffers through which layers stream", async () => {
    const bar = {
      place: "gpu" as const,
      label: "GPU",
      capacity_bytes: 400,
      text: "100 of 400",
      segments: [{ kind: "staging" as const, label: "buffers", size_bytes: 100, parts: 1 }],
    };
    const { by, text } = await show(Plan, snapshot({ plan: plan({ bars: [bar] }) }));
    const drawn = by("img", "GPU: 100 of 400: buffers");
    expect(drawn.querySelector("i")?.className).toBe("ollm-seg-staging");
    expect(text()).toContain("streaming buffers");
  });

  test("draws a bar for each of several GPUs, and one key for all", async () => {
    const gpu = (number: number, layers: number) => ({
      place: "gpu" as const,
      label: `GPU ${number} (NVIDIA H200)`,
      capacity_bytes: 400,
      text: `${layers * 10} of 400`,
      segments: [
        {
          kind: "layers" as const,
          label: `${layers} layers`,
          size_bytes: 10 * layers,
          parts: layers,
        },
      ],
    });
    const bars = [gpu(0, 14), gpu(1, 18)];
    const { by, text } = await show(Plan, snapshot({ plan: plan({ bars }) }));
    const width = (name: string) => by("img", name).querySelector("i")?.style.width;
    expect(width("GPU 0 (NVIDIA H200): 140 of 400: 14 layers")).toBe("35%");
    expect(width("GPU 1 (NVIDIA H200): 180 of 400: 18 layers")).toBe("45%");
    expect(text().match(/layers on GPU/g)).toHaveLength(1);
  });

  test("scales what does not fit into its bar", async () => {
    const segment = { kind: "layers" as const, label: "a", size_bytes: 600, parts: 1 };
    const bar = {
      place: "gpu" as const,
      label: "GPU",
      capacity_bytes: 400,
      text: "x",
      segments: [segment, segment],
    };
    const { by } = await show(Plan, snapshot({ plan: plan({ bars: [bar], executable: false }) }));
    const widths = [...by("img").querySelectorAll("i")].map(({ style }) => style.width);
    expect(widths).toEqual(["50%", "50%"]);
  });

  test("keeps an impossible choice in the list with its reason", async () => {
    const { by } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    const option = by("combobox", "Backend").querySelector<HTMLOptionElement>("[value=ray]");
    expect(option?.disabled).toBe(true);
    expect(option?.textContent).toBe("ray (ray is not installed)");
  });
});

describe("an edit", () => {
  test("of a choice is sent at once", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    const select = by("combobox", "Backend") as HTMLSelectElement;
    await act(() => {
      select.value = "generic";
      select.dispatchEvent(new Event("change", { bubbles: true }));
    });
    expect(model.last("edit").body).toEqual({ field: "backend", value: "generic" });
  });

  test("of a count is sent once a person pauses", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    await act(() => type(box(by), "5"));
    await act(() => type(box(by), "512"));
    expect(model.commands("edit")).toEqual([]);
    await act(() => void vi.advanceTimersByTime(250));
    expect(model.commands("edit").map(({ body }) => body)).toEqual([
      { field: "kv_cache_window_tokens", value: "512" },
    ]);
  });

  test("of a count is sent by Enter, and not twice", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    await act(() => type(box(by), "512"));
    await act(() => press(box(by), "Enter"));
    await act(() => box(by).blur());
    await act(() => void vi.advanceTimersByTime(1_000));
    expect(model.commands("edit")).toHaveLength(1);
  });

  test("stays as typed while the field has the focus, with the kernel's objection", async () => {
    const { model, by, act, text } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    await act(() => type(box(by), "-1"));
    await act(() => press(box(by), "Enter"));
    const objecting = { ...windowField, value: "", error: "Use a number above 0." };
    await act(() => model.event("plan", 1, plan({ fields: [backend, objecting] })));
    expect(box(by).value).toBe("-1");
    expect(box(by).getAttribute("aria-invalid")).toBe("true");
    expect(text()).toContain("Use a number above 0.");
  });

  test("gives way to the kernel's value once the field is left", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    await act(() => type(box(by), "0512"));
    await act(() => box(by).blur());
    expect(box(by).value).toBe("0512");
    const taken = { ...windowField, value: "512" };
    await act(() => model.event("plan", 1, plan({ fields: [backend, taken] })));
    expect(box(by).value).toBe("512");
  });

  test("that is refused keeps its text and shows the reason", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    await act(() => type(box(by), "512"));
    await act(() => box(by).blur());
    const problem = { code: "busy", message: "A load is running.", hint: "" };
    await act(() => model.refuse(model.last("edit"), problem));
    expect(box(by).value).toBe("512");
    expect(by("alert").textContent).toContain("A load is running.");
  });
});

test("the code is copied, and the button keeps its name", async () => {
  const writeText = vi.fn(async () => {});
  vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText } });
  const { by, act, text } = await show(Plan, snapshot({ plan: plan() }));
  await act(() => by("button", "Copy as code").click());
  expect(writeText).toHaveBeenCalledWith("Config()");
  expect(text()).toContain("Copied");
  expect(by("button", "Copy as code")).toBeTruthy();
  vi.unstubAllGlobals();
});
