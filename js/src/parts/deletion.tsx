import "../style/question.css";
import type { Signal } from "@preact/signals";
import type { RefObject } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ModelItem } from "../protocol";
import { formatBytes } from "./size";
import { holdsFocus, useHeir } from "./use-heir";
import { useId } from "./use-id";

interface Props {
  item: ModelItem;
  /** Id of the element that names the model. */
  nameId: string;
  silent: Signal<boolean>;
  /** What takes the focus when there is nothing left to delete. */
  heir: RefObject<HTMLElement | null>;
  /** Says whether the kernel has deleted the files. */
  onDelete: () => Promise<boolean>;
}

/** Deletes a model's files, after a question in the button's place. */
export function Deletion({ item, nameId, silent, heir, onDelete }: Props) {
  const [asking, setAsking] = useState(false);
  const box = useHeir<HTMLDivElement>(heir);
  const opener = useRef<HTMLButtonElement>(null);
  const returns = useRef(false);

  useLayoutEffect(() => {
    if (!asking && returns.current) opener.current?.focus();
    returns.current = false;
  }, [asking]);

  function close(): void {
    // The reply may come when the person is already elsewhere.
    returns.current = box.current !== null && holdsFocus(box.current);
    setAsking(false);
  }

  return (
    <div class="ollm-deletion" ref={box}>
      {asking ? (
        <Question
          item={item}
          silent={silent}
          onKeep={close}
          onDelete={async () => {
            if (await onDelete()) close();
          }}
        />
      ) : (
        <button
          ref={opener}
          type="button"
          class="ollm-quiet"
          aria-describedby={nameId}
          onClick={() => setAsking(true)}
        >
          Delete
        </button>
      )}
    </div>
  );
}

interface QuestionProps {
  item: ModelItem;
  silent: Signal<boolean>;
  onKeep: () => void;
  onDelete: () => Promise<void>;
}

function Question({ item, silent, onKeep, onDelete }: QuestionProps) {
  const id = useId();
  const [deleting, setDeleting] = useState(false);
  const keepButton = useRef<HTMLButtonElement>(null);
  // "Keep" would promise too much once the command is sent. But a kernel that does not answer
  // must not keep the person from leaving or trying again.
  const blocked = deleting && !silent.value;

  // The button that does no harm, as ARIA's alert dialog pattern asks.
  useLayoutEffect(() => keepButton.current?.focus(), []);

  async function remove(): Promise<void> {
    if (blocked) return;
    setDeleting(true);
    await onDelete();
    setDeleting(false);
  }

  function keep(): void {
    if (!blocked) onKeep();
  }

  return (
    <div
      class="ollm-question"
      role="alertdialog"
      tabIndex={-1}
      aria-labelledby={`${id}-question`}
      aria-describedby={`${id}-effect`}
      onKeyDown={(event) => {
        if (event.key === "Escape") keep();
      }}
    >
      <strong id={`${id}-question`}>Delete {item.name}?</strong>
      <span id={`${id}-effect`}>This frees {formatBytes(item.frees_bytes)}.</span>
      {/* Not `disabled`, which would drop the focus of the person who has just pressed one. */}
      <div class="ollm-question-buttons">
        <button type="button" class="ollm-no" aria-disabled={blocked} onClick={() => void remove()}>
          Delete files
        </button>
        <button ref={keepButton} type="button" aria-disabled={blocked} onClick={keep}>
          Keep
        </button>
      </div>
    </div>
  );
}
