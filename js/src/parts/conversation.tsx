import type { ChatView } from "../protocol";
import { TurnArticle } from "./turn";
import { useStickToEnd } from "./use-stick-to-end";

interface Props {
  chat: ChatView;
  onRetry: (turn: string) => void;
  onEdit: (turn: string, text: string) => Promise<boolean>;
}

export function Conversation({ chat, onRetry, onEdit }: Props) {
  const { box, content, onScroll } = useStickToEnd();
  const last = chat.turns.at(-1);
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
        {chat.turns.map((turn) => (
          <TurnArticle
            key={turn.id}
            turn={turn}
            onRetry={
              !chat.busy && turn === last && turn.speaker === "model"
                ? () => onRetry(turn.id)
                : undefined
            }
            onEdit={
              !chat.busy && turn.speaker === "you" ? (text) => onEdit(turn.id, text) : undefined
            }
          />
        ))}
      </div>
    </div>
  );
}
