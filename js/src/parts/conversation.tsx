import "../style/conversation.css";
import type { VNode } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { ChatView, Turn } from "../protocol";
import { Nearness } from "./nearness";
import { sameTurns } from "./same-turns";
import { TurnSlot } from "./turn-slot";
import { useStickToEnd } from "./use-stick-to-end";

/** How many turns at the end are drawn before anything is seen of them. */
const RECENT = 8;

/** The turns, however many; each is drawn again only when it has changed. */
export function Conversation({ chat }: { chat: ChatView }) {
  const { box, content, onScroll, away, toEnd } = useStickToEnd();
  const nearness = useNearness(box);
  const turns = useRef<readonly Turn[]>([]);
  turns.current = sameTurns(turns.current, chat.turns);
  const slots = useRef(new Map<Turn, VNode>());
  slots.current = new Map(
    turns.current.map((turn, index) => [
      turn,
      // The same element says that nothing in it has changed.
      slots.current.get(turn) ?? (
        <TurnSlot
          key={turn.id}
          turn={turn}
          recent={index >= chat.turns.length - RECENT}
          nearness={nearness}
        />
      ),
    ]),
  );
  return (
    <div
      class="ollm-log"
      role="log"
      aria-label="Conversation"
      aria-busy={chat.busy}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
      tabIndex={0}
      ref={box}
      onScroll={onScroll}
    >
      <div ref={content}>
        {chat.turns.length === 0 && <p class="ollm-empty">Nothing has been said yet.</p>}
        {[...slots.current.values()]}
      </div>
      {away && (
        <div class="ollm-to-end" aria-live="off">
          <button type="button" onClick={toEnd}>
            Jump to the end
          </button>
        </div>
      )}
    </div>
  );
}

function useNearness(box: { current: Element | null }): () => Nearness {
  const made = useRef<Nearness | null>(null);
  useEffect(() => () => made.current?.close(), []);
  // Asked for by the turns' own effects, when the box is there.
  return useMemo(
    () => () => {
      made.current ??= new Nearness(box.current as Element);
      return made.current;
    },
    [box],
  );
}
