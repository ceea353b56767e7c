import temml from "temml/temml.js";
import { sanitizeMath } from "./sanitize-math";

const MOST_CHARACTERS = 4_000;
const MOST_MARKUP = 200_000;

/** A formula as sanitised MathML; undefined where it is not TeX, or is too much of it. */
export function toMathml(tex: string, display: boolean): DocumentFragment | undefined {
  if (tex.length > MOST_CHARACTERS) return undefined;
  try {
    const markup = temml.renderToString(tex, {
      displayMode: display,
      throwOnError: true,
      trust: false,
      // A macro that doubles itself would fill the page.
      maxExpand: 100,
      // In em: a rule or a space can be as wide as the text.
      maxSize: [30, 30],
    });
    return markup.length > MOST_MARKUP ? undefined : sanitizeMath(markup);
  } catch {
    // Half a formula throws errors of every kind, exhaustion of the stack included.
    return undefined;
  }
}
