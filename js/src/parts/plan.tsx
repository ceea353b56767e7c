import "../style/plan.css";
import type { Figure } from "../protocol";
import { CopyCode } from "./copy-code";
import { MemoryMap } from "./memory-map";
import { PlanField } from "./plan-field";
import type { PartProps } from "./props";

interface Props extends PartProps {
  /** Off where something around this part has the button already. */
  withCopy?: boolean;
}

/** Region `Plan`: what would run, whether it fits, how fast, and the fields to change it. */
export function Plan({ session, withCopy = true }: Props) {
  const plan = session.view.plan.value;
  if (!plan) {
    return (
      <section aria-label="Plan" class="ollm-part ollm-plan">
        <p class="ollm-empty">Pick a model to see whether it fits.</p>
      </section>
    );
  }
  return (
    <section aria-label="Plan" class="ollm-part ollm-plan">
      <div class="ollm-fields">
        {plan.fields.map((field) => (
          <PlanField key={field.name} field={field} session={session} />
        ))}
      </div>
      <MemoryMap bars={plan.bars} />
      <div class={plan.executable ? "ollm-verdict" : "ollm-verdict ollm-verdict-no"}>
        {plan.figures.length > 0 && (
          <dl class="ollm-figures">
            {plan.figures.map((figure, index) => (
              <FigureCell key={index} figure={figure} />
            ))}
          </dl>
        )}
        <div class="ollm-verdict-text" role="status">
          <strong>{plan.headline}</strong>
          <span class="ollm-dim"> {plan.reason}</span>
          {plan.notes.length > 0 && (
            <ul class="ollm-notes ollm-dim">
              {plan.notes.map((note, index) => (
                <li key={index}>{note}</li>
              ))}
            </ul>
          )}
        </div>
        {withCopy && <CopyCode code={plan.code} />}
      </div>
    </section>
  );
}

function FigureCell({ figure }: { figure: Figure }) {
  return (
    <div title={figure.explanation || undefined}>
      <dt class="ollm-dim ollm-small">{figure.unit}</dt>
      <dd class="ollm-number">{figure.value}</dd>
    </div>
  );
}
