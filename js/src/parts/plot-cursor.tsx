interface Props {
  /** What it goes over: "Token". */
  label: string;
  /** Where each thing begins, and the last one ends: shares of the width, growing. */
  edges: readonly number[];
  /** The index of the one that is marked. */
  at: number;
  valueText: string;
  /** Marked also while nobody points at it. */
  marked?: boolean;
  onPoint: (index: number | null) => void;
  onChoose: (index: number) => void;
}

const PAGE = 10;

/** Goes from one thing in a picture to the next, by pointer and by arrow keys. */
export function PlotCursor({
  label,
  edges,
  at,
  valueText,
  marked = false,
  onPoint,
  onChoose,
}: Props) {
  const last = edges.length - 2;
  if (last < 0) return null;

  function under(event: PointerEvent & { currentTarget: HTMLElement }): number {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const share = width > 0 ? (event.clientX - left) / width : 0;
    let index = 0;
    while (index < last && (edges[index + 1] ?? 1) <= share) index += 1;
    return index;
  }

  function onKeyDown(event: KeyboardEvent): void {
    const next = {
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      PageDown: at - PAGE,
      PageUp: at + PAGE,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    onPoint(null);
    onChoose(Math.max(0, Math.min(last, next)));
  }

  const from = edges[at] ?? 0;
  const to = edges[at + 1] ?? 1;
  return (
    <div
      class={marked ? "ollm-cursor ollm-cursor-marked" : "ollm-cursor"}
      role="slider"
      tabIndex={0}
      aria-label={label}
      aria-valuemin={1}
      aria-valuemax={last + 1}
      aria-valuenow={at + 1}
      aria-valuetext={valueText}
      onKeyDown={onKeyDown}
      onPointerMove={(event) => onPoint(under(event))}
      onPointerLeave={() => onPoint(null)}
      onPointerDown={(event) => onChoose(under(event))}
    >
      <i style={{ left: `${from * 100}%`, width: `${(to - from) * 100}%` }} />
    </div>
  );
}
