import { Marked, type Token } from "marked";
import { escapeHtml } from "./escape";
import { TEX_MARKS } from "./tex-marks";

const marked = new Marked({
  gfm: true,
  breaks: false,
  extensions: TEX_MARKS,
  renderer: {
    image: ({ text }) => escapeHtml(text ? `[image: ${text}]` : "[image]"),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** The links that a text defines, as JSON. */
const NO_LINKS = "{}";

/** One paragraph, list, table, …; the same object for as long as its text stays as it is. */
export type Block =
  /** Untrusted; made only when the block is drawn. */
  | { is: "html"; html: () => string; source: string }
  /** Code that is a block of its own needs no HTML. */
  | { is: "code"; text: string; language: string }
  | { is: "plain"; text: string };

/**
 * The blocks of a text that may grow. What has settled, a long answer's blocks but the last few, is
 * not looked at again, so that a step takes no longer at its end than at its beginning.
 */
export class Blocks {
  #text = "";
  #links = NO_LINKS;
  #settled: Block[] = [];
  /** Where what has not settled begins. */
  #offset = 0;
  #moving = new Map<string, Block>();
  #tooDeep: string | undefined;

  read(text: string): Block[] {
    // What follows makes a text no flatter, so that a growing one is not tried again.
    if (this.#tooDeep !== undefined && text.startsWith(this.#tooDeep))
      return [{ is: "plain", text }];
    try {
      return this.#read(text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text);
    } catch (error) {
      // Markdown nested thousands deep, as by a model that repeats one mark, exhausts the stack.
      if (!(error instanceof RangeError)) throw error;
      this.#tooDeep = text;
      return [{ is: "plain", text }];
    }
  }

  #read(text: string): Block[] {
    if (!text.startsWith(this.#text)) this.#forget();
    const tokens = marked.lexer(text.slice(this.#offset));
    const links = JSON.stringify(tokens.links);
    if (links !== NO_LINKS && this.#offset > 0) {
      // A link definition further down changes blocks above it.
      this.#forget();
      return this.#read(text);
    }
    this.#text = text;
    this.#links = links;
    const moving = this.#blocksOf(tokens);
    const read = [...this.#settled, ...moving.values()];
    this.#settle(tokens, moving);
    return read;
  }

  #forget(): void {
    this.#text = "";
    this.#settled = [];
    this.#offset = 0;
  }

  /** Each token's block, the same one as before where the token is. */
  #blocksOf(tokens: readonly Token[]): Map<Token, Block> {
    const used = new Map<string, Block>();
    const blocks = new Map<Token, Block>();
    for (const token of tokens) {
      if (token.type === "space" || token.type === "def") continue;
      const key = `${this.#links}\n${token.raw}`;
      const block = this.#moving.get(key) ?? used.get(key) ?? blockOf(token);
      used.set(key, block);
      blocks.set(token, block);
    }
    this.#moving = used;
    return blocks;
  }

  #settle(tokens: readonly Token[], blocks: ReadonlyMap<Token, Block>): void {
    if (this.#links !== NO_LINKS) return;
    const end = settledTokens(tokens);
    const raw = tokens
      .slice(0, end)
      .map((token) => token.raw)
      .join("");
    if (!this.#text.startsWith(raw, this.#offset)) return;
    for (const token of tokens.slice(0, end)) {
      const block = blocks.get(token);
      if (block) this.#settled.push(block);
    }
    this.#offset += raw.length;
  }
}

/**
 * How many tokens no text that follows can change. A blank line must end them, and of what is after
 * it the first block must be over too: "2" may become "2. b", which belongs to the list above.
 */
function settledTokens(tokens: readonly Token[]): number {
  let after = 0;
  for (let end = tokens.length; end > 0; end -= 1) {
    const token = tokens[end - 1] as Token;
    if (after > 1 && closes(token)) return end;
    if (token.type !== "space") after += 1;
  }
  return 0;
}

/** Some take the blank line that ends them for their own. */
function closes(token: Token): boolean {
  if (!/\n[ \t]*\n$/.test(token.raw)) return false;
  if (token.type === "code") return token.codeBlockStyle !== "indented";
  return token.type === "space" || token.type === "heading" || token.type === "hr";
}

function blockOf(token: Token): Block {
  if (token.type !== "code") {
    return { is: "html", html: () => marked.parser([token]), source: token.raw };
  }
  const [language = ""] = (token.lang ?? "").split(/\s/);
  return { is: "code", text: token.text, language };
}
