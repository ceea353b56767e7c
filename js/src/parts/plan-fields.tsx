import { useState } from "preact/hooks";
import type { Field } from "../protocol";
import { PlanField } from "./plan-field";
import type { PartProps } from "./props";

/** The fields of the plan; those that are rarely used are folded. */
export function PlanFields({ fields, session }: { fields: readonly Field[] } & PartProps) {
  const [opened, setOpened] = useState(false);
  const often = fields.filter((field) => !field.rare);
  const rare = fields.filter((field) => field.rare);
  const set = rare.filter((field) => field.value !== "").length;
  const wrong = rare.some((field) => field.error !== "");
  const grid = (shown: readonly Field[]) => (
    <div class="ollm-fields">
      {shown.map((field) => (
        <PlanField key={field.name} field={field} session={session} />
      ))}
    </div>
  );
  return (
    <>
      {grid(often)}
      {rare.length > 0 && (
        <details
          class="ollm-fold"
          // An error is never folded away.
          open={opened || wrong}
          onToggle={(event) => setOpened(event.currentTarget.open)}
        >
          <summary>
            More settings
            {set > 0 && <span class="ollm-dim"> · {set} chosen</span>}
          </summary>
          {grid(rare)}
        </details>
      )}
    </>
  );
}
