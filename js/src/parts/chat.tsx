import "../style/chat.css";
import "../style/chat-controls.css";
import { computed } from "@preact/signals";
import { useMemo, useRef, useState } from "preact/hooks";
import { ChatExport } from "./chat-export";
import { ChatHead, type Panel } from "./chat-head";
import { ChatInstructions } from "./chat-instructions";
import { ChatSettings } from "./chat-settings";
import { Composer } from "./composer";
import { Conversation } from "./conversation";
import { Departed } from "./departed";
import { Meter } from "./meter";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { type TurnActions, TurnActionsContext } from "./turn-actions";
import { useAsk } from "./use-ask";
import { useAttaching } from "./use-attaching";
import { useId } from "./use-id";

/** Region `Chat`: the conversation with the model that is loaded. */
export function Chat({ session }: PartProps) {
  const chat = session.view.chat.value;
  const { ask, problem, dismiss } = useAsk(session);
  const panelId = useId();
  const [open, setOpen] = useState<Panel | null>(null);
  const { attach, dropping, handlers, unreadable, forget } = useAttaching(ask);
  // The same object for all turns, so that none is drawn again for it.
  const latest = useRef(ask);
  latest.current = ask;
  const actions = useMemo<TurnActions>(
    () => ({
      busy: computed(() => session.view.chat.value.busy),
      retry: (turn) => void latest.current("retry", { turn }),
      edit: async (turn, text) => (await latest.current("edit-turn", { turn, text })).ok,
      show: (turn) => void latest.current("show", { turn }),
      pressed: null,
    }),
    [session],
  );
  return (
    <section
      aria-label="Chat"
      class={`ollm-part ollm-card ollm-chat${dropping ? " ollm-dropping" : ""}`}
      {...handlers}
    >
      <ChatHead
        chat={chat}
        open={open}
        panelId={panelId}
        onOpen={setOpen}
        onClear={() => void ask("clear", {})}
      />
      <div id={panelId} hidden={open === null}>
        {open === "instructions" && (
          <ChatInstructions instructions={chat.instructions} session={session} />
        )}
        {open === "settings" && <ChatSettings sampling={chat.sampling} session={session} />}
        {open === "export" && <ChatExport session={session} />}
      </div>
      <TurnActionsContext.Provider value={actions}>
        <Conversation chat={chat} />
      </TurnActionsContext.Provider>
      <Departed chat={chat} onReload={() => void ask("reload", {})} />
      <ProblemNote problem={problem} onDismiss={dismiss} />
      <ProblemNote problem={unreadable} onDismiss={forget} />
      <Composer
        chat={chat}
        draft={session.draft}
        silent={session.link.silent}
        onSend={async (text) => (await ask("send", { text })).ok}
        onStop={() => void ask("stop", {})}
        onAttach={attach}
        onDetach={(attachment) => void ask("detach", { attachment })}
      />
      <Meter used={chat.context_tokens} limit={chat.context_limit} />
    </section>
  );
}
