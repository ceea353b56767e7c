import type { Turn } from "../protocol";

/**
 * The turns as they are now, each the same object as before where nothing of it has changed. The
 * kernel's view of the conversation comes whole, and what is the same need not be drawn again.
 */
export function sameTurns(before: readonly Turn[], now: readonly Turn[]): readonly Turn[] {
  const known = new Map(before.map((turn) => [turn.id, turn]));
  return now.map((turn) => {
    const old = known.get(turn.id);
    return old && isSame(old, turn) ? old : turn;
  });
}

function isSame(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return false;
  const names = Object.keys(one);
  return (
    names.length === Object.keys(other).length &&
    names.every((name) => isSame(one[name as never], other[name as never]))
  );
}
