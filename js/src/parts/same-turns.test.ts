import { expect, test } from "vitest";
import { turn } from "../testing/views";
import { sameTurns } from "./same-turns";

const said = () => [turn("1", "you", "Hi"), turn("2", "model", "Hello")];

test("what came again as it was is the same object", () => {
  const before = said();
  const now = sameTurns(before, said());
  expect(now[0]).toBe(before[0]);
  expect(now[1]).toBe(before[1]);
});

test("what has changed in any part is new", () => {
  const before = said();
  const [asked, answered] = said() as [ReturnType<typeof turn>, ReturnType<typeof turn>];
  for (const changed of [
    { ...answered, text: "Hello." },
    { ...answered, note: "2 tokens" },
    { ...answered, versions: ["2", "3"] },
  ]) {
    const now = sameTurns(before, [asked, changed]);
    expect(now[0]).toBe(before[0]);
    expect(now[1]).toBe(changed);
  }
});

test("turns that are gone are gone", () => {
  expect(sameTurns(said(), [])).toEqual([]);
});
