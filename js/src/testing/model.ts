import type { HostModel } from "../link/host";
import type { AnyCommand, AnyEvent, Problem, Snapshot } from "../protocol";
import { PROTOCOL_VERSION } from "../protocol";

type Listener = (...args: never[]) => void;

/** A model object in memory: what was sent, and a way to say what the kernel says. */
export class FakeModel implements HostModel {
  readonly sent: AnyCommand[] = [];
  /** The buffers beside each command that was sent. */
  readonly buffers: ArrayBuffer[][] = [];
  snapshot: unknown;
  #listeners = new Map<string, Set<Listener>>();

  constructor(snapshot: unknown) {
    this.snapshot = snapshot;
  }

  get(): unknown {
    return this.snapshot;
  }

  on(name: string, callback: Listener): void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(callback));
  }

  off(name: string, callback: Listener): void {
    this.#listeners.get(name)?.delete(callback);
  }

  send(command: AnyCommand, _callbacks?: unknown, buffers: ArrayBuffer[] = []): void {
    this.sent.push(command);
    this.buffers.push(buffers);
  }

  /** A second object for the same model, as anywidget makes one for each call. */
  proxy(): HostModel {
    return {
      get: () => this.get(),
      on: (name, callback) => this.on(name, callback),
      off: (name, callback) => this.off(name, callback),
      send: (command, callbacks, buffers) => this.send(command, callbacks, buffers),
    };
  }

  get listening(): number {
    return [...this.#listeners.values()].reduce((sum, { size }) => sum + size, 0);
  }

  receive(message: unknown): void {
    for (const listener of this.#listeners.get("msg:custom") ?? []) {
      (listener as (message: unknown, buffers: unknown[]) => void)(message, []);
    }
  }

  event<K extends AnyEvent["kind"]>(
    kind: K,
    seq: number,
    body: Extract<AnyEvent, { kind: K }>["body"],
  ): void {
    this.receive({ v: PROTOCOL_VERSION, kind, seq, job: null, body });
  }

  syncTrait(snapshot: Snapshot): void {
    this.snapshot = snapshot;
    for (const listener of this.#listeners.get("change:snapshot") ?? []) listener();
  }

  commands(name: AnyCommand["name"]): AnyCommand[] {
    return this.sent.filter((command) => command.name === name);
  }

  last(name: AnyCommand["name"]): AnyCommand {
    const command = this.commands(name).at(-1);
    if (!command) throw new Error(`No ${name} was sent.`);
    return command;
  }

  ack(command: AnyCommand, text = ""): void {
    this.receive({ v: PROTOCOL_VERSION, kind: "ack", id: command.id, job: null, text });
  }

  refuse(command: AnyCommand, body: Problem): void {
    this.receive({ v: PROTOCOL_VERSION, kind: "error", id: command.id, body });
  }
}
