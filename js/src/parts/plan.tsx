import "../style/plan.css";
import type { Figure, PlanView } from "../protocol";
import { MemoryMap } from "./memory-map";
import { PlanChanges } from "./plan-changes";
import { PlanFields } from "./plan-fields";
import { PlanTimes } from "./plan-times";
import { PlanTools } from "./plan-tools";
import type { PartProps } from "./props";
import { stepKey } from "./step-key";

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
    <section
      aria-label="Plan"
      class="ollm-part ollm-plan"
      onKeyDown={(event) => {
        const step = stepKey(event);
        if (!step) return;
        event.preventDefault();
        void session.moves.heard.then(() => session.link.ask(step, {}));
      }}
    >
      <PlanTools plan={plan} session={session} withCopy={withCopy} />
      <PlanFields fields={plan.fields} session={session} />
      <MemoryMap plan={plan} session={session} />
      <Verdict plan={plan} />
    </section>
  );
}

function Verdict({ plan }: { plan: PlanView }) {
  return (
    <div class={plan.executable ? "ollm-verdict" : "ollm-verdict ollm-verdict-no"}>
      <div class="ollm-verdict-head">
        {plan.figures.length > 0 && (
          <dl class="ollm-figures">
            {plan.figures.map((figure) => (
              <FigureCell key={figure.unit} figure={figure} />
            ))}
          </dl>
        )}
        <div class="ollm-verdict-text">
          <strong role="status">{plan.headline}</strong>
          <span class="ollm-dim"> {plan.reason}</span>
          {plan.correction && <p class="ollm-dim">{plan.correction}</p>}
        </div>
      </div>
      <PlanChanges changes={plan.changes} quiet={plan.planning} />
      <PlanTimes times={plan.times} />
      <Story key={String(plan.executable)} plan={plan} />
    </div>
  );
}

/** Why the plan is as it is; open where that is what a person needs to know. */
function Story({ plan }: { plan: PlanView }) {
  if (plan.story === "" && plan.notes.length === 0) return null;
  return (
    <details class="ollm-fold" open={!plan.executable}>
      <summary>Why this plan</summary>
      {plan.story && <p class="ollm-story">{plan.story}</p>}
      {plan.notes.length > 0 && (
        <ul class="ollm-notes ollm-dim">
          {plan.notes.map((note) => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
    </details>
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
