import type { ControlProps } from "./plan-control";

/** A native select; what cannot be chosen stays in the list with its reason. */
export function PlanChoice({ id, field, value, describedBy, onEdit }: ControlProps) {
  const automatic = field.choices.some((choice) => choice.value === "");
  return (
    <select
      id={id}
      value={value}
      disabled={field.disabled !== ""}
      aria-describedby={describedBy}
      aria-invalid={field.error !== ""}
      onChange={(event) => onEdit(event.currentTarget.value)}
    >
      {!automatic && <option value="">{field.automatic}</option>}
      {field.choices.map((choice) => (
        <option
          key={choice.value}
          value={choice.value}
          disabled={choice.disabled !== ""}
          title={choice.disabled || choice.help || undefined}
        >
          {choice.disabled ? `${choice.label} (${choice.disabled})` : choice.label}
        </option>
      ))}
    </select>
  );
}
