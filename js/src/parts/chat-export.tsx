import { useEffect, useState } from "preact/hooks";
import { copyText } from "./clipboard";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";

const SHOWN_MS = 3_000;

/** The whole conversation, to take elsewhere. */
export function ChatExport({ session }: PartProps) {
  const { ask, problem, dismiss } = useAsk(session);
  const [said, setSaid] = useState("");

  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [said]);

  async function copy(form: "markdown" | "python"): Promise<void> {
    const outcome = await ask("export", { form });
    if (!outcome.ok) return;
    setSaid((await copyText(outcome.text)) ? "Copied" : "The browser did not allow copying");
  }

  async function save(): Promise<void> {
    const outcome = await ask("export", { form: "markdown" });
    if (outcome.ok) saveText(outcome.text, "conversation.md");
  }

  return (
    <div class="ollm-chat-panel">
      <div class="ollm-choices">
        <button type="button" onClick={() => void copy("markdown")}>
          Copy as Markdown
        </button>
        <button type="button" onClick={() => void save()}>
          Save as Markdown
        </button>
        <button type="button" onClick={() => void copy("python")}>
          Copy as Python
        </button>
        <span role="status" class="ollm-dim ollm-small">
          {said}
        </span>
      </div>
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </div>
  );
}

/** Offer a text to the browser as a file to be saved. */
function saveText(text: string, name: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  URL.revokeObjectURL(address);
}
