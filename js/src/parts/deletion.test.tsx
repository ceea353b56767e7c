import { beforeEach, describe, expect, test, vi } from "vitest";
import { REPLY_TIMEOUT_MS } from "../link/link";
import { all } from "../testing/roles";
import { press, show } from "../testing/show";
import { item, snapshot } from "../testing/views";
import { Models } from "./models";

const here = item("smollm2-135m", { frees_bytes: 269_060_552 });
const other = item("llama3-1B-chat", { frees_bytes: 2_471_645_608 });
const gone = { ...here, group: "In the catalog" as const, available: false, frees_bytes: 0 };
const models = { ...snapshot().models, items: [here, other], chosen: here.reference };
const problem = { code: "busy", message: "It is loaded.", hint: "Unload it first." };

const described = (element: HTMLElement) =>
  document.getElementById(element.getAttribute("aria-describedby") ?? "")?.textContent;

async function showAsked() {
  const shown = await show(Models, snapshot({ models }));
  await shown.act(() => shown.by("button", "Delete").click());
  return shown;
}

describe("Delete", () => {
  test("is about the chosen model, and outside of its option", async () => {
    const { el, by } = await show(Models, snapshot({ models }));
    expect(all(el, "button", "Delete")).toHaveLength(1);
    expect(described(by("button", "Delete"))).toBe("smollm2-135m");
    expect(by("button", "Delete").closest("[role=listbox]")).toBeNull();
  });

  test.each([
    ["no model is chosen", { ...models, chosen: null }],
    ["the files are not ours", { ...models, items: [{ ...here, frees_bytes: 0 }, other] }],
    ["the chosen model is not listed", { ...models, items: [other] }],
  ])("is not there when %s", async (_, view) => {
    const { el } = await show(Models, snapshot({ models: view }));
    expect(all(el, "button", "Delete")).toEqual([]);
  });

  test("asks first, with the focus on what does no harm", async () => {
    const { model, el, by } = await showAsked();
    const dialog = by("alertdialog", "Delete smollm2-135m?");
    expect(described(dialog)).toBe("This frees 269 MB.");
    expect(document.activeElement).toBe(by("button", "Keep"));
    expect(dialog.contains(document.activeElement)).toBe(true);
    expect(all(el, "button", "Delete")).toEqual([]);
    expect(model.commands("remove")).toEqual([]);
  });

  test.each([
    ["Keep", (button: HTMLElement) => button.click()],
    ["Escape", (button: HTMLElement) => press(button, "Escape")],
  ])("does nothing after %s, and takes the focus back", async (_, leave) => {
    const { model, el, by, act } = await showAsked();
    await act(() => leave(by("button", "Keep")));
    expect(all(el, "alertdialog")).toEqual([]);
    expect(document.activeElement).toBe(by("button", "Delete"));
    expect(model.commands("remove")).toEqual([]);
  });

  test("deletes once, and closes with the reply", async () => {
    const { model, el, by, act } = await showAsked();
    by("button", "Delete files").focus();
    await act(() => by("button", "Delete files").click());
    await act(() => by("button", "Delete files").click());
    await act(() => press(by("alertdialog"), "Escape"));
    expect(model.commands("remove").map(({ body }) => body)).toEqual([
      { reference: here.reference },
    ]);
    expect(document.activeElement).toBe(by("button", "Delete files"));
    await act(() => model.ack(model.last("remove")));
    expect(all(el, "alertdialog")).toEqual([]);
    await act(() => model.event("models", 1, { ...models, items: [gone, other] }));
    expect(all(el, "button", "Delete")).toEqual([]);
    expect(document.activeElement).toBe(by("combobox", "Search models"));
  });

  test("closes also when the list comes before the reply", async () => {
    const { model, el, by, act } = await showAsked();
    await act(() => by("button", "Delete files").click());
    await act(() => model.event("models", 1, { ...models, items: [gone, other] }));
    expect(all(el, "alertdialog")).toEqual([]);
    expect(document.activeElement).toBe(by("combobox", "Search models"));
    await act(() => model.ack(model.last("remove")));
    expect(document.activeElement).toBe(by("combobox", "Search models"));
  });

  test("leaves the focus where the person has moved it", async () => {
    const { model, by, act } = await showAsked();
    await act(() => by("button", "Delete files").click());
    by("combobox", "Search models").focus();
    await act(() => model.ack(model.last("remove")));
    expect(document.activeElement).toBe(by("combobox", "Search models"));
  });

  test("says why it was refused, and can be tried again", async () => {
    const { model, by, act } = await showAsked();
    await act(() => by("button", "Delete files").click());
    await act(() => model.refuse(model.last("remove"), problem));
    expect(by("alert").textContent).toContain("It is loaded.Unload it first.");
    await act(() => by("button", "Delete files").click());
    expect(model.commands("remove")).toHaveLength(2);
  });

  test("asks anew about another model", async () => {
    const { model, el, by, act } = await showAsked();
    await act(() => model.event("models", 1, { ...models, chosen: other.reference }));
    expect(all(el, "alertdialog")).toEqual([]);
    await act(() => by("button", "Delete").click());
    expect(described(by("alertdialog", "Delete llama3-1B-chat?"))).toBe("This frees 2.5 GB.");
  });
});

describe("a kernel that does not answer", () => {
  beforeEach(() => {
    vi.useFakeTimers();
    return () => vi.useRealTimers();
  });

  test("does not hold the person in the question", async () => {
    const { el, by, act } = await showAsked();
    await act(() => by("button", "Delete files").click());
    await act(() => by("button", "Keep").click());
    expect(all(el, "alertdialog")).toHaveLength(1);
    await act(() => void vi.advanceTimersByTime(REPLY_TIMEOUT_MS));
    await act(() => by("button", "Keep").click());
    expect(all(el, "alertdialog")).toEqual([]);
  });
});
