/**
 * Sends values one at a time: while one is under way, of those that follow only the latest
 * waits. So a drag never makes a queue, however slow the kernel is.
 */
export class Latest<T> {
  #send: (value: T) => Promise<unknown>;
  #restMs: number;
  #stays: (value: T) => boolean;
  #busy = false;
  #running: Promise<void> = Promise.resolve();
  #waiting: T[] = [];

  /**
   * `restMs` is the least time between two values. A value that `stays` is never left out for a
   * later one: where a drag has ended, say.
   */
  constructor(
    send: (value: T) => Promise<unknown>,
    restMs: number,
    stays: (value: T) => boolean = () => false,
  ) {
    this.#send = send;
    this.#restMs = restMs;
    this.#stays = stays;
  }

  push(value: T): void {
    this.#waiting = [...this.#waiting.filter(this.#stays), value];
    if (!this.#busy) this.#running = this.#run();
  }

  /** Resolves when nothing waits and nothing is under way. */
  get idle(): Promise<void> {
    return this.#running;
  }

  async #run(): Promise<void> {
    this.#busy = true;
    for (let value = this.#waiting.shift(); value !== undefined; value = this.#waiting.shift()) {
      await Promise.all([this.#send(value), rest(this.#restMs)]);
    }
    this.#busy = false;
  }
}

function rest(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
