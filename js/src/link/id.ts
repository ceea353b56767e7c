// Random, so that two pages of one kernel do not take each other's replies. Not
// crypto.randomUUID: that is missing where Jupyter is served over plain http.
const page = [...crypto.getRandomValues(new Uint8Array(8))]
  .map((byte) => byte.toString(16).padStart(2, "0"))
  .join("");

let last = 0;

/** An id that no other command, and no element of another widget, has. */
export function freshId(): string {
  last += 1;
  return `${page}-${last}`;
}
