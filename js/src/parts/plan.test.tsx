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

  test("says whether it runs", async () => {
    const { text } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    expect(text()).toContain("Runs with transformers-generic on the CPU");
  });

  test("folds what is rarely chosen, says how much of it is, and never hides an error", async () => {
    const budget = field("gpu_memory_budget", "GPU budget", {
      kind: "size",
      value: "6GiB",
      rare: true,
    });
    const { model, el, act, text } = await show(
      Plan,
      snapshot({ plan: plan({ fields: [backend, budget] }) }),
    );
    const fold = el.querySelector("details");
    expect(fold?.open).toBe(false);
    expect(text()).toContain("More settings · 1 chosen");
    const wrong = { ...budget, value: "6 apples", error: "'6 apples' is not a size." };
    await act(() => model.event("plan", 1, plan({ fields: [backend, wrong] })));
    expect(fold?.open).toBe(true);
  });

  test("says what the last edit changed, and why", async () => {
    const changes = [
      { term: "Speed", before: "5.1 tokens/s", after: "7.2 tokens/s", why: "Fewer layers move." },
    ];
    const { by } = await show(Plan, snapshot({ plan: plan({ changes }) }));
    const region = by("status", "Changes");
    expect(region.textContent).toBe("Speed5.1 tokens/s →  became 7.2 tokens/sFewer layers move.");
    expect(region.getAttribute("aria-live")).toBe("polite");
  });

  test("draws what a token waits for to the scale of the slowest", async () => {
    const part = (label: string, seconds: number) => ({
      label,
      seconds,
      text: `${seconds} s`,
      explanation: "",
    });
    const times = [
      {
        title: "One token, 0.4 s",
        parts: [part("the wire", 0.4), part("computing", 0.1)],
        note: "Bound by the wire.",
      },
    ];
    const { el, text } = await show(Plan, snapshot({ plan: plan({ times }) }));
    const widths = [...el.querySelectorAll<HTMLElement>(".ollm-time-track > i")];
    expect(widths.map(({ style }) => style.width)).toEqual(["100%", "25%"]);
    expect(text()).toContain("Bound by the wire.");
  });

  test("tells why it is as it is, at once where it does not run", async () => {
    const told = plan({ story: "All layers stay.", notes: ["A note."], executable: false });
    const { el, text } = await show(Plan, snapshot({ plan: told }));
    expect(text()).toContain("All layers stay.");
    expect(text()).toContain("A note.");
    expect(el.querySelector("details")?.open).toBe(true);
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

describe("the way back", () => {
  const preset = (id: string, title: string, more = {}) => ({
    id,
    title,
    help: `${title}, in a sentence.`,
    active: false,
    disabled: "",
    ...more,
  });
  const presets = [
    preset("fastest", "Fastest", { active: true }),
    preset("least-gpu-memory", "Least GPU memory", { disabled: "This plan runs without a GPU." }),
  ];

  test("is one step for a preset, which says what it does or why it cannot be had", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ presets }) }));
    const fastest = by("button", "Fastest");
    expect(fastest.getAttribute("aria-pressed")).toBe("true");
    await act(() => fastest.click());
    expect(model.last("preset").body).toEqual({ preset: "fastest" });
    const least = by("button", "Least GPU memory");
    const described = document.getElementById(least.getAttribute("aria-describedby") ?? "");
    expect(described?.textContent).toContain("This plan runs without a GPU.");
    await act(() => least.click());
    expect(model.commands("preset")).toHaveLength(1);
  });

  test("goes by buttons that keep the focus at its end", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ can_undo: true }) }));
    await act(() => by("button", "Undo").click());
    await act(() => by("button", "Redo").click());
    expect(model.commands("undo")).toHaveLength(1);
    expect(model.commands("redo")).toHaveLength(0);
    by("button", "Undo").focus();
    await act(() => model.event("plan", 1, plan({ can_redo: true })));
    expect(document.activeElement).toBe(by("button", "Undo"));
  });

  test("goes by the usual keys, except where text has its own", async () => {
    const { model, by, act } = await show(Plan, snapshot({ plan: plan({ fields }) }));
    await act(() => press(by("combobox", "Backend"), "z", { ctrlKey: true }));
    await act(() => press(by("combobox", "Backend"), "Z", { metaKey: true, shiftKey: true }));
    await act(() => press(box(by), "z", { ctrlKey: true }));
    await act(() => press(by("combobox", "Backend"), "z"));
    expect(model.commands("undo")).toHaveLength(1);
    expect(model.commands("redo")).toHaveLength(1);
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
