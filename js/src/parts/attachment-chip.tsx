import type { AttachmentView } from "../protocol";
import { STROKES } from "./strokes";

interface Props {
  file: AttachmentView;
  /** Takes it away again; without it the file stays. */
  onRemove?: () => void;
}

/** A file of a question: its name and size, of an image a small copy. */
export function AttachmentChip({ file, onRemove }: Props) {
  return (
    <span class="ollm-file" title={file.name}>
      {file.thumbnail.startsWith("data:image/jpeg;base64,") ? (
        <img src={file.thumbnail} alt="" />
      ) : (
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d={STROKES.page} fill="none" />
        </svg>
      )}
      {/* In its own direction, so that a name cannot turn what stands beside it. */}
      <bdi class="ollm-file-name">{file.name}</bdi>
      <span class="ollm-dim">{file.reading ? "reading…" : file.size}</span>
      {onRemove && (
        <button
          type="button"
          class="ollm-quiet ollm-icon"
          aria-label={`Remove ${file.name}`}
          onClick={onRemove}
        >
          <svg viewBox="0 0 16 16" aria-hidden="true">
            <path d={STROKES.away} fill="none" />
          </svg>
        </button>
      )}
    </span>
  );
}

/** The files of a question, as a list. */
export function Attachments({ files }: { files: readonly AttachmentView[] }) {
  if (files.length === 0) return null;
  return (
    <ul class="ollm-files" aria-label="Attachments">
      {files.map((file) => (
        <li key={file.id}>
          <AttachmentChip file={file} />
        </li>
      ))}
    </ul>
  );
}
