// Writes src/protocol.ts from the JSON Schema of the kernel's messages:
//   python -m ollm_widgets.protocol | npm run -s protocol
// or, with the schema in a file:
//   npm run -s protocol -- schema.json
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "json-schema-to-typescript";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "src", "protocol.ts");
const source = process.argv[2] ?? 0;
const schema = JSON.parse(readFileSync(source, "utf8"));
const definitions = schema.$defs;

function reachable(root, found = new Set()) {
  for (const [, name] of JSON.stringify(definitions[root]).matchAll(/"#\/\$defs\/(\w+)"/g)) {
    if (!found.has(name)) {
      found.add(name);
      reachable(name, found);
    }
  }
  return found;
}

const roots = ["AnyEvent", "AnyReply", "Snapshot"];
const down = new Set(roots.flatMap((root) => [root, ...reachable(root)]));

// The reader fills in defaults, so for what comes down every property is present.
for (const name of down) {
  const definition = definitions[name];
  if (definition.properties) definition.required = Object.keys(definition.properties);
}

const types = await compile(schema, "Protocol", { bannerComment: "", additionalProperties: false });

function bare(node) {
  if (Array.isArray(node)) return node.map(bare);
  if (typeof node !== "object" || node === null) return node;
  const kept = {};
  for (const [key, value] of Object.entries(node)) {
    if (key === "properties") {
      kept[key] = Object.fromEntries(Object.entries(value).map(([k, v]) => [k, bare(v)]));
    } else if (key === "$ref") {
      kept[key] = value.replace("#/$defs/", "");
    } else if (["type", "enum", "anyOf", "items"].includes(key)) {
      kept[key] = bare(value);
    } else if (key === "default") {
      kept[key] = value;
    }
  }
  return kept;
}

const shapes = Object.fromEntries([...down].sort().map((name) => [name, bare(definitions[name])]));

function byKind(union) {
  return Object.fromEntries(
    definitions[union].anyOf.map(({ $ref }) => {
      const name = $ref.replace("#/$defs/", "");
      return [definitions[name].properties.kind.enum[0], name];
    }),
  );
}

const text = `// Generated from the schema in ollm_widgets/protocol, do not edit: see protocol.mjs.

${types}
export const PROTOCOL_VERSION = ${schema.properties.version.const};

/** The struct of each event, by its kind. */
export const EVENTS: Record<string, string> = ${JSON.stringify(byKind("AnyEvent"))};

/** The struct of each reply, by its kind. */
export const REPLIES: Record<string, string> = ${JSON.stringify(byKind("AnyReply"))};

/** The shape of everything that comes down, for the reader of messages. */
export const SHAPES: Record<string, unknown> = ${JSON.stringify(shapes)};
`;

writeFileSync(target, text);
execFileSync(join(here, "node_modules", ".bin", "biome"), ["format", "--write", target], {
  cwd: here,
  stdio: ["ignore", "ignore", "inherit"],
});
