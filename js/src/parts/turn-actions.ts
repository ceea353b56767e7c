import { type ReadonlySignal, signal } from "@preact/signals";
import { createContext } from "preact";

/** What a turn can ask of the chat; the same object as long as the chat is shown. */
export interface TurnActions {
  /** An answer runs, so that nothing can be asked. */
  busy: ReadonlySignal<boolean>;
  retry: (turn: string) => void;
  /** Says whether the kernel took the new text. */
  edit: (turn: string, text: string) => Promise<boolean>;
  show: (turn: string) => void;
  /** The button that was pressed for the version that is to come, which takes the focus there. */
  pressed: { turn: string; name: string } | null;
}

export const TurnActionsContext = createContext<TurnActions>({
  busy: signal(true),
  retry: () => {},
  edit: async () => false,
  show: () => {},
  pressed: null,
});
