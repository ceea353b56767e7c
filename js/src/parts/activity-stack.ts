/** Shapes of stacked columns, in a box whose height is 100 and whose y grows downwards. */

/** Where each column of a row ends, from its values of each kind: the tops of the last kind. */
export function stackTotals(kinds: readonly (readonly number[])[]): number[] {
  const [first = []] = kinds;
  return first.map((_, index) => kinds.reduce((sum, values) => sum + (values[index] ?? 0), 0));
}

/**
 * One path a kind: rectangles of width 1, each on top of what the kinds before it have.
 *
 * @param most the value that reaches the top
 */
export function stackPaths(kinds: readonly (readonly number[])[], most: number): string[] {
  const from = (kinds[0] ?? []).map(() => 0);
  return kinds.map((values) =>
    values
      .map((value, index) => {
        const start = from[index] ?? 0;
        from[index] = start + value;
        if (value <= 0) return "";
        const height = (value / most) * 100;
        const top = 100 - ((start + value) / most) * 100;
        return `M${index} ${short(top)}h1v${short(height)}h-1z`;
      })
      .join(""),
  );
}

export interface Stretch {
  from: number;
  to: number;
}

/** A path of rectangles of height 1 along a line. */
export function lanePath(stretches: readonly Stretch[]): string {
  return stretches
    .filter(({ from, to }) => to > from)
    .map(({ from, to }) => `M${short(from)} 0h${short(to - from)}v1h${short(from - to)}z`)
    .join("");
}

function short(value: number): string {
  return String(Math.round(value * 1000) / 1000);
}
