import { useEffect, useLayoutEffect, useRef } from "preact/hooks";

const NEAR_END_PX = 24;

/** Keep a box scrolled to its end while it grows, unless the reader has scrolled away. */
export function useStickToEnd() {
  const box = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);

  function follow(): void {
    if (box.current && atEnd.current) box.current.scrollTop = box.current.scrollHeight;
  }

  useLayoutEffect(follow);

  useEffect(() => {
    if (!content.current || typeof ResizeObserver === "undefined") return;
    // Markdown is drawn in a later frame than the turn that holds it.
    const observer = new ResizeObserver(follow);
    observer.observe(content.current);
    return () => observer.disconnect();
  }, []);

  function onScroll(): void {
    if (!box.current) return;
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    atEnd.current = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  return { box, content, onScroll };
}
