import { beforeEach, expect, test, vi } from "vitest";
import { Latest } from "./latest";

beforeEach(() => {
  vi.useFakeTimers();
  return () => vi.useRealTimers();
});

function sending(restMs = 50, stays = (_value: number) => false) {
  const sent: number[] = [];
  const answers: (() => void)[] = [];
  const latest = new Latest<number>(
    (value) => {
      sent.push(value);
      return new Promise<void>((resolve) => answers.push(resolve));
    },
    restMs,
    stays,
  );
  const answer = async () => {
    answers.shift()?.();
    await vi.advanceTimersByTimeAsync(restMs);
  };
  return { latest, sent, answer };
}

test("the first value goes out at once", () => {
  const { latest, sent } = sending();
  latest.push(1);
  expect(sent).toEqual([1]);
});

test("of what comes while one is under way only the latest follows", async () => {
  const { latest, sent, answer } = sending();
  for (const value of [1, 2, 3, 4]) latest.push(value);
  expect(sent).toEqual([1]);
  await answer();
  expect(sent).toEqual([1, 4]);
  await answer();
  expect(sent).toEqual([1, 4]);
});

test("an answer that comes fast does not make more of them", async () => {
  const { latest, sent } = sending(50);
  latest.push(1);
  latest.push(2);
  await vi.advanceTimersByTimeAsync(49);
  expect(sent).toEqual([1]);
});

test("after a rest the next value goes out at once again", async () => {
  const { latest, sent, answer } = sending();
  latest.push(1);
  await answer();
  latest.push(2);
  expect(sent).toEqual([1, 2]);
});

test("what must stay is sent in its turn, and replaces what came before it", async () => {
  const { latest, sent, answer } = sending(50, (value) => value % 10 === 0);
  for (const value of [1, 2, 10, 11, 12, 20, 21, 22]) latest.push(value);
  for (let turn = 0; turn < 6; turn += 1) await answer();
  expect(sent).toEqual([1, 10, 20, 22]);
});

test("it is idle once the last value has been answered", async () => {
  const { latest, answer } = sending();
  const idle = vi.fn();
  latest.push(1);
  latest.push(2);
  void latest.idle.then(idle);
  await answer();
  expect(idle).not.toHaveBeenCalled();
  await answer();
  expect(idle).toHaveBeenCalled();
});
