import type { ChatView, LoadingView } from "../protocol";

export interface Activity {
  state: "idle" | "busy" | "loading" | "failed" | "ready";
  text: string;
}

/** What goes on, in two words, for the line above everything. */
export function activity(loading: LoadingView, chat: ChatView): Activity {
  switch (loading.state) {
    case "loading":
      // A load that runs shows its stages; only one that waits has something to say.
      return { state: "loading", text: loading.summary ? "waiting for room" : "loading" };
    case "cancelling":
      return { state: "loading", text: "cancelling" };
    case "failed":
      return { state: "failed", text: "could not be loaded" };
    case "loaded":
      return chat.busy
        ? { state: "busy", text: "loaded · answering" }
        : { state: "ready", text: "loaded" };
    default:
      if (chat.busy) return { state: "busy", text: "answering" };
      return { state: "idle", text: "not loaded" };
  }
}
