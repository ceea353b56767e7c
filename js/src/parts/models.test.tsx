import { beforeEach, describe, expect, test, vi } from "vitest";
import { all, nameOf } from "../testing/roles";
import { press, show, type } from "../testing/show";
import { item, snapshot } from "../testing/views";
import { matching } from "./matching";
import { Models } from "./models";

const items = [
  item("smollm2-135m"),
  item("llama3-8B-chat"),
  item("gemma3-12B", {
    group: "In the catalog",
    available: false,
    reason: "Not downloaded yet.",
    verdict: { text: "2.1 tok/s", tone: "warn" },
  }),
];
const models = { ...snapshot().models, items, chosen: "ref/smollm2-135m" };

beforeEach(() => {
  vi.useFakeTimers();
  return () => vi.useRealTimers();
});

describe("the picker", () => {
  test("names options by model and says the rest in their description", async () => {
    const { el, by } = await show(Models, snapshot({ models }));
    expect(all(el, "option").map(nameOf)).toEqual(["smollm2-135m", "llama3-8B-chat", "gemma3-12B"]);
    const about = by("option", "gemma3-12B").getAttribute("aria-describedby")?.split(" ") ?? [];
    const said = about.map((id) => document.getElementById(id)?.textContent);
    expect(said).toEqual([items[2]?.facts, "2.1 tok/s", "Not downloaded yet."]);
    expect(by("option", "smollm2-135m").getAttribute("aria-selected")).toBe("true");
    expect(by("option", "gemma3-12B").getAttribute("aria-selected")).toBe("false");
  });

  test("works with the keyboard alone", async () => {
    const { model, by, act } = await show(Models, snapshot({ models }));
    const box = by("combobox", "Search models");
    await act(() => press(box, "ArrowDown"));
    await act(() => press(box, "ArrowDown"));
    await act(() => press(box, "ArrowDown"));
    await act(() => press(box, "ArrowDown"));
    await act(() => press(box, "ArrowUp"));
    const active = box.getAttribute("aria-activedescendant") ?? "";
    expect(document.getElementById(active)).toBe(by("option", "llama3-8B-chat"));
    await act(() => press(box, "Enter"));
    expect(model.last("choose").body).toEqual({ reference: "ref/llama3-8B-chat" });
  });

  test("searches once a person pauses", async () => {
    const { model, by, act } = await show(Models, snapshot({ models }));
    const box = by("combobox", "Search models");
    await act(() => type(box, "gem"));
    await act(() => type(box, "gemma"));
    await act(() => void vi.advanceTimersByTime(200));
    expect(model.commands("search").map(({ body }) => body)).toEqual([{ text: "gemma" }]);
  });

  test("chooses what is shown even before the kernel has searched", async () => {
    const { model, by, act, el } = await show(Models, snapshot({ models }));
    const box = by("combobox", "Search models");
    await act(() => type(box, "gemma"));
    expect(all(el, "option")).toHaveLength(1);
    await act(() => press(box, "Enter"));
    expect(model.last("choose").body).toEqual({ reference: "ref/gemma3-12B" });
  });

  test("shows the kernel's own result once it is there", async () => {
    const { model, by, act, el } = await show(Models, snapshot({ models }));
    await act(() => type(by("combobox", "Search models"), "tiny"));
    const found = [item("smollm2-135m")];
    await act(() => model.event("models", 1, { ...models, query: "tiny", items: found }));
    expect(all(el, "option")).toHaveLength(1);
  });

  test("says so when nothing matches", async () => {
    const { model, by, act, text } = await show(Models, snapshot({ models }));
    await act(() => type(by("combobox", "Search models"), "zzz"));
    await act(() => press(by("combobox", "Search models"), "Enter"));
    expect(text()).toContain("No model matches.");
    expect(model.commands("choose")).toEqual([]);
  });

  test("chooses with a click and shows why it cannot", async () => {
    const { model, by, act } = await show(Models, snapshot({ models }));
    await act(() => by("option", "gemma3-12B").click());
    const problem = { code: "offline", message: "No network.", hint: "Pick a local model." };
    await act(() => model.refuse(model.last("choose"), problem));
    expect(by("alert").textContent).toContain("No network.");
  });
});

describe("the hub", () => {
  const found = item("org/model-1b", { group: "On the hub", available: false });
  const withHub = { ...models, items: [...items, found], more: true };

  test("has a group of its own", async () => {
    const { by, el } = await show(Models, snapshot({ models: withHub }));
    const groups = all(el, "group").map(nameOf);
    expect(groups).toEqual(["On this machine", "In the catalog", "On the hub"]);
    expect(all(by("group", "On the hub"), "option").map(nameOf)).toEqual(["org/model-1b"]);
  });

  test("says quietly why its models are missing", async () => {
    const { model, act, el } = await show(Models, snapshot({ models }));
    const before = all(el, "status");
    const problem = "The hub cannot be reached.";
    await act(() => model.event("models", 1, { ...models, problem }));
    // The element was there before its text, or a screen reader would not read it out.
    expect(all(el, "status")).toEqual(before);
    expect(before.map(nameOf)).toContain(problem);
    expect(all(el, "alert")).toEqual([]);
  });

  test("gives more on demand", async () => {
    const { model, by, act } = await show(Models, snapshot({ models: withHub }));
    await act(() => by("button", "More").click());
    expect(model.last("more").body).toEqual({});
  });

  test("has no more when the kernel says so", async () => {
    const { el } = await show(Models, snapshot({ models }));
    expect(all(el, "button", "More")).toEqual([]);
  });

  test("does not give more of what is no longer searched for", async () => {
    const { model, by, act, text } = await show(Models, snapshot({ models: withHub }));
    await act(() => type(by("combobox", "Search models"), "tiny"));
    await act(() => by("button", "More").click());
    const searching = { ...withHub, query: "tiny", searching: true };
    await act(() => model.event("models", 1, searching));
    expect(text()).toContain("Searching…");
    await act(() => by("button", "More").click());
    expect(model.commands("more")).toEqual([]);
    await act(() => model.event("models", 2, { ...searching, searching: false }));
    await act(() => by("button", "More").click());
    expect(model.commands("more")).toHaveLength(1);
  });

  test("keeps the focus when there is no more", async () => {
    const { model, by, act } = await show(Models, snapshot({ models: withHub }));
    by("button", "More").focus();
    await act(() => by("button", "More").click());
    await act(() => model.event("models", 1, { ...withHub, searching: true }));
    expect(document.activeElement).toBe(by("button", "More"));
    await act(() => model.event("models", 2, { ...withHub, more: false }));
    expect(document.activeElement).toBe(by("combobox", "Search models"));
  });
});

test("matching wants every word, in the name, the reference or the facts", () => {
  expect(matching(items, "LLAMA chat").map(({ name }) => name)).toEqual(["llama3-8B-chat"]);
  expect(matching(items, "ref/gem 270")).toHaveLength(1);
  expect(matching(items, "llama gemma")).toEqual([]);
  expect(matching(items, " ")).toHaveLength(3);
});
