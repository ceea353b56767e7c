import type { Ref } from "preact";

/** Strokes on a field of 16 by 16. */
const ICONS = {
  use: "M2.5 3.5h11v7h-6L4.5 13v-2.5h-2z",
  pin: "M5.5 2.5h5M6.5 2.5v4L4 9.5h8L9.5 6.5v-4M8 9.5v4",
  demote: "M8 2.5v7M5 7l3 3 3-3M3 13.5h10",
  unload: "M8 3l4.5 5.5h-9zM3.5 12.5h9",
};

interface Props {
  icon: keyof typeof ICONS;
  /** What it does: its accessible name and its tooltip. */
  name: string;
  /** Whose it is, where there are several of the same name. */
  describedBy: string;
  onClick: () => void;
  filled?: boolean;
  disabled?: boolean;
  button?: Ref<HTMLButtonElement>;
}

export function IconButton({
  icon,
  name,
  describedBy,
  onClick,
  filled = false,
  disabled = false,
  button,
}: Props) {
  return (
    <button
      ref={button ?? null}
      type="button"
      class="ollm-quiet ollm-icon"
      aria-label={name}
      aria-describedby={describedBy}
      title={name}
      // Not `disabled`, which would drop the focus of the person who has just pressed it.
      aria-disabled={disabled}
      onClick={() => {
        if (!disabled) onClick();
      }}
    >
      <svg viewBox="0 0 16 16" aria-hidden="true">
        <path d={ICONS[icon]} fill={filled ? "currentColor" : "none"} />
      </svg>
    </button>
  );
}
