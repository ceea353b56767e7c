import type { AnyCommand } from "../protocol";

/**
 * What the page uses of an anywidget model. Trait writes are left out on purpose: the page
 * holds no truth, and a write would race with the kernel's own.
 */
export interface HostModel {
  get(name: "snapshot"): unknown;
  on(name: string, callback: (...args: never[]) => void): void;
  off(name: string, callback: (...args: never[]) => void): void;
  send(content: AnyCommand, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
}
