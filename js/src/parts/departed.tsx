import type { ChatView } from "../protocol";

/** Says that the model of the conversation has left memory, and brings it back. */
export function Departed({ chat, onReload }: { chat: ChatView; onReload: () => void }) {
  return (
    // Always there, so that a screen reader notices when its text appears.
    <div role="status">
      {chat.gone && (
        <div class="ollm-notice ollm-departed">
          <span>{chat.gone}</span>
          <button
            type="button"
            // Not `disabled`, which would drop the focus of the person who has just pressed it.
            aria-disabled={!chat.can_reload}
            onClick={() => {
              if (chat.can_reload) onReload();
            }}
          >
            Load again
          </button>
        </div>
      )}
    </div>
  );
}
