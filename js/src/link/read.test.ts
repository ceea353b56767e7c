import { describe, expect, test } from "vitest";
import type { LoadingView, PlanEvent } from "../protocol";
import { snapshot } from "../testing/views";
import { Malformed, read } from "./read";

describe("read", () => {
  test("returns a whole snapshot unchanged", () => {
    expect(read("Snapshot", snapshot())).toEqual(snapshot());
  });

  test("fills in what the kernel may leave out", () => {
    expect(read<LoadingView>("LoadingView", { state: "idle" })).toEqual({
      state: "idle",
      model: "",
      stages: [],
      problem: null,
      can_load: false,
      summary: "",
    });
  });

  test("drops what this page does not know", () => {
    expect(read("TextDelta", { turn: "1", text: "a", later: true })).toEqual({
      turn: "1",
      text: "a",
    });
  });

  test("allows null where the schema does", () => {
    const event = read<PlanEvent>("PlanEvent", { v: 1, kind: "plan", seq: 1, body: null });
    expect(event.body).toBeNull();
  });

  test.each([
    ["a list for an object", "TextDelta", []],
    ["a missing field", "TextDelta", { turn: "1" }],
    ["a number for text", "TextDelta", { turn: "1", text: 7 }],
    ["an unknown choice", "Chip", { text: "a", tone: "loud" }],
    ["nothing at all", "TextDelta", null],
    ["inherited properties", "HeaderView", Object.create({ title: "x" })],
  ])("refuses %s", (_, struct, value) => {
    expect(() => read(struct, value)).toThrow(Malformed);
  });

  test("says where a value is wrong", () => {
    const wrong = { ...snapshot(), memory: { items: [], chips: [{ text: 1 }] } };
    expect(() => read("Snapshot", wrong)).toThrow("Snapshot.memory.chips[0].text");
  });
});
