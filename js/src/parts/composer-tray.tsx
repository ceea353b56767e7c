import type { TrayView } from "../protocol";
import { AttachmentChip } from "./attachment-chip";

interface Props {
  tray: TrayView;
  onDetach: (attachment: string) => void;
}

/** The files that will go with the next question. */
export function ComposerTray({ tray, onDetach }: Props) {
  return (
    <>
      {tray.items.length > 0 && (
        <ul class="ollm-files" aria-label="Attachments">
          {tray.items.map((file) => (
            <li key={file.id}>
              <AttachmentChip file={file} onRemove={() => onDetach(file.id)} />
            </li>
          ))}
        </ul>
      )}
      {/* Always there, so that a screen reader notices when its text appears. */}
      <div role="status" class="ollm-no ollm-small">
        {tray.problem}
      </div>
    </>
  );
}
