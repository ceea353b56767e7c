import { Marked, type Token } from "marked";
import { sanitize } from "./sanitize";

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    image: ({ text }) => escapeHtml(text ? `[image: ${text}]` : "[image]"),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** Sanitised HTML of each block, kept so that a growing text redraws only its last one. */
export class Blocks {
  #html = new Map<string, string>();

  render(text: string): string[] {
    const tokens = marked.lexer(text);
    // A link definition further down changes blocks above it.
    const links = JSON.stringify(tokens.links);
    const used = new Map<string, string>();
    const blocks: string[] = [];
    for (const token of tokens) {
      if (token.type === "space" || token.type === "def") continue;
      const key = `${links}\n${token.raw}`;
      const html = this.#html.get(key) ?? toHtml(token);
      used.set(key, html);
      blocks.push(html);
    }
    this.#html = used;
    return blocks;
  }
}

function toHtml(token: Token): string {
  return sanitize(marked.parser([token]));
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
