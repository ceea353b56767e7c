import type { Session } from "../state/session";

/** What every part of the view is given. */
export interface PartProps {
  session: Session;
}
