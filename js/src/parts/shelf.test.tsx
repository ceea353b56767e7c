import { describe, expect, test } from "vitest";
import type { ResidentItem } from "../protocol";
import { all, find } from "../testing/roles";
import { press, show } from "../testing/show";
import { memory, resident, snapshot } from "../testing/views";
import { idleText } from "./last-used";
import { Shelf } from "./shelf";

const NOW_S = 1_750_000_000;
const two = memory({
  items: [resident("a", { current: true, pinned: true }), resident("b")],
  chips: [{ text: "RAM, 2.1 of 23.4 GiB used", tone: "neutral" }],
});
const answering = resident("a", {
  state: "busy",
  word: "answering",
  queue: [
    { caller: "chat 1", running: true },
    { caller: "this chat", running: false },
    { caller: "chat 3", running: false },
  ],
});

async function showAsked() {
  const shown = await show(Shelf, snapshot({ memory: memory({ items: [answering] }) }));
  await shown.act(() => shown.by("button", "Unload").click());
  return shown;
}

describe("the shelf", () => {
  test("acts on the runtime whose button was pressed", async () => {
    const { model, by, act } = await show(Shelf, snapshot({ memory: two }));
    const [a, b] = [by("listitem", "a"), by("listitem", "b")];
    await act(() => find(b, "button", "Use").click());
    await act(() => find(a, "button", "Unpin").click());
    await act(() => find(b, "button", "Unload").click());
    expect(model.last("use").body).toEqual({ runtime: "b" });
    expect(model.last("pin").body).toEqual({ runtime: "a", pinned: false });
    expect(model.last("unload").body).toEqual({ runtime: "b", force: false });
    expect(all(a, "button", "Use")).toEqual([]);
  });

  test("says whose each button is", async () => {
    const { by } = await show(Shelf, snapshot({ memory: two }));
    const unload = find(by("listitem", "b"), "button", "Unload");
    expect(
      document.getElementById(unload.getAttribute("aria-describedby") ?? "")?.textContent,
    ).toBe("b");
  });

  test("demotes what has something to give", async () => {
    const items = [resident("a", { can_demote: true }), resident("b")];
    const { model, by, act } = await show(Shelf, snapshot({ memory: memory({ items }) }));
    expect(all(by("listitem", "b"), "button", "Demote")).toEqual([]);
    await act(() => find(by("listitem", "a"), "button", "Demote").click());
    expect(model.last("demote").body).toEqual({ runtime: "a" });
  });

  test("draws what a runtime holds to scale, in the colour of its place", async () => {
    const holdings: ResidentItem["holdings"] = [
      { place: "gpu", kind: "layers", size_bytes: 200 * 2 ** 20 },
      { place: "ram", kind: "layers", size_bytes: 150 * 2 ** 20 },
      { place: "ram", kind: "kv", size_bytes: 50 * 2 ** 20 },
    ];
    const small: ResidentItem["holdings"] = [
      { place: "ram", kind: "layers", size_bytes: 100 * 2 ** 20 },
    ];
    const items = [resident("a", { holdings }), resident("b", { holdings: small })];
    const { by } = await show(Shelf, snapshot({ memory: memory({ items }) }));
    const drawn = (name: string) =>
      [...by("listitem", name).querySelectorAll<HTMLElement>(".ollm-mini > i")].map((part) => [
        part.className,
        part.style.width,
        part.title,
      ]);
    expect(drawn("a")).toEqual([
      ["ollm-seg-layers ollm-in-gpu", "50%", "layers on GPU, 200 MiB"],
      ["ollm-seg-layers ollm-in-ram", "37.5%", "layers in RAM, 150 MiB"],
      ["ollm-seg-kv", "12.5%", "KV cache in RAM, 50 MiB"],
    ]);
    expect(drawn("b")).toEqual([["ollm-seg-layers ollm-in-ram", "25%", "layers in RAM, 100 MiB"]]);
  });

  test("says who waits for an answer, in their order", async () => {
    const { by } = await show(Shelf, snapshot({ memory: memory({ items: [answering] }) }));
    expect(by("listitem", "a").textContent).toContain("answering");
    expect(by("listitem", "a").textContent).toContain("2 waiting");
    expect(by("listitem", "a").querySelector("[title^=chat]")?.getAttribute("title")).toBe(
      "chat 1 now, this chat, chat 3",
    );
  });

  test("says on which node a runtime is that is not on this machine", async () => {
    const items = [resident("a", { node: "on 10.0.0.2" }), resident("b")];
    const { by } = await show(Shelf, snapshot({ memory: memory({ items }) }));
    expect(by("listitem", "a").textContent).toContain("a on 10.0.0.2");
    expect(by("listitem", "b").textContent).not.toContain("on ");
  });

  test("says whom a load waits for, and offers nothing to do with it", async () => {
    const note = "waits for a, which is answering";
    const items = [resident("loading:b", { name: "b", state: "waiting", word: "waiting", note })];
    const { by } = await show(Shelf, snapshot({ memory: memory({ items }) }));
    expect(by("listitem", "b").textContent).toContain(note);
    expect(all(by("listitem", "b"), "button")).toEqual([]);
  });

  test("counts since when a runtime is idle by the kernel's clock", async () => {
    const items = [resident("a", { last_used_s: NOW_S - 5 * 60 })];
    const { by } = await show(Shelf, snapshot({ memory: memory({ items, now_s: NOW_S }) }));
    expect(by("listitem", "a").textContent).toContain("idle 5 min");
  });

  test("says what the last action did, in a place that is there before", async () => {
    const { model, by, act } = await show(Shelf, snapshot());
    const status = by("status", "Last change");
    const effect = "Unloaded a: 513 MiB of RAM freed.";
    await act(() => model.event("memory", 1, memory({ effect })));
    expect(by("status", "Last change")).toBe(status);
    expect(status.textContent).toBe(effect);
  });

  test("keeps the history folded", async () => {
    const history = [
      { at_s: NOW_S, text: "Evicted a for b.", tone: "neutral" as const },
      { at_s: NOW_S - 9, text: "c could not be loaded.", tone: "no" as const },
    ];
    const { el } = await show(Shelf, snapshot({ memory: memory({ history, now_s: NOW_S }) }));
    expect(el.querySelector("details")?.open).toBe(false);
    const [first, second] = all(el, "listitem");
    expect(first?.textContent).toMatch(/^\d\d:\d\d:\d\dEvicted a for b\.$/);
    expect(second?.querySelector(".ollm-no")?.textContent).toBe("c could not be loaded.");
  });

  test("shows other kernels, and asks each once", async () => {
    const other = { id: "7", title: "b.ipynb", text: "holds 7.6 GiB of GPU 0", asked: false };
    const { model, by, act } = await show(Shelf, snapshot({ memory: memory({ others: [other] }) }));
    const button = by("button", "Ask to release");
    await act(() => button.click());
    expect(model.last("ask").body).toEqual({ holder: "7" });
    await act(() => model.event("memory", 1, memory({ others: [{ ...other, asked: true }] })));
    await act(() => button.click());
    expect(model.commands("ask")).toHaveLength(1);
    expect(button.textContent).toBe("Asked");
  });

  test("shows a refusal where it happened", async () => {
    const { model, by, act } = await show(Shelf, snapshot({ memory: two }));
    await act(() => find(by("listitem", "b"), "button", "Unload").click());
    const problem = { code: "gone", message: "It has left.", hint: "Load it again." };
    await act(() => model.refuse(model.last("unload"), problem));
    expect(by("alert").textContent).toContain("It has left.");
  });
});

