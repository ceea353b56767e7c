// As much of the accessibility tree as these tests locate by; browser tests use the real one.
const IMPLICIT: Record<string, string> = {
  button: "button",
  textbox: "textarea, input:not([type=search])",
  combobox: "select",
  region: "section[aria-label]",
  article: "article",
  listitem: "li",
};

export function all(root: Element, role: string, name?: string): HTMLElement[] {
  const selector = [`[role="${role}"]`, IMPLICIT[role]].filter(Boolean).join(", ");
  return [...root.querySelectorAll<HTMLElement>(selector)].filter(
    (element) => name === undefined || nameOf(element) === name,
  );
}

export function find(root: Element, role: string, name?: string): HTMLElement {
  const [first] = all(root, role, name);
  if (!first) throw new Error(`No ${role} ${name ?? ""} in ${root.innerHTML}`);
  return first;
}

/** The accessible name, as far as these tests need it. */
export function nameOf(element: HTMLElement): string {
  const label = element.getAttribute("aria-label");
  if (label !== null) return label;
  const labelledBy = element.getAttribute("aria-labelledby");
  if (labelledBy !== null) {
    return element.ownerDocument.getElementById(labelledBy)?.textContent ?? "";
  }
  if (element.id) {
    const labelled = element.ownerDocument.querySelector(`label[for="${element.id}"]`);
    if (labelled) return labelled.textContent ?? "";
  }
  const copy = element.cloneNode(true) as HTMLElement;
  for (const hidden of copy.querySelectorAll("[aria-hidden=true]")) hidden.remove();
  return (copy.textContent ?? "").trim();
}
