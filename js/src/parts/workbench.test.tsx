import { describe, expect, test } from "vitest";
import type { ResidentItem } from "../protocol";
import { all, find } from "../testing/roles";
import { show } from "../testing/show";
import { plan, snapshot } from "../testing/views";
import { activity } from "./activity";
import { Shelf } from "./shelf";
import { Workbench } from "./workbench";

const resident = (id: string, more: Partial<ResidentItem> = {}): ResidentItem => ({
  id,
  name: `model ${id}`,
  state: "idle",
  current: false,
  pinned: false,
  holdings: [],
  text: "",
  ...more,
});

describe("the workbench", () => {
  test("holds every region, also when there is nothing to show", async () => {
    const { by, text } = await show(Workbench, snapshot());
    for (const region of ["Models", "Plan", "Loading", "Capabilities", "In memory", "Chat"]) {
      expect(find(by("region", "Workbench"), "region", region)).toBeTruthy();
    }
    expect(text()).toContain("Pick a model to see whether it fits.");
    expect(text()).toContain("Nothing is loaded yet.");
  });

  test("has one button that copies the code", async () => {
    const { el } = await show(Workbench, snapshot({ plan: plan() }));
    expect(all(el, "button", "Copy as code")).toHaveLength(1);
  });
});

describe("the shelf", () => {
  const memory = {
    items: [resident("a", { current: true, pinned: true }), resident("b")],
    chips: [{ text: "RAM, 2.1 of 23.4 GiB used", tone: "neutral" as const }],
  };

  test("acts on the runtime whose button was pressed", async () => {
    const { model, by, act } = await show(Shelf, snapshot({ memory }));
    const [a, b] = [by("listitem", "model a"), by("listitem", "model b")];
    await act(() => find(b, "button", "Use").click());
    await act(() => find(a, "button", "Unpin").click());
    await act(() => find(b, "button", "Unload").click());
    expect(model.last("use").body).toEqual({ runtime: "b" });
    expect(model.last("pin").body).toEqual({ runtime: "a", pinned: false });
    expect(model.last("unload").body).toEqual({ runtime: "b" });
    expect(all(a, "button", "Use")).toEqual([]);
  });

  test("draws what a runtime holds to scale, in the colour of its place", async () => {
    const holdings: ResidentItem["holdings"] = [
      { place: "gpu", kind: "layers", size_bytes: 200 },
      { place: "ram", kind: "layers", size_bytes: 150 },
      { place: "ram", kind: "kv", size_bytes: 50 },
    ];
    const small: ResidentItem["holdings"] = [{ place: "ram", kind: "layers", size_bytes: 100 }];
    const items = [resident("a", { holdings }), resident("b", { holdings: small })];
    const { by } = await show(Shelf, snapshot({ memory: { items, chips: [] } }));
    const drawn = (name: string) =>
      [...by("listitem", name).querySelectorAll<HTMLElement>(".ollm-mini > i")].map((part) => [
        part.className,
        part.style.width,
        part.title,
      ]);
    expect(drawn("model a")).toEqual([
      ["ollm-seg-layers ollm-in-gpu", "50%", "layers on GPU"],
      ["ollm-seg-layers ollm-in-ram", "37.5%", "layers in RAM"],
      ["ollm-seg-kv", "12.5%", "KV cache in RAM"],
    ]);
    expect(drawn("model b")).toEqual([["ollm-seg-layers ollm-in-ram", "25%", "layers in RAM"]]);
  });

  test("shows a refusal where it happened", async () => {
    const { model, by, act } = await show(Shelf, snapshot({ memory }));
    await act(() => find(by("listitem", "model b"), "button", "Unload").click());
    const problem = { code: "busy", message: "It is answering.", hint: "Press Stop first." };
    await act(() => model.refuse(model.last("unload"), problem));
    expect(by("alert").textContent).toContain("It is answering.");
  });
});

test("what goes on is said in two words", () => {
  const { loading, chat } = snapshot();
  expect(activity(loading, chat).text).toBe("not loaded");
  expect(activity({ ...loading, state: "loaded" }, chat).state).toBe("ready");
  expect(activity({ ...loading, state: "loaded" }, { ...chat, busy: true }).state).toBe("busy");
  expect(activity({ ...loading, state: "failed" }, chat).text).toBe("could not be loaded");
});
