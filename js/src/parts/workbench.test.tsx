import { describe, expect, test } from "vitest";
import type { ModelItem, Snapshot } from "../protocol";
import { all, find } from "../testing/roles";
import { show } from "../testing/show";
import { item, plan, snapshot } from "../testing/views";
import { activity } from "./activity";
import { Workbench } from "./workbench";

/** A workbench in which nothing was done yet. */
function fresh(...items: ModelItem[]): Snapshot {
  const { models, chat, ...rest } = snapshot();
  return { ...rest, models: { ...models, items }, chat: { ...chat, can_send: false } };
}

describe("the workbench", () => {
  test("holds every region, also when there is nothing to show", async () => {
    const { by, text } = await show(Workbench, snapshot());
    for (const region of [
      "Models",
      "Plan",
      "Loading",
      "Capabilities",
      "In memory",
      "Chat",
      "Activity",
    ]) {
      expect(find(by("region", "Workbench"), "region", region)).toBeTruthy();
    }
    expect(text()).toContain("Pick a model to see whether it fits.");
    expect(text()).toContain("Nothing is loaded yet.");
  });

  test("begins with a first step for whoever has chosen nothing yet", async () => {
    const start = fresh(item("far", { available: false }), item("near"));
    const { model, by, el, act } = await show(Workbench, start);
    expect(by("region", "Chat").closest("[hidden]")).toBeTruthy();
    expect(all(el, "button", "Copy as code")).toEqual([]);
    await act(() => by("button", "Start with near").click());
    expect(model.last("choose").body).toEqual({ reference: "ref/near" });
  });

  test("shows everything once a model is chosen, and leaves the focus in itself", async () => {
    const start = fresh(item("near"));
    const { model, by, el, act } = await show(Workbench, start);
    by("button", "Start with near").focus();
    await act(() => model.event("models", 1, { ...start.models, chosen: "ref/near" }));
    expect(all(el, "button", "Start with near")).toEqual([]);
    expect(by("region", "Chat").closest("[hidden]")).toBeNull();
    expect(el.contains(document.activeElement)).toBe(true);
  });

  test("has nothing to start with where no model is on the machine", async () => {
    const { text } = await show(Workbench, fresh(item("far", { available: false })));
    expect(text()).toContain("Find a model");
    expect(text()).not.toContain("Start with");
  });

  test("has one button that copies the code", async () => {
    const { el } = await show(Workbench, snapshot({ plan: plan() }));
    expect(all(el, "button", "Copy as code")).toHaveLength(1);
  });
});

test("what goes on is said in two words", () => {
  const { loading, chat } = snapshot();
  expect(activity(loading, chat).text).toBe("not loaded");
  expect(activity({ ...loading, state: "loaded" }, chat).state).toBe("ready");
  expect(activity({ ...loading, state: "loaded" }, { ...chat, busy: true }).state).toBe("busy");
  expect(activity({ ...loading, state: "loading", summary: "Waits for a." }, chat).text).toBe(
    "waiting for room",
  );
  expect(activity({ ...loading, state: "failed" }, chat).text).toBe("could not be loaded");
});
