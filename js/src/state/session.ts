import { type Signal, signal } from "@preact/signals";
import type { HostModel } from "../link/host";
import { Link } from "../link/link";
import { Moves } from "./moves";
import { Store } from "./store";

/** What all views of one widget share. */
export interface Session {
  view: Store;
  link: Link;
  /** The message being written; kept here so that a redrawn view does not lose it. */
  draft: Signal<string>;
  moves: Moves;
}

/** Connect to the kernel until the signal aborts. */
export function openSession(model: HostModel, lifetime: AbortSignal): Session {
  const view = new Store();
  const link = new Link(model, view);
  link.open(lifetime);
  return { view, link, draft: signal(""), moves: new Moves(link) };
}
