import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

const FOLDER = "src/style";
const TOKENS = "tokens.css";

/** Lengths that say how dense or how loud something is. A left margin places it on a scale. */
const TYPE_AND_SPACE =
  /^(font|font-size|(row-|column-)?gap|(padding|margin)(-(top|right|bottom|block|inline).*)?)$/;
/** A line's own width, and what undoes it. */
const HAIRLINE = /^-?[012](\.5)?px$/;
const COLOR = /#[0-9a-f]{3,8}\b|\b(rgba?|hsla?|oklch|oklab|lab|lch)\(|\blight-dark\(/i;
const LENGTH = /-?\d*\.?\d+(px|rem|pt)\b/g;
const TIME = /(?<![\w-])\d*\.?\d+m?s\b/;

const sheets = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".css"))
  .map((name) => ({ name, text: read(name) }));
const others = sheets.filter(({ name }) => name !== TOKENS);
const tokens = read(TOKENS);

function read(name: string): string {
  return readFileSync(`${FOLDER}/${name}`, "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
}

/** Each `property: value` of a sheet. */
function declarations(text: string): [property: string, value: string][] {
  return [...text.matchAll(/(?<=[{;])\s*([\w-]+)\s*:\s*([^;{}]+);/g)].map(([, property, value]) => [
    property ?? "",
    (value ?? "").trim(),
  ]);
}

const found = (text: string, isStray: (property: string, value: string) => boolean) =>
  declarations(text)
    .filter(([property, value]) => isStray(property, value))
    .map(([property, value]) => `${property}: ${value}`);

describe.each(others)("$name", ({ text }) => {
  test("takes its type and space from the tokens", () => {
    const isStray = (property: string, value: string) =>
      TYPE_AND_SPACE.test(property) &&
      (value.match(LENGTH) ?? []).some((length) => !HAIRLINE.test(length));
    expect(found(text, isStray)).toEqual([]);
  });

  test("takes its radii and its motion from the tokens", () => {
    const isStray = (property: string, value: string) =>
      (property.endsWith("radius") && (value.match(LENGTH) ?? []).length > 0) ||
      (/^(transition|animation)/.test(property) && TIME.test(value));
    expect(found(text, isStray)).toEqual([]);
  });
});

describe.each(others)("$name", ({ text }) => {
  test("takes its colours from the tokens", () => {
    // A palette of its own, such as that of code, is named before it is used.
    const isStray = (property: string, value: string) =>
      !property.startsWith("--ollm-") && COLOR.test(value);
    expect(found(text, isStray)).toEqual([]);
  });

  test("names no token that is not there", () => {
    const named = [...text.matchAll(/var\((--ollm-[\w-]+)/g)].map(([, name]) => name ?? "");
    const local = [...text.matchAll(/(--ollm-[\w-]+)\s*:/g)].map(([, name]) => name ?? "");
    const known = new Set([...declarations(tokens).map(([name]) => name), ...local, ...GIVEN]);
    expect(named.filter((name) => !known.has(name))).toEqual([]);
  });

  test("moves nothing for a person who asked for stillness", () => {
    const still = withoutBlocks(text, "prefers-reduced-motion: no-preference");
    expect(found(still, (property) => /^(transition|animation)$/.test(property))).toEqual([]);
  });
});

/** Variables that a part or another sheet sets. */
const GIVEN = ["--ollm-c", "--ollm-fill", "--ollm-on", "--ollm-count"];

/** The text without the blocks of the media queries that say `condition`. */
function withoutBlocks(text: string, condition: string): string {
  const at = text.indexOf(condition);
  if (at < 0) return text;
  let depth = 0;
  for (let end = text.indexOf("{", at); end < text.length; end++) {
    depth += text[end] === "{" ? 1 : text[end] === "}" ? -1 : 0;
    if (depth === 0) return withoutBlocks(text.slice(0, at) + text.slice(end + 1), condition);
  }
  throw new Error(`The block of ${condition} has no end.`);
}

test("every token is used somewhere", () => {
  const all = sheets.map(({ text }) => text).join("\n");
  const unused = declarations(tokens)
    .map(([name]) => name)
    .filter((name) => name.startsWith("--ollm-") && !all.includes(`var(${name}`));
  expect(unused).toEqual([]);
});
