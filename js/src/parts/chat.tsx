import "../style/chat.css";
import { Composer } from "./composer";
import { Conversation } from "./conversation";
import { Meter } from "./meter";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";

/** Region `Chat`: the conversation with the model that is loaded. */
export function Chat({ session }: PartProps) {
  const chat = session.view.chat.value;
  const { ask, problem, dismiss } = useAsk(session);
  return (
    <section aria-label="Chat" class="ollm-part ollm-card ollm-chat">
      <div class="ollm-card-head">
        <h3 class="ollm-heading">Chat</h3>
        <span class="ollm-dim ollm-small ollm-end">{chat.status}</span>
        <button
          type="button"
          class="ollm-quiet"
          disabled={chat.turns.length === 0}
          onClick={() => void ask("clear", {})}
        >
          New chat
        </button>
      </div>
      <Conversation
        chat={chat}
        onRetry={(turn) => void ask("retry", { turn })}
        onEdit={async (turn, text) => (await ask("edit-turn", { turn, text })).ok}
      />
      <ProblemNote problem={problem} onDismiss={dismiss} />
      <Composer
        chat={chat}
        draft={session.draft}
        silent={session.link.silent}
        onSend={async (text) => (await ask("send", { text })).ok}
        onStop={() => void ask("stop", {})}
      />
      <Meter used={chat.context_tokens} limit={chat.context_limit} />
    </section>
  );
}
