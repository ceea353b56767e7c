import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Turn } from "../protocol";
import type { Nearness } from "./nearness";
import { TurnArticle } from "./turn";

interface Props {
  turn: Turn;
  /** Drawn at once: at the end of the conversation, or new. */
  recent: boolean;
  nearness: () => Nearness;
}

/** The place of one turn. Far from what is in sight its text stands there undrawn. */
export function TurnSlot({ turn, recent, nearness }: Props) {
  const slot = useRef<HTMLDivElement>(null);
  const drawn = useSignal(recent);
  // Of a guess the browser needs one only: once the turn has been in sight it knows better.
  const height = useMemo(() => heightPx(turn.text), []);

  useEffect(() => {
    return slot.current && !drawn.peek() ? nearness().watch(slot.current, drawn) : undefined;
  }, []);

  return (
    <div
      ref={slot}
      class="ollm-slot"
      // Drawing an old turn is no news to a screen reader that listens to the log.
      aria-live={recent ? undefined : "off"}
      style={{ containIntrinsicSize: `auto ${height}px` }}
    >
      {drawn.value ? <TurnArticle turn={turn} /> : <Undrawn turn={turn} />}
    </div>
  );
}

/** The text alone: found by the browser's search, selected and read out. */
function Undrawn({ turn }: { turn: Turn }) {
  return (
    <article aria-label={turn.speaker} class={`ollm-turn ollm-turn-${turn.speaker}`}>
      <span class="ollm-who ollm-dim ollm-small">{turn.speaker}</span>
      <div class="ollm-said">
        <p class={turn.speaker === "you" ? "ollm-plain" : "ollm-undrawn"}>{turn.text}</p>
      </div>
    </article>
  );
}

const LINE_PX = 19;
const AROUND_PX = 34;
const LINE_CHARACTERS = 90;

/** About how high a turn is, for the scroll bar until it has been in sight. */
function heightPx(text: string): number {
  let lines = 0;
  for (const line of text.split("\n")) lines += Math.ceil(line.length / LINE_CHARACTERS) || 0.4;
  return Math.round(AROUND_PX + lines * LINE_PX);
}
