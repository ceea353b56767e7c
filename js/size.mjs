// Prints the gzipped size of each bundle; fails when one is above the limit.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const LIMIT_BYTES = 60_000;
// These draw what a model says: Markdown, code and formulas.
const LIMIT_WITH_CHAT_BYTES = 140_000;
const WITH_CHAT = ["chat.js", "workbench.js"];
const folder = join(dirname(fileURLToPath(import.meta.url)), "..", "ollm_widgets", "static");

const sizeBytes = (name) => gzipSync(readFileSync(join(folder, name)), { level: 9 }).length;

let tooLarge = false;
for (const script of readdirSync(folder).filter((name) => name.endsWith(".js"))) {
  const style = script.replace(/\.js$/, ".css");
  const total = sizeBytes(script) + sizeBytes(style);
  const limit = WITH_CHAT.includes(script) ? LIMIT_WITH_CHAT_BYTES : LIMIT_BYTES;
  const over = total > limit;
  tooLarge ||= over;
  console.log(
    `${script.padEnd(20)} ${(total / 1000).toFixed(1).padStart(6)} kB gzipped${over ? "  too large" : ""}`,
  );
}
if (tooLarge) {
  const limits = `${LIMIT_BYTES / 1000} kB (with the chat ${LIMIT_WITH_CHAT_BYTES / 1000} kB)`;
  console.error(`A widget is above ${limits}: remove what it does not need.`);
  process.exit(1);
}