describe("unloading what is in use", () => {
  test("asks first, with the focus on what does no harm", async () => {
    const { model, by } = await showAsked();
    expect(by("alertdialog", "a is answering. Unload it?")).toBeTruthy();
    expect(document.activeElement).toBe(by("button", "Keep"));
    expect(model.commands("unload")).toEqual([]);
  });

  test.each([
    ["Stop and unload", true],
    ["When it is idle", false],
  ])("%s", async (name, force) => {
    const { model, el, by, act } = await showAsked();
    await act(() => by("button", name).click());
    expect(model.last("unload").body).toEqual({ runtime: "a", force });
    expect(all(el, "alertdialog")).toEqual([]);
  });

  test.each([
    ["Keep", (button: HTMLElement) => button.click()],
    ["Escape", (button: HTMLElement) => press(button, "Escape")],
  ])("does nothing after %s, and takes the focus back", async (_, leave) => {
    const { model, el, by, act } = await showAsked();
    await act(() => leave(by("button", "Keep")));
    expect(all(el, "alertdialog")).toEqual([]);
    expect(document.activeElement).toBe(by("button", "Unload"));
    expect(model.commands("unload")).toEqual([]);
  });

  test("goes on when the answer has ended meanwhile", async () => {
    const { model, by, act } = await showAsked();
    await act(() => model.event("memory", 1, memory({ items: [resident("a")] })));
    expect(by("alertdialog", "a is idle now. Unload it?")).toBeTruthy();
    expect(document.activeElement).toBe(by("button", "Keep"));
    await act(() => by("button", "Unload now").click());
    expect(model.last("unload").body).toEqual({ runtime: "a", force: true });
  });

  test("leaves the focus on the shelf when the runtime has gone", async () => {
    const { model, by, act } = await showAsked();
    await act(() => by("button", "Stop and unload").click());
    await act(() => model.event("memory", 1, memory()));
    expect(document.activeElement).toBe(by("region", "In memory"));
  });
});

test("a time without use is said to the minute", () => {
  expect(idleText(-3)).toBe("used just now");
  expect(idleText(59)).toBe("used just now");
  expect(idleText(60)).toBe("idle 1 min");
  expect(idleText(3599)).toBe("idle 59 min");
  expect(idleText(7300)).toBe("idle 2 h");
});
