import { effect } from "@preact/signals";
import { describe, expect, test } from "vitest";
import { snapshot, turn } from "../testing/views";
import { Store } from "./store";

const event = { v: 1, job: null };

describe("Store", () => {
  test("redraws only the part that an event replaces", () => {
    const store = new Store();
    store.adopt(snapshot());
    let plans = 0;
    const stop = effect(() => {
      store.plan.value;
      plans += 1;
    });
    store.apply({ ...event, kind: "header", seq: 1, body: { title: "new" } });
    stop();
    expect(store.title.value).toBe("new");
    expect(plans).toBe(1);
  });

  test("appends text to its turn and leaves the others as they are", () => {
    const store = new Store();
    const turns = [turn("1", "you", "Hi"), turn("2", "model", "", { state: "waiting" })];
    store.adopt(snapshot({ chat: { ...snapshot().chat, turns } }));
    const [asked] = store.chat.value.turns;
    store.apply({ ...event, kind: "chat.delta", seq: 1, body: { turn: "2", text: "Hel" } });
    store.apply({ ...event, kind: "chat.delta", seq: 2, body: { turn: "2", text: "lo" } });
    expect(store.chat.value.turns[1]).toMatchObject({ text: "Hello", state: "streaming" });
    expect(store.chat.value.turns[0]).toBe(asked);
  });

  test("takes a snapshot of the same age, not an older one", () => {
    const store = new Store();
    expect(store.adopt(snapshot({ seq: 5 }))).toBe(true);
    expect(store.adopt(snapshot({ seq: 5 }))).toBe(true);
    expect(store.adopt(snapshot({ seq: 4 }))).toBe(false);
  });
});
