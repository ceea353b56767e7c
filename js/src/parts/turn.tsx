import { useContext, useState } from "preact/hooks";
import { CopyButton } from "../markdown/copy-button";
import { Markdown } from "../markdown/markdown";
import { spoken } from "../markdown/reasoning";
import type { Turn } from "../protocol";
import { Attachments } from "./attachment-chip";
import { TurnActionsContext } from "./turn-actions";
import { TurnEditor } from "./turn-editor";
import { TurnVersions } from "./turn-versions";

/** One article of the conversation. */
export function TurnArticle({ turn }: { turn: Turn }) {
  const [editing, setEditing] = useState(false);
  const { edit } = useContext(TurnActionsContext);
  const streaming = turn.state === "streaming";
  return (
    <article aria-label={turn.speaker} class={`ollm-turn ollm-turn-${turn.speaker}`}>
      <span class="ollm-who ollm-dim ollm-small">{turn.speaker}</span>
      <div class="ollm-said">
        <Attachments files={turn.attachments} />
        {editing ? (
          <TurnEditor
            text={turn.text}
            onSave={async (text) => {
              if (await edit(turn.id, text)) setEditing(false);
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
            {turn.note || "reading the prompt"}
            <span aria-hidden="true">…</span>
          </p>
        )}
        {!editing && <TurnFoot turn={turn} onEdit={() => setEditing(true)} />}
      </div>
    </article>
  );
}

/** How a turn came about, and what can be done with it. */
function TurnFoot({ turn, onEdit }: { turn: Turn; onEdit: () => void }) {
  const actions = useContext(TurnActionsContext);
  const busy = actions.busy.value;
  const over = turn.state !== "waiting" && turn.state !== "streaming";
  return (
    <div class="ollm-turn-foot">
      {turn.versions.length > 1 && <TurnVersions turn={turn} busy={busy} />}
      {turn.state !== "waiting" && <TurnNote turn={turn} />}
      <span class="ollm-turn-buttons">
        {!busy && turn.speaker === "you" && (
          <button type="button" class="ollm-quiet" onClick={onEdit}>
            Edit
          </button>
        )}
        {!busy && turn.speaker === "model" && (
          <button type="button" class="ollm-quiet" onClick={() => actions.retry(turn.id)}>
            Retry
          </button>
        )}
        {over && turn.text && <CopyButton name="Copy" text={() => spoken(turn.text)} />}
      </span>
    </div>
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
