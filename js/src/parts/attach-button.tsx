import { useRef } from "preact/hooks";
import { STROKES } from "./strokes";
import { useId } from "./use-id";

interface Props {
  /** What can be attached, and why not more. */
  help: string;
  onAttach: (files: Iterable<File>) => void;
}

/** Opens the browser's own choice of files. */
export function AttachButton({ help, onAttach }: Props) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button
        type="button"
        class="ollm-attach"
        aria-label="Attach"
        aria-describedby={id}
        title={`Attach. ${help}`}
        onClick={() => input.current?.click()}
      >
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d={STROKES.clip} fill="none" />
        </svg>
      </button>
      <span id={id} class="ollm-hidden">
        {help}
      </span>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label="Files to attach"
        onChange={(event) => {
          const box = event.currentTarget;
          onAttach([...(box.files ?? [])]);
          // Else the same file could not be chosen twice.
          box.value = "";
        }}
      />
    </>
  );
}
