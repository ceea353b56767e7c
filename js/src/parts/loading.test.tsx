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

  test("that failed says why and can be tried again", async () => {
    const problem = { code: "memory", message: "Needs 16 GB.", hint: "Choose a smaller model." };
    const { model, by, act, el } = await show(Loading, view({ state: "failed", problem }));
    expect(by("alert").textContent).toContain("Needs 16 GB.Choose a smaller model.");
    expect(all(el, "button", "Cancel")).toEqual([]);
    await act(() => by("button", "Retry").click());
    expect(model.commands("load")).toHaveLength(1);
  });
});

test("a stage without a known end has no share while it runs", () => {
  expect(shareOf(stage({}))).toBeNull();
  expect(shareOf(stage({ state: "waiting" }))).toBe(0);
  expect(shareOf(stage({ state: "done" }))).toBe(1);
  expect(shareOf(stage({ done_bytes: 1, total_bytes: 4 }))).toBe(0.25);
});
