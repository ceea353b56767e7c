import DOMPurify from "dompurify";

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
const ATTRIBUTES = ["align", "colspan", "href", "rowspan", "start", "title"];

// An own instance: hooks on the shared one would reach whatever else the page purifies.
const purifier = DOMPurify(window);

// A picture address alone can carry what the model has read to another server.
purifier.addHook("uponSanitizeElement", (node, { tagName }) => {
  if (tagName === "img" && node instanceof Element) {
    const alt = node.getAttribute("alt");
    node.replaceWith(node.ownerDocument.createTextNode(alt ? `[image: ${alt}]` : "[image]"));
  }
});

purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
});

/** HTML that a model's Markdown may become: text structure and links, nothing that loads or acts. */
export function sanitize(html: string): string {
  return purifier.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  });
}
