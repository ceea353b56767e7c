import type { ActivityView } from "../protocol";

type PaceView = NonNullable<ActivityView["pace"]>;

/** Tokens that came one after the other, and how fast. */
export interface Step {
  first: number;
  last: number;
  fromS: number;
  toS: number;
  rate: number;
}

/** More of them would be too narrow to point at. */
const MOST_STEPS = 72;

/**
 * The course of an answer after its first token. No token and no time is left out or counted
 * twice: neighbours are put together where there are too many.
 */
export function paceSteps({ tokens, at_s }: PaceView): Step[] {
  const intervals = tokens.length - 1;
  const together = Math.max(1, Math.ceil(intervals / MOST_STEPS));
  const steps: Step[] = [];
  for (let from = 0; from < intervals; from += together) {
    const to = Math.min(from + together, intervals);
    const [before = 0, last = 0] = [tokens[from], tokens[to]];
    const [fromS = 0, toS = 0] = [at_s[from], at_s[to]];
    const seconds = Math.max(toS - fromS, 1e-4);
    steps.push({ first: before + 1, last, fromS, toS, rate: (last - before) / seconds });
  }
  return steps;
}
