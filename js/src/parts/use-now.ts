import { useEffect, useState } from "preact/hooks";

const seconds = () => Date.now() / 1000;

/** The time in seconds since the epoch, looked at now and then. */
export function useNow(everyMs: number): number {
  const [nowS, setNowS] = useState(seconds);
  useEffect(() => {
    const timer = setInterval(() => setNowS(seconds()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return nowS;
}
