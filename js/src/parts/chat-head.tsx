import type { ChatView } from "../protocol";
import { useId } from "./use-id";

export type Panel = "instructions" | "settings" | "export";

interface Props {
  chat: ChatView;
  /** The panel that is unfolded beneath. */
  open: Panel | null;
  panelId: string;
  onOpen: (panel: Panel | null) => void;
  onClear: () => void;
}

/** One row: what it is, what can be unfolded, how fast it goes, and a new beginning. */
export function ChatHead({ chat, open, panelId, onOpen, onClear }: Props) {
  const toggle = { open, panelId, onOpen };
  const empty = chat.turns.length === 0;
  return (
    <div class="ollm-card-head ollm-chat-head">
      <h3 class="ollm-heading">Chat</h3>
      <span class="ollm-chat-toggles">
        <Toggle
          {...toggle}
          panel="instructions"
          name="Instructions"
          said={chat.instructions.text ? "set" : ""}
        />
        <Toggle {...toggle} panel="settings" name="Settings" said={chat.sampling.summary} />
        <Toggle {...toggle} panel="export" name="Export" said="" />
      </span>
      <span class="ollm-dim ollm-small ollm-end">{chat.status}</span>
      <button type="button" class="ollm-quiet" disabled={empty} onClick={onClear}>
        New chat
      </button>
    </div>
  );
}

interface ToggleProps {
  panel: Panel;
  name: string;
  /** What is set in it; "" = nothing. */
  said: string;
  open: Panel | null;
  panelId: string;
  onOpen: (panel: Panel | null) => void;
}

function Toggle({ panel, name, said, open, panelId, onOpen }: ToggleProps) {
  const id = useId();
  const expanded = open === panel;
  return (
    <button
      type="button"
      class="ollm-quiet"
      aria-label={name}
      aria-describedby={said ? id : undefined}
      aria-expanded={expanded}
      aria-controls={panelId}
      onClick={() => onOpen(expanded ? null : panel)}
    >
      {name}
      {said && (
        <span id={id} class="ollm-said-of">
          {said}
        </span>
      )}
    </button>
  );
}
