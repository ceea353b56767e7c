import { useEffect, useState } from "preact/hooks";
import { copyText } from "../parts/clipboard";

const SHOWN_MS = 2_000;

interface Props {
  /** Accessible name, which begins with "Copy". */
  name: string;
  text: () => string;
}

/** Puts a text on the clipboard and says so for a moment. */
export function CopyButton({ name, text }: Props) {
  const [said, setSaid] = useState("");

  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [said]);

  async function copy(): Promise<void> {
    setSaid((await copyText(text())) ? "Copied" : "The browser did not allow copying");
  }

  return (
    <span class="ollm-copy">
      <span role="status" class="ollm-dim ollm-small">
        {said}
      </span>
      <button type="button" class="ollm-quiet" aria-label={name} onClick={() => void copy()}>
        Copy
      </button>
    </span>
  );
}
