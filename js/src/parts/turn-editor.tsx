import { useEffect, useRef, useState } from "preact/hooks";

interface Props {
  text: string;
  onSave: (text: string) => Promise<void>;
  onDiscard: () => void;
}

/** A question being rewritten in its place. */
export function TurnEditor({ text, onSave, onDiscard }: Props) {
  const [draft, setDraft] = useState(text);
  const [saving, setSaving] = useState(false);
  const box = useRef<HTMLTextAreaElement>(null);
  const ready = draft.trim() !== "" && !saving;

  useEffect(() => {
    const log = box.current?.closest<HTMLElement>("[role=log]");
    box.current?.focus();
    // Without this the focus falls to the notebook, whose shortcuts are single letters.
    return () => log?.focus({ preventScroll: true });
  }, []);

  async function save(): Promise<void> {
    if (!ready) return;
    setSaving(true);
    await onSave(draft);
    setSaving(false);
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Escape") onDiscard();
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      void save();
    }
  }

  return (
    <div class="ollm-turn-editor">
      <textarea
        ref={box}
        aria-label="Question"
        rows={Math.min(12, draft.split("\n").length)}
        value={draft}
        onInput={(event) => setDraft(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="ollm-turn-foot">
        <button type="button" class="ollm-go" disabled={!ready} onClick={() => void save()}>
          Save
        </button>
        <button type="button" onClick={onDiscard}>
          Discard
        </button>
      </div>
    </div>
  );
}
