import type { TokenizerAndRendererExtension, Tokens } from "marked";
import { escapeHtml } from "./escape";

/** Class of the span that stands for a formula until it is drawn; see draw.tsx. */
export const TEX = "ollm-tex";
export const TEX_BLOCK = "ollm-tex-block";

// `\[ … \]`, `$$ … $$` and the environments that stand for themselves, on lines of their own.
const BLOCK =
  /^ {0,3}(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\]|(\\begin\{(equation|align|gather|alignat|multline)(\*?)\}[\s\S]+?\\end\{\4\5\}))[ \t]*(?=\n|$)/;
const BLOCK_START = /(?:^|\n) {0,3}(?=\$\$|\\\[|\\begin\{(?:equation|align|gather|multline))/;

const DISPLAY = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])/;
const INLINE = /^\\\(([\s\S]+?)\\\)/;
// As Pandoc does: no space inside the marks, and no letter or digit after the last one. What looks
// like two prices or two shell variables is left as it is.
const DOLLARS = /^\$(?![\s$])((?:\\[^\n]|[^\\$`\n])+?)(?<![\s\\])\$(?![\p{L}\p{N}$])/u;
const PRICE = /^[\d.,]+(?:[-–]|\s|\s*(?:million|billion|k|m|bn)?\s*[,;:.)]|\s+\p{L}{2,}|[kKmM]\b)/u;
const SHELL = /^(?:[A-Z_]{2,}\b|[\w]+["'/:;]|[({]\w+[\s)}])/;
const CLEARLY_TEX = /[\\^_=<>+]/;

const BLANK_LINE = /\n[ \t]*\n/;

// Nothing of it needs to be looked for where neither mark occurs.
const INLINE_START = /\$|\\\(|\\\[/;

/** Formulas in a model's Markdown, as `$…$`, `$$…$$`, `\(…\)`, `\[…\]`. */
export const TEX_MARKS: TokenizerAndRendererExtension[] = [
  {
    name: "texBlock",
    level: "block",
    start: (text) => BLOCK_START.exec(text)?.index,
    tokenizer(text) {
      const found = BLOCK.exec(text);
      if (!found || BLANK_LINE.test(found[0])) return undefined;
      return { type: "texBlock", raw: found[0], text: inside(found) };
    },
    renderer: (token) => `${standIn(token, TEX_BLOCK)}\n`,
  },
  {
    name: "tex",
    level: "inline",
    start: (text) => INLINE_START.exec(text)?.index,
    tokenizer(text) {
      const display = DISPLAY.exec(text);
      const found = display ?? INLINE.exec(text) ?? dollars(text);
      if (!found || BLANK_LINE.test(found[0])) return undefined;
      return { type: "tex", raw: found[0], text: inside(found), display: display !== null };
    },
    renderer: (token) => standIn(token, token.display ? TEX_BLOCK : TEX),
  },
];

function dollars(text: string): RegExpExecArray | null {
  const found = DOLLARS.exec(text);
  const tex = found?.[1] ?? "";
  if (!/[\p{L}\p{N}]/u.test(tex)) return null;
  if (!CLEARLY_TEX.test(tex) && (PRICE.test(tex) || SHELL.test(tex) || isProse(tex))) return null;
  return found;
}

/** Words between two signs, as in "a $ sign and a $". */
function isProse(text: string): boolean {
  return /\p{L}{2}\s+\p{L}{2}/u.test(text);
}

function inside(found: RegExpExecArray): string {
  return (found[1] ?? found[2] ?? found[3] ?? "").trim();
}

function standIn(token: Tokens.Generic, name: string): string {
  return `<span class="${name}">${escapeHtml(token.text)}</span>`;
}
