import type { ModelItem } from "../protocol";

/** The items that hold every word of the text in their name, reference or facts. */
export function matching(items: readonly ModelItem[], text: string): ModelItem[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return items.filter((item) => {
    const about = `${item.name} ${item.reference} ${item.facts}`.toLowerCase();
    return words.every((word) => about.includes(word));
  });
}
