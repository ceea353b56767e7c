import type { RefObject } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

/**
 * Hand the focus to the heir when what holds it goes. Without this it falls to the notebook,
 * whose shortcuts are single letters.
 */
export function useHeir<T extends HTMLElement>(
  heir: RefObject<HTMLElement | null>,
): RefObject<T | null> {
  const own = useRef<T>(null);
  useLayoutEffect(() => {
    const element = own.current;
    return () => {
      if (element && holdsFocus(element)) heir.current?.focus({ preventScroll: true });
    };
  }, [heir]);
  return own;
}

/** By selector and not by `document.activeElement`, which stops at a host's shadow root. */
export function holdsFocus(element: Element): boolean {
  return element.matches(":focus-within");
}
