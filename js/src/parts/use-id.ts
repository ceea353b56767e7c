import { useState } from "preact/hooks";
import { freshId } from "../link/id";

/**
 * An element id. Not Preact's own useId: each widget on the page carries its own Preact, and
 * their ids would meet.
 */
export function useId(): string {
  const [id] = useState(() => `ollm-${freshId()}`);
  return id;
}
