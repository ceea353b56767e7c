import DOMPurify from "dompurify";
import { TEX, TEX_BLOCK } from "./tex-marks";

const TAGS = [
  "a",
  "b",
  "blockquote",
  "br",
  "code",
  "del",
  "details",
  "em",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "hr",
  "i",
  "kbd",
  "li",
  "mark",
  "ol",
  "p",
  "pre",
  "s",
  "span",
  "strong",
  "sub",
  "summary",
  "sup",
  "table",
  "tbody",
  "td",
  "th",
  "thead",
  "tr",
  "u",
  "ul",
];
const NOT_ADDRESSES = ["align", "class", "colspan", "rowspan", "start", "title"];

/** What a block of code says about itself; draw.tsx reads it and draws none of it. */
export const LANGUAGE_CLASS = /^language-([\w+#.-]{1,24})$/;

// An own instance: hooks on the shared one would reach whatever else the page purifies.
const purifier = DOMPurify(window);

// A picture address alone can carry what the model has read to another server.
purifier.addHook("uponSanitizeElement", (node, { tagName }) => {
  if (tagName === "img" && node instanceof Element) {
    const alt = node.getAttribute("alt");
    node.replaceWith(node.ownerDocument.createTextNode(alt ? `[image: ${alt}]` : "[image]"));
  }
});

// A class could put a text in the clothes of a button of the page.
purifier.addHook("uponSanitizeAttribute", (node, attribute) => {
  if (attribute.attrName !== "class") return;
  const { attrValue: value } = attribute;
  const known =
    node.tagName === "CODE"
      ? LANGUAGE_CLASS.test(value)
      : node.tagName === "SPAN" && (value === TEX || value === TEX_BLOCK);
  if (!known) attribute.keepAttr = false;
});

purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
});

/** What a model's Markdown may become: text structure and links, nothing that loads or acts. */
export function sanitize(html: string): DocumentFragment {
  return purifier.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", ...NOT_ADDRESSES],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    // Else the expression above is asked of them too.
    ADD_URI_SAFE_ATTR: NOT_ADDRESSES,
    RETURN_DOM_FRAGMENT: true,
  });
}
