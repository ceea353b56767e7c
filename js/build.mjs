// Builds one self-contained module and one stylesheet for each widget.
import { readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const entries = readdirSync(join(here, "src", "widgets"))
  .filter((file) => file.endsWith(".tsx"))
  .sort();

await build({
  absWorkingDir: here,
  entryPoints: Object.fromEntries(
    entries.map((file) => [basename(file, ".tsx"), join("src", "widgets", file)]),
  ),
  outdir: join(here, "..", "ollm_widgets", "static"),
  bundle: true,
  format: "esm",
  minify: true,
  charset: "utf8",
  legalComments: "eof",
  target: ["es2022", "chrome123", "firefox120", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  define: { "process.env.NODE_ENV": '"production"' },
  logLevel: "warning",
});
