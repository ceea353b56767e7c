import { useEffect, useRef, useState } from "preact/hooks";

interface Typed {
  /** What stands in the field. */
  text: string;
  onInput: (text: string) => void;
  onFocus: () => void;
  onBlur: () => void;
}

/**
 * A field whose value the kernel holds. What a person types is sent when they pause or leave, and
 * stays as it was typed while they are there.
 */
export function useTyped(value: string, afterMs: number, send: (text: string) => void): Typed {
  const [draft, setDraft] = useState<string | null>(null);
  const focused = useRef(false);
  const unsent = useRef<string | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);

  useEffect(() => {
    if (!focused.current) setDraft(null);
  }, [value]);

  useEffect(() => () => clearTimeout(timer.current), []);

  function flush(): void {
    clearTimeout(timer.current);
    const text = unsent.current;
    unsent.current = null;
    if (text !== null) send(text);
  }

  return {
    text: draft ?? value,
    onInput: (text) => {
      setDraft(text);
      unsent.current = text;
      clearTimeout(timer.current);
      timer.current = setTimeout(flush, afterMs);
    },
    onFocus: () => {
      focused.current = true;
    },
    onBlur: () => {
      focused.current = false;
      flush();
      if (draft === value) setDraft(null);
    },
  };
}
