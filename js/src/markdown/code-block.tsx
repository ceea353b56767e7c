import "../style/code.css";
import { useMemo } from "preact/hooks";
import { CopyButton } from "./copy-button";
import { highlight } from "./highlight";
import { useIsWide } from "./scroller";

interface Props {
  text: string;
  language: string;
  /** More of it may come: then it is not coloured yet. */
  growing: boolean;
}

/** Code with the name of its language and a button that copies it. */
export function CodeBlock({ text, language, growing }: Props) {
  const { box, wide } = useIsWide<HTMLPreElement>();
  const pieces = useMemo(
    () => (growing ? undefined : highlight(text, language)),
    [text, language, growing],
  );
  return (
    <div class="ollm-code">
      <div class="ollm-code-head">
        <span class="ollm-dim ollm-small">{language.slice(0, 24)}</span>
        <CopyButton name="Copy code" text={() => text} />
      </div>
      <pre ref={box} {...(wide && { tabIndex: 0, role: "group", "aria-label": "Code" })}>
        <code>
          {pieces
            ? pieces.map((piece, index) =>
                piece.kind ? (
                  <span key={index} class={`ollm-hl-${piece.kind}`}>
                    {piece.text}
                  </span>
                ) : (
                  piece.text
                ),
              )
            : text}
        </code>
      </pre>
    </div>
  );
}
