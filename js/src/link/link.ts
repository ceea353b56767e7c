import { type Signal, signal } from "@preact/signals";
import { type AnyCommand, type AnyReply, PROTOCOL_VERSION, type Problem } from "../protocol";
import type { Store } from "../state/store";
import type { HostModel } from "./host";
import { freshId } from "./id";
import { type Incoming, incoming } from "./incoming";
import { isRecord, read } from "./read";

export const REPLY_TIMEOUT_MS = 5_000;

export type CommandName = AnyCommand["name"];
export type CommandBody<N extends CommandName> = Extract<AnyCommand, { name: N }>["body"];
export type Outcome =
  | { ok: true; job: string | null; text: string }
  | { ok: false; problem: Problem };

interface Waiting {
  settle: (outcome: Outcome) => void;
  timer: ReturnType<typeof setTimeout>;
}

/**
 * The page's end of the connection to the kernel: commands up with their replies, numbered
 * events down into the store.
 */
export class Link {
  /** No reply to a command in time, and nothing heard since. */
  readonly silent: Signal<boolean> = signal(false);
  /** No reply to a command in time, whatever else is heard: a cell keeps the kernel busy. */
  readonly behind: Signal<boolean> = signal(false);
  /** The kernel speaks another version of the protocol. */
  readonly otherVersion: Signal<boolean> = signal(false);

  #model: HostModel;
  #store: Store;
  #waiting = new Map<string, Waiting>();
  // After a gap, events are of no use until a snapshot comes.
  #gap = false;
  #resyncAsked = false;

  constructor(model: HostModel, store: Store) {
    this.#model = model;
    this.#store = store;
  }

  /** Draw what the kernel has left in the trait, listen, and say hello. */
  open(signal: AbortSignal): void {
    this.#adopt();
    this.#model.on("change:snapshot", this.#onTrait);
    this.#model.on("msg:custom", this.#onMessage);
    signal.addEventListener("abort", () => this.close(), { once: true });
    void this.ask("hello", {});
  }

  close(): void {
    this.#model.off("change:snapshot", this.#onTrait);
    this.#model.off("msg:custom", this.#onMessage);
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
    this.#waiting.clear();
  }

  /**
   * Send a command. The promise settles with the reply, however late it is; after
   * `REPLY_TIMEOUT_MS` without one `silent` tells the person. Files go as buffers beside it.
   */
  ask<N extends CommandName>(
    name: N,
    body: NonNullable<CommandBody<N>>,
    buffers: ArrayBuffer[] = [],
  ): Promise<Outcome> {
    const id = freshId();
    return new Promise((settle) => {
      const timer = setTimeout(() => {
        this.silent.value = true;
        this.behind.value = true;
        if (name === "resync") this.#resyncAsked = false;
      }, REPLY_TIMEOUT_MS);
      this.#waiting.set(id, { settle, timer });
      try {
        this.#model.send({ v: PROTOCOL_VERSION, id, name, body } as AnyCommand, undefined, buffers);
      } catch {
        // What a host throws here says nothing to a person ("Cannot send").
        this.#settle(id, {
          ok: false,
          problem: {
            code: "not-sent",
            message: "The kernel was restarted, or the connection to it is lost.",
            hint: "Run this cell again.",
          },
        });
      }
    });
  }

  #onTrait = (): void => {
    this.#heard();
    this.#adopt();
  };

  #onMessage = (message: unknown): void => {
    this.#heard();
    this.#take(incoming(message));
  };

  #heard(): void {
    this.silent.value = false;
  }

  #adopt(): void {
    const given = this.#model.get("snapshot");
    if (!isRecord(given) || given.v === undefined) return;
    if (given.v !== PROTOCOL_VERSION) {
      this.otherVersion.value = true;
      return;
    }
    try {
      if (this.#store.adopt(read("Snapshot", given))) this.#caughtUp();
    } catch (error) {
      console.warn("ollm-widgets: ignored a malformed snapshot.", String(error));
    }
  }

  #take(message: Incoming): void {
    switch (message.is) {
      case "reply":
        this.#reply(message.reply);
        return;
      case "other version":
        this.otherVersion.value = true;
        return;
      case "malformed":
        console.warn("ollm-widgets: ignored a malformed message.", message.why);
        return;
      case "event":
        break;
    }
    const { event } = message;
    if (event.kind === "snapshot") {
      this.#store.replace(event.body, Math.max(event.seq, event.body.seq));
      this.#caughtUp();
      return;
    }
    if (event.seq <= this.#store.seq) return;
    if (event.seq > this.#store.seq + 1) this.#gap = true;
    if (this.#gap) this.#resync();
    else this.#store.apply(event);
  }

  #reply(reply: AnyReply): void {
    if (reply.kind === "ack")
      this.#settle(reply.id, { ok: true, job: reply.job, text: reply.text });
    else this.#settle(reply.id, { ok: false, problem: reply.body });
  }

  #settle(id: string, outcome: Outcome): void {
    const waiting = this.#waiting.get(id);
    // Replies to other pages come here too.
    if (!waiting) return;
    clearTimeout(waiting.timer);
    this.#waiting.delete(id);
    // Commands are answered in their order: none before this one is still open.
    this.behind.value = false;
    waiting.settle(outcome);
  }

  #caughtUp(): void {
    this.#gap = false;
    this.#resyncAsked = false;
    this.otherVersion.value = false;
  }

  #resync(): void {
    if (this.#resyncAsked) return;
    this.#resyncAsked = true;
    void this.ask("resync", {}).then((outcome) => {
      if (!outcome.ok) this.#resyncAsked = false;
    });
  }
}
