import DOMPurify from "dompurify";

// MathML Core, without its links and what can hold HTML.
const TAGS = [
  "math",
  "menclose",
  "merror",
  "mfrac",
  "mi",
  "mmultiscripts",
  "mn",
  "mo",
  "mover",
  "mpadded",
  "mphantom",
  "mprescripts",
  "mroot",
  "mrow",
  "ms",
  "mspace",
  "msqrt",
  "mstyle",
  "msub",
  "msubsup",
  "msup",
  "mtable",
  "mtd",
  "mtext",
  "mtr",
  "munder",
  "munderover",
];
const ATTRIBUTES = [
  "accent",
  "accentunder",
  "class",
  "columnspan",
  "depth",
  "display",
  "displaystyle",
  "fence",
  "form",
  "height",
  "largeop",
  "linethickness",
  "lspace",
  "mathbackground",
  "mathcolor",
  "mathvariant",
  "maxsize",
  "minsize",
  "movablelimits",
  "rowspan",
  "rspace",
  "scriptlevel",
  "separator",
  "stretchy",
  "style",
  "symmetric",
  "voffset",
  "width",
];

// Nothing that could leave its place on the page, cover another part of it or load.
const PROPERTIES =
  /^(?:color|background-color|(?:padding|border)(?:-(?:top|right|bottom|left|width|style|color))?|width|math-depth|math-style|math-shift|text-align|font-size|font-weight|font-style)$/;
const VALUE = /^[\w\s.#%+-]{1,60}$/;
const CLASS = /^tml-[\w-]+$/;

const purifier = DOMPurify(window);

purifier.addHook("uponSanitizeAttribute", (_node, attribute) => {
  if (attribute.attrName === "class") keepOnly(attribute, " ", (name) => CLASS.test(name));
  if (attribute.attrName === "style") keepOnly(attribute, ";", isHarmless);
});

/** MathML that a formula may become: what is drawn, nothing that loads, acts or is named. */
export function sanitizeMath(mathml: string): DocumentFragment {
  return purifier.sanitize(mathml, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ADD_URI_SAFE_ATTR: ATTRIBUTES,
    RETURN_DOM_FRAGMENT: true,
  });
}

function keepOnly(
  attribute: { attrValue: string; keepAttr: boolean },
  between: string,
  isKept: (part: string) => boolean,
): void {
  attribute.attrValue = attribute.attrValue.split(between).filter(isKept).join(between);
  if (!attribute.attrValue) attribute.keepAttr = false;
}

function isHarmless(declaration: string): boolean {
  const [property = "", value = "", ...more] = declaration.split(":");
  return more.length === 0 && PROPERTIES.test(property.trim()) && VALUE.test(value.trim());
}
