import { useEffect, useState } from "preact/hooks";
import { copyText } from "./clipboard";

const SHOWN_MS = 2_000;

/** Copies the Python that rebuilds the plan. */
export function CopyCode({ code }: { code: string }) {
  const [said, setSaid] = useState("");

  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [said]);

  async function copy(): Promise<void> {
    setSaid((await copyText(code)) ? "Copied" : "The browser did not allow copying");
  }

  return (
    <span class="ollm-copy">
      <span role="status" class="ollm-dim">
        {said}
      </span>
      <button type="button" disabled={!code} onClick={() => void copy()}>
        Copy as code
      </button>
    </span>
  );
}
