import type { Signal } from "@preact/signals";
import { useState } from "preact/hooks";
import type { ChatView } from "../protocol";
import { AttachButton } from "./attach-button";
import { ComposerTray } from "./composer-tray";
import { useId } from "./use-id";

interface Props {
  chat: ChatView;
  draft: Signal<string>;
  silent: Signal<boolean>;
  /** Says whether the kernel took the message. */
  onSend: (text: string) => Promise<boolean>;
  onStop: () => void;
  onAttach: (files: Iterable<File>) => void;
  onDetach: (attachment: string) => void;
}

/** The message box. It is emptied only when the kernel has taken the message. */
export function Composer({ chat, draft, silent, onSend, onStop, onAttach, onDetach }: Props) {
  const hintId = useId();
  const [sending, setSending] = useState(false);
  // A kernel that does not answer must not keep the person from trying again.
  const blocked = sending && !silent.value;
  const text = draft.value;
  const reading = chat.tray.items.some((file) => file.reading);
  const sendable = chat.can_send && !chat.busy && !blocked && !reading && text.trim() !== "";

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
      <ComposerTray tray={chat.tray} onDetach={onDetach} />
      <div class="ollm-composer-row">
        <AttachButton help={chat.tray.help} onAttach={onAttach} />
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
