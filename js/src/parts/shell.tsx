import "../style/tokens.css";
import "../style/controls.css";
import "../style/shell.css";
import "../style/contrast.css";
import type { ComponentChildren } from "preact";
import type { Session } from "../state/session";

const OTHER_VERSION = "This view is from another version of ollm-widgets; run the cell again.";
const SILENT = "The kernel is busy or was restarted. Run this cell again if this message stays.";
const BEHIND =
  "A running cell keeps the kernel busy. What you asked for is done when the cell ends.";

/** What every widget has around it: notices about the connection itself. */
export function Shell({ session, children }: { session: Session; children: ComponentChildren }) {
  const { silent, behind, otherVersion } = session.link;
  const notice = silent.value ? SILENT : behind.value ? BEHIND : "";
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
      <div role="status">{notice && <p class="ollm-notice">{notice}</p>}</div>
      {children}
    </>
  );
}
