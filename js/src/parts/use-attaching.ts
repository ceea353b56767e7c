import { useState } from "preact/hooks";
import { freshId } from "../link/id";
import type { Link } from "../link/link";
import type { Problem } from "../protocol";

// Jupyter's server closes the connection over a message of more than 10 MiB.
const PIECE_BYTES = 2 * 2 ** 20;

/** Files that are chosen, dropped or pasted go to the kernel, piece by piece. */
export function useAttaching(ask: Link["ask"]) {
  const [dropping, setDropping] = useState(false);
  const [unreadable, setUnreadable] = useState<Problem | null>(null);

  async function attach(files: Iterable<File>): Promise<void> {
    setUnreadable(null);
    for (const file of files) {
      try {
        // The reason is shown already, and would be taken away by the next file.
        if (!(await attachOne(ask, file))) return;
      } catch {
        // What a browser throws here says nothing to a person ("NotReadableError").
        setUnreadable({
          code: "unreadable",
          message: `The browser could not read ${file.name}.`,
          hint: "Attach files, not folders.",
        });
        return;
      }
    }
  }

  function take(event: Event, given: DataTransfer | null): void {
    const files = [...(given?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    void attach(files);
  }

  const handlers = {
    onDragOver: (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      setDropping(true);
    },
    onDragLeave: () => setDropping(false),
    onDrop: (event: DragEvent) => {
      setDropping(false);
      take(event, event.dataTransfer);
    },
    onPaste: (event: ClipboardEvent) => take(event, event.clipboardData),
  };
  return { attach, dropping, handlers, unreadable, forget: () => setUnreadable(null) };
}

/** Says whether the kernel has taken the whole file. */
async function attachOne(ask: Link["ask"], file: File): Promise<boolean> {
  const upload = freshId();
  let start = 0;
  do {
    const end = start + PIECE_BYTES;
    const last = end >= file.size;
    const piece = await file.slice(start, end).arrayBuffer();
    const outcome = await ask("attach", { upload, name: file.name, last }, [piece]);
    if (!outcome.ok) return false;
    start = end;
  } while (start < file.size);
  return true;
}
