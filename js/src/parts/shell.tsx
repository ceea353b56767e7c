import "../style/tokens.css";
import "../style/controls.css";
import "../style/shell.css";
import type { ComponentChildren } from "preact";
import type { Session } from "../state/session";

const OTHER_VERSION = "This view is from another version of ollm-widgets; run the cell again.";
const SILENT = "The kernel is busy or was restarted. Run this cell again if this message stays.";

/** What every widget has around it: notices about the connection itself. */
export function Shell({ session, children }: { session: Session; children: ComponentChildren }) {
  const { silent, otherVersion } = session.link;
  if (otherVersion.value) {
    return (
      <p class="ollm-notice" role="alert">
        {OTHER_VERSION}
      </p>
    );
  }
  return (
    <>
      {/* Always there, so that a screen reader notices when its text appears. */}
      <div role="status">{silent.value && <p class="ollm-notice">{SILENT}</p>}</div>
      {children}
    </>
  );
}
