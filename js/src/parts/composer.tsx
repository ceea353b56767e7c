import type { Signal } from "@preact/signals";
import { useState } from "preact/hooks";
import type { ChatView } from "../protocol";
import { useId } from "./use-id";

interface Props {
  chat: ChatView;
  draft: Signal<string>;
  silent: Signal<boolean>;
  /** Says whether the kernel took the message. */
  onSend: (text: string) => Promise<boolean>;
  onStop: () => void;
}

/** The message box. It is emptied only when the kernel has taken the message. */
export function Composer({ chat, draft, silent, onSend, onStop }: Props) {
  const hintId = useId();
  const [sending, setSending] = useState(false);
  // A kernel that does not answer must not keep the person from trying again.
  const blocked = sending && !silent.value;
  const text = draft.value;
  const sendable = chat.can_send && !chat.busy && !blocked && text.trim() !== "";

  async function send(): Promise<void> {
    if (!sendable) return;
    setSending(true);
    const taken = await onSend(text);
    setSending(false);
    if (taken && draft.value === text) draft.value = "";
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    void send();
  }

  return (
    <div class="ollm-composer">
      <div class="ollm-composer-row">
        <textarea
          aria-label="Message"
          aria-describedby={hintId}
          rows={Math.min(8, text.split("\n").length)}
          placeholder={chat.can_send ? "Ask the model" : ""}
          value={text}
          onInput={(event) => {
            draft.value = event.currentTarget.value;
          }}
          onKeyDown={onKeyDown}
        />
        {chat.busy ? (
          <button type="button" onClick={onStop}>
            Stop
          </button>
        ) : (
          <button type="button" class="ollm-go" disabled={!sendable} onClick={() => void send()}>
            Send
          </button>
        )}
      </div>
      <span id={hintId} class="ollm-dim ollm-small">
        {chat.hint}
      </span>
    </div>
  );
}
