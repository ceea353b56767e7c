import "../style/math.css";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { Scroller } from "./scroller";
import { toMathml } from "./tex";

interface Props {
  tex: string;
  display: boolean;
}

/** A formula; where it is not TeX, its source. */
export function Tex({ tex, display }: Props) {
  const place = useRef<HTMLSpanElement>(null);
  const math = useMemo(() => toMathml(tex, display), [tex, display]);

  useLayoutEffect(() => {
    // Nothing in it changes, so it goes onto the page as it was sanitised.
    if (math) place.current?.replaceChildren(math);
  }, [math]);

  if (!math) return <code>{tex}</code>;
  const drawn = <span ref={place} />;
  return display ? <Scroller label="Formula">{drawn}</Scroller> : drawn;
}
