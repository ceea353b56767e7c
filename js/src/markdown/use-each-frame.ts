import { useEffect, useRef, useState } from "preact/hooks";

/** The value as of the last animation frame while it changes fast, else as it is. */
export function useEachFrame<T>(value: T, fast: boolean): T {
  const [drawn, setDrawn] = useState(value);
  const latest = useRef(value);
  const frame = useRef(0);
  latest.current = value;

  useEffect(() => {
    if (!fast || frame.current || Object.is(latest.current, drawn)) return;
    frame.current = requestAnimationFrame(() => {
      frame.current = 0;
      setDrawn(latest.current);
    });
  });
  useEffect(() => () => cancelAnimationFrame(frame.current), []);

  return fast ? drawn : value;
}
