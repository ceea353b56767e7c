import bash from "@speed-highlight/core/languages/bash.js";
import c from "@speed-highlight/core/languages/c.js";
import css from "@speed-highlight/core/languages/css.js";
import diff from "@speed-highlight/core/languages/diff.js";
import go from "@speed-highlight/core/languages/go.js";
import html from "@speed-highlight/core/languages/html.js";
import java from "@speed-highlight/core/languages/java.js";
import js from "@speed-highlight/core/languages/js.js";
import json from "@speed-highlight/core/languages/json.js";
import md from "@speed-highlight/core/languages/md.js";
import py from "@speed-highlight/core/languages/py.js";
import rs from "@speed-highlight/core/languages/rs.js";
import sql from "@speed-highlight/core/languages/sql.js";
import ts from "@speed-highlight/core/languages/ts.js";
import xml from "@speed-highlight/core/languages/xml.js";
import yaml from "@speed-highlight/core/languages/yaml.js";
import {
  type ShjGrammar,
  type ShjLanguageData,
  type ShjToken,
  tokenizeWith,
} from "@speed-highlight/core/tokenize";

/** A piece of code and what it is, which markdown.css gives a colour; "" is plain. */
export interface Piece {
  text: string;
  kind: ShjToken | "";
}

const CPP_WORDS =
  "alignas bool catch class concept const_cast constexpr decltype delete dynamic_cast explicit " +
  "export final friend inline mutable namespace new noexcept nullptr operator override private " +
  "protected public reinterpret_cast requires static_assert static_cast template this throw try " +
  "typeid typename using virtual";
const cpp: ShjGrammar = [
  ...(c as unknown as ShjGrammar),
  { type: "kwd", match: new RegExp(`\\b(${CPP_WORDS.replaceAll(" ", "|")})\\b`, "g") },
  { type: "bool", match: /\b(true|false)\b/g },
];

/** What else a language is called after the three marks. */
const NAMES = {
  bash: "sh shell zsh console shell-session",
  c: "h",
  cpp: "c++ cc cxx hpp cuda cu",
  css: "",
  diff: "patch",
  go: "golang",
  html: "vue svelte",
  java: "kotlin scala",
  js: "javascript jsx mjs cjs node",
  json: "jsonl json5 jsonc ipynb",
  md: "markdown",
  py: "python python3 py3 ipython pycon",
  rs: "rust",
  sql: "mysql postgresql postgres sqlite",
  ts: "typescript tsx",
  xml: "svg",
  yaml: "yml",
};

// By the library's own names, under which one grammar asks for another. Its types do not fit
// together where an optional field may not be undefined.
const GRAMMARS = {
  bash,
  c,
  cpp,
  css,
  diff,
  go,
  html,
  java,
  js,
  json,
  md,
  py,
  rs,
  sql,
  ts,
  xml,
  yaml,
} as unknown as Record<keyof typeof NAMES, ShjLanguageData>;

// A map: an object would know a language called "constructor".
const BY_NAME = new Map(
  Object.entries(NAMES).flatMap(([key, names]) =>
    [key, ...names.split(" ").filter(Boolean)].map((name) => [
      name,
      GRAMMARS[key as keyof typeof NAMES],
    ]),
  ),
);

// Above these, some of the expressions take time that grows with the square of a run's length.
const MOST_CHARACTERS = 20_000;
const LONG_RUN = /[\w$.-]{400}|\s{150}/;

/** The code in coloured pieces; undefined where its language is unknown or it is too long. */
export function highlight(code: string, language: string): Piece[] | undefined {
  const grammar = BY_NAME.get(language.toLowerCase());
  if (!grammar || code.length > MOST_CHARACTERS || LONG_RUN.test(code)) return undefined;
  const pieces: Piece[] = [];
  tokenizeWith(code, grammar, (text, kind) => add(pieces, text, kind ?? ""), {
    languages: GRAMMARS,
  });
  return pieces;
}

function add(pieces: Piece[], text: string, kind: Piece["kind"]): void {
  const last = pieces.at(-1);
  if (last?.kind === kind) last.text += text;
  else if (text) pieces.push({ text, kind });
}
