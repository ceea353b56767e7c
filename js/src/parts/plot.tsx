import type { ComponentChildren } from "preact";

interface Props {
  /** How many units wide the picture is; its height is 100. */
  width: number;
  label: string;
  lines: { at: number; text: string; kind?: "average" | "limit" }[];
  children: ComponentChildren;
  /** What lies over the picture and can be pointed at. */
  over?: ComponentChildren;
}

/** A picture that fills its place, with lines across it. Its text is not stretched along. */
export function Plot({ width, label, lines, children, over }: Props) {
  return (
    <div class="ollm-plot">
      {lines.map(({ at, text, kind }) => (
        <span
          key={`${kind}-${text}`}
          class={kind ? `ollm-plot-line ollm-plot-${kind}` : "ollm-plot-line"}
          style={{ bottom: `${at}%` }}
          aria-hidden="true"
        >
          <small>{text}</small>
        </span>
      ))}
      <svg
        role="img"
        aria-label={label}
        viewBox={`0 0 ${width} 100`}
        preserveAspectRatio="none"
        focusable="false"
      >
        {children}
      </svg>
      {over}
    </div>
  );
}
