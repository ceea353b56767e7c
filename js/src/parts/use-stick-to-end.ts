import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

const NEAR_END_PX = 24;

/** Keep a box scrolled to its end while it grows, unless the reader has scrolled away. */
export function useStickToEnd() {
  const box = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const lastTop = useRef(0);
  const [away, setAway] = useState(false);

  function follow(): void {
    if (box.current && following.current) box.current.scrollTop = box.current.scrollHeight;
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
    const nearEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    // What has grown since the last frame also takes the end further away; that is no wish to stay.
    if (nearEnd) following.current = true;
    else if (scrollTop < lastTop.current) following.current = false;
    lastTop.current = scrollTop;
    setAway(!following.current);
  }

  function toEnd(): void {
    following.current = true;
    setAway(false);
    follow();
    // The button that was pressed goes; without this the focus falls to the notebook.
    box.current?.focus({ preventScroll: true });
  }

  return { box, content, onScroll, away, toEnd };
}
