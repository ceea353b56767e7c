import { type ComponentChild, h } from "preact";
import { CodeBlock } from "./code-block";
import { LANGUAGE_CLASS, sanitize } from "./sanitize";
import { Scroller } from "./scroller";
import { TEX, TEX_BLOCK } from "./tex-marks";
import { Tex } from "./tex-view";

/** Deeper than any text that is meant to be read; what is inside becomes text. */
const MOST_LEVELS = 60;
const LONG_CELL = 24;

/**
 * Untrusted HTML as elements of the page. Made of the sanitised document, node by node, so that a
 * growing text changes only what is new, and code, tables and formulas get their own parts.
 */
export function draw(html: string, growing: boolean): ComponentChild[] {
  return children(sanitize(html), { growing, level: 0 });
}

interface Place {
  growing: boolean;
  level: number;
}

function children(parent: ParentNode & Node, { growing, level }: Place): ComponentChild[] {
  return Array.from(parent.childNodes, (node) => one(node, { growing, level: level + 1 }));
}

function one(node: Node, place: Place): ComponentChild {
  if (node.nodeType === Node.TEXT_NODE) return node.nodeValue;
  if (!(node instanceof Element)) return null;
  if (place.level > MOST_LEVELS) return node.textContent;
  const name = node.localName;
  const code = name === "pre" ? onlyChild(node, "code") : undefined;
  if (code) return <CodeBlock {...codeOf(code)} growing={place.growing} />;
  if (name === "table") return <Scroller label="Table">{element(node, place)}</Scroller>;
  if (name === "span" && (node.className === TEX || node.className === TEX_BLOCK)) {
    return <Tex tex={node.textContent ?? ""} display={node.className === TEX_BLOCK} />;
  }
  return element(node, place);
}

function element(node: Element, place: Place): ComponentChild {
  const attributes: Record<string, string> = {};
  for (const { name, value } of node.attributes) {
    if (name !== "class") attributes[name] = value;
  }
  if (isLongCell(node)) attributes.class = "ollm-long";
  return h(node.localName, attributes, ...children(node, place));
}

/** A cell with more than a few words, which a narrow table would squeeze to one word a line. */
function isLongCell(node: Element): boolean {
  const isCell = node.localName === "td" || node.localName === "th";
  return isCell && (node.textContent ?? "").length > LONG_CELL;
}

function onlyChild(node: Element, name: string): Element | undefined {
  const [child, ...more] = node.childNodes;
  return child instanceof Element && child.localName === name && !more.length ? child : undefined;
}

function codeOf(code: Element): { text: string; language: string } {
  const language = LANGUAGE_CLASS.exec(code.className)?.[1] ?? "";
  return { text: (code.textContent ?? "").replace(/\n$/, ""), language };
}
