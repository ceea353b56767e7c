import { describe, expect, test } from "vitest";
import type { LoadingView, StageView } from "../protocol";
import { all } from "../testing/roles";
import { show } from "../testing/show";
import { snapshot } from "../testing/views";
import { Loading, shareOf } from "./loading";

const idle = snapshot().loading;
const stage = (more: Partial<StageView>): StageView => ({
  name: "read",
  state: "running",
  done_bytes: 0,
  total_bytes: 0,
  text: "",
  files: [],
  ...more,
});
const view = (more: Partial<LoadingView>) => snapshot({ loading: { ...idle, ...more } });

describe("loading", () => {
  test("starts when it can", async () => {
    const { model, by, act } = await show(Loading, view({ can_load: true }));
    await act(() => by("button", "Load").click());
    expect(model.commands("load")).toHaveLength(1);
  });

  test("cannot start before a model is chosen", async () => {
    const { by } = await show(Loading, view({}));
    expect(by("button", "Load")).toHaveProperty("disabled", true);
  });

  test("names its progress bars by stage, and can be cancelled", async () => {
    const stages = [stage({ done_bytes: 62, total_bytes: 100, text: "62 of 100 B" })];
    const { model, by, act } = await show(Loading, view({ state: "loading", stages }));
    const bar = by("progressbar", "read");
    expect(bar.getAttribute("aria-valuenow")).toBe("62");
    expect(bar.getAttribute("aria-valuetext")).toBe("62 of 100 B");
    await act(() => by("button", "Cancel").click());
    expect(model.commands("cancel")).toHaveLength(1);
  });

  test("shows each file that is on its way under its stage", async () => {
    const file = { name: "model.safetensors", done_bytes: 1, total_bytes: 4, text: "1 of 4 B" };
    const stages = [stage({ name: "Download", files: [file] })];
    const { by } = await show(Loading, view({ state: "loading", stages }));
    expect(by("progressbar", "model.safetensors").getAttribute("aria-valuenow")).toBe("25");
  });

  test("says what has ended in words, and what runs by a bar", async () => {
    const stages = [
      stage({ name: "Build", state: "done" }),
      stage({ name: "Read weights", text: "1 of 2 GB", done_bytes: 1, total_bytes: 2 }),
    ];
    const { el } = await show(Loading, view({ state: "loading", stages }));
    expect(all(el, "progressbar")).toHaveLength(1);
    expect(el.querySelector("[aria-label='Ended stages']")?.textContent).toBe("Build");
  });

  test("is no longer the next step once it has been done", async () => {
    const ready = await show(Loading, view({ can_load: true }));
    expect(ready.by("button", "Load").className).toBe("ollm-go");
    const loaded = await show(Loading, view({ can_load: true, state: "loaded" }));
    expect(loaded.by("button", "Load").className).toBe("");
  });

  test("that failed says why and can be tried again", async () => {
    const problem = { code: "memory", message: "Needs 16 GB.", hint: "Choose a smaller model." };
    const { model, by, act, el } = await show(Loading, view({ state: "failed", problem }));
    expect(by("alert").textContent).toContain("Needs 16 GB.Choose a smaller model.");
    expect(all(el, "button", "Cancel")).toEqual([]);
    expect(all(el, "button", "Load anyway")).toEqual([]);
    await act(() => by("button", "Retry").click());
    expect(model.last("load").body).toEqual({ anyway: false });
  });

  test("that found no room can be made all the same", async () => {
    const problem = { code: "no-room", message: "No room.", hint: "Unload or unpin one." };
    const { model, by, act } = await show(Loading, view({ state: "failed", problem }));
    await act(() => by("button", "Load anyway").click());
    expect(model.last("load").body).toEqual({ anyway: true });
  });

  test("that waits says for whom, and can be cancelled", async () => {
    const stages = [stage({ name: "Wait for room" })];
    const summary = "Waits for a, which is answering.";
    const { model, by, act, el } = await show(Loading, view({ state: "loading", stages, summary }));
    expect(all(el, "status").map((one) => one.textContent)).toContain(summary);
    expect(by("progressbar", "Wait for room").getAttribute("aria-valuenow")).toBeNull();
    await act(() => by("button", "Cancel").click());
    expect(model.commands("cancel")).toHaveLength(1);
  });
});

test("a stage without a known end has no share while it runs", () => {
  expect(shareOf(stage({}))).toBeNull();
  expect(shareOf(stage({ state: "waiting" }))).toBe(0);
  expect(shareOf(stage({ state: "done" }))).toBe(1);
  expect(shareOf(stage({ done_bytes: 1, total_bytes: 4 }))).toBe(0.25);
});
