import "../style/question.css";
import { useLayoutEffect, useRef } from "preact/hooks";
import type { ResidentItem } from "../protocol";
import { useId } from "./use-id";

interface Props {
  item: ResidentItem;
  onUnload: (force: boolean) => void;
  onKeep: () => void;
}

/** Asks before a runtime is taken from who uses it. */
export function UnloadQuestion({ item, onUnload, onKeep }: Props) {
  const id = useId();
  const keepButton = useRef<HTMLButtonElement>(null);
  const busy = item.state === "busy"; // it may end while the person reads

  // The button that does no harm, as ARIA's alert dialog pattern asks.
  useLayoutEffect(() => keepButton.current?.focus(), []);

  return (
    <div
      class="ollm-question"
      role="alertdialog"
      tabIndex={-1}
      aria-labelledby={id}
      onKeyDown={(event) => {
        if (event.key === "Escape") onKeep();
      }}
    >
      <strong id={id}>
        {item.name} is {busy ? item.word : `${item.word} now`}. Unload it?
      </strong>
      <div class="ollm-question-buttons">
        <button type="button" class="ollm-no" onClick={() => onUnload(true)}>
          {busy ? "Stop and unload" : "Unload now"}
        </button>
        <button type="button" onClick={() => onUnload(false)}>
          When it is idle
        </button>
        <button ref={keepButton} type="button" onClick={onKeep}>
          Keep
        </button>
      </div>
    </div>
  );
}
