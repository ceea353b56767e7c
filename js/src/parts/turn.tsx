import { useState } from "preact/hooks";
import { Markdown } from "../markdown/markdown";
import type { Turn } from "../protocol";
import { TurnEditor } from "./turn-editor";

interface Props {
  turn: Turn;
  onRetry: (() => void) | undefined;
  /** Says whether the kernel took the new text. */
  onEdit: ((text: string) => Promise<boolean>) | undefined;
}

/** One article of the conversation. */
export function TurnArticle({ turn, onRetry, onEdit }: Props) {
  const [editing, setEditing] = useState(false);
  const streaming = turn.state === "streaming";
  return (
    <article aria-label={turn.speaker} class={`ollm-turn ollm-turn-${turn.speaker}`}>
      <span class="ollm-who ollm-dim ollm-small">{turn.speaker}</span>
      <div class="ollm-said">
        {editing ? (
          <TurnEditor
            text={turn.text}
            onSave={async (text) => {
              if (await onEdit?.(text)) setEditing(false);
            }}
            onDiscard={() => setEditing(false)}
          />
        ) : turn.speaker === "you" ? (
          <p class="ollm-plain">{turn.text}</p>
        ) : (
          <div class={streaming ? "ollm-streaming" : undefined}>
            <Markdown text={turn.text} growing={streaming} />
          </div>
        )}
        {turn.state === "waiting" && (
          <p class="ollm-dim ollm-waiting">
            reading the prompt<span aria-hidden="true">…</span>
          </p>
        )}
        <div class="ollm-turn-foot">
          <TurnNote turn={turn} />
          {onRetry && (
            <button type="button" class="ollm-quiet" onClick={onRetry}>
              Retry
            </button>
          )}
          {onEdit && !editing && (
            <button type="button" class="ollm-quiet" onClick={() => setEditing(true)}>
              Edit
            </button>
          )}
        </div>
      </div>
    </article>
  );
}

function TurnNote({ turn }: { turn: Turn }) {
  const state = turn.state === "stopped" ? "stopped" : turn.state === "failed" ? "failed" : "";
  const said = turn.note.toLowerCase().includes(state) ? "" : state;
  const text = [said, turn.note].filter(Boolean).join(" · ");
  if (!text) return null;
  return (
    <span class={turn.state === "failed" ? "ollm-no ollm-small" : "ollm-dim ollm-small"}>
      {text}
    </span>
  );
}
