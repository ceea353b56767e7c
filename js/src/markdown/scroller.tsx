import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface Props {
  label: string;
  children: ComponentChildren;
}

/** Scrolls sideways what is wider than the text; then the keyboard reaches it. */
export function Scroller({ label, children }: Props) {
  const { box, wide } = useIsWide<HTMLSpanElement>();
  return (
    // A span, since a formula of its own may stand inside a paragraph.
    <span
      ref={box}
      class={`ollm-wide ollm-wide-${label.toLowerCase()}`}
      {...(wide && { tabIndex: 0, role: "group", "aria-label": label })}
    >
      {children}
    </span>
  );
}

/** Whether what a box holds is wider than the box. */
export function useIsWide<T extends HTMLElement>() {
  const box = useRef<T>(null);
  const [wide, setWide] = useState(false);

  useEffect(() => {
    const { current } = box;
    if (!current || typeof ResizeObserver === "undefined") return;
    const look = () => setWide(current.scrollWidth > current.clientWidth + 1);
    const observer = new ResizeObserver(look);
    observer.observe(current);
    for (const child of current.children) observer.observe(child);
    return () => observer.disconnect();
  }, []);

  return { box, wide };
}
