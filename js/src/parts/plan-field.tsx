import { useEffect, useRef, useState } from "preact/hooks";
import type { EditBody, Field } from "../protocol";
import { PlanChoice } from "./plan-choice";
import type { ControlProps } from "./plan-control";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";
import { useId } from "./use-id";

const EDIT_AFTER_MS = 250;
/** A size is wrong until its unit is there. */
const SIZE_AFTER_MS = 900;

/** One field of the plan. What a person types stays until the kernel has answered it. */
export function PlanField({ field, session }: { field: Field } & PartProps) {
  const { ask, problem, dismiss } = useAsk(session);
  const id = useId();
  const [draft, setDraft] = useState<string | null>(null);
  const focused = useRef(false);
  const unsent = useRef<string | null>(null);
  const unanswered = useRef(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);

  // A new view of the field is the kernel's answer; whoever still types keeps the text.
  useEffect(() => {
    unanswered.current = false;
    if (!focused.current || field.kind === "choice") setDraft(null);
  }, [field]);

  useEffect(() => () => clearTimeout(timer.current), []);

  function flush(): void {
    clearTimeout(timer.current);
    if (unsent.current === null) return;
    const value = unsent.current;
    unsent.current = null;
    unanswered.current = true;
    // The schema names the fields that can be edited; the kernel sends no others.
    void ask("edit", { field: field.name as EditBody["field"], value }).then((outcome) => {
      if (!outcome.ok) unanswered.current = false;
    });
  }

  function edit(value: string, afterMs: number): void {
    setDraft(value);
    unsent.current = value;
    clearTimeout(timer.current);
    if (afterMs === 0) flush();
    else timer.current = setTimeout(flush, afterMs);
  }

  function onBlur(): void {
    focused.current = false;
    flush();
    if (!unanswered.current && !problem) setDraft(null);
  }

  const isSize = field.kind === "size";
  const control = {
    id,
    field,
    value: draft ?? field.value,
    describedBy: field.error ? `${id}-help ${id}-error` : `${id}-help`,
  };
  return (
    <div
      class="ollm-field"
      title={field.disabled || field.help || undefined}
      onFocusIn={() => {
        focused.current = true;
      }}
      onFocusOut={onBlur}
    >
      <label for={id}>{field.label}</label>
      {field.kind === "choice" ? (
        <PlanChoice {...control} onEdit={(value) => edit(value, 0)} />
      ) : (
        <PlanText
          {...control}
          onEdit={(value) => edit(value.trim(), isSize ? SIZE_AFTER_MS : EDIT_AFTER_MS)}
          onEnter={flush}
        />
      )}
      <span id={`${id}-help`} class="ollm-hidden">
        {[field.disabled, field.help, field.value === "" ? field.automatic : ""]
          .filter(Boolean)
          .join(" ")}
      </span>
      {field.error && (
        <span id={`${id}-error`} class="ollm-field-error">
          {field.error}
        </span>
      )}
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </div>
  );
}

function PlanText({
  id,
  field,
  value,
  describedBy,
  onEdit,
  onEnter,
}: ControlProps & { onEnter: () => void }) {
  return (
    <input
      id={id}
      inputMode={field.kind === "count" ? "numeric" : "text"}
      autocomplete="off"
      spellcheck={false}
      placeholder={field.automatic}
      value={value}
      disabled={field.disabled !== ""}
      aria-describedby={describedBy}
      aria-invalid={field.error !== ""}
      onInput={(event) => onEdit(event.currentTarget.value)}
      onKeyDown={(event) => event.key === "Enter" && onEnter()}
    />
  );
}
