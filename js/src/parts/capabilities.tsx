import "../style/capabilities.css";
import { Chip } from "./chip";
import type { PartProps } from "./props";

/** Region `Capabilities`: what the chosen model can do here. */
export function Capabilities({ session }: PartProps) {
  const card = session.view.capabilities.value;
  return (
    <section aria-label="Capabilities" class="ollm-part ollm-card ollm-capabilities">
      <div class="ollm-card-head">
        <h3 class="ollm-heading">Capabilities</h3>
        {card && <Chip chip={card.support} />}
      </div>
      {card ? (
        <>
          <strong class="ollm-card-title">{card.title}</strong>
          <dl class="ollm-rows">
            {card.rows.map((row, index) => (
              <div key={index}>
                <dt class="ollm-dim">{row.term}</dt>
                <dd class={`ollm-${row.tone}`}>{row.text}</dd>
              </div>
            ))}
          </dl>
        </>
      ) : (
        <p class="ollm-empty">Pick a model to see what it can do here.</p>
      )}
    </section>
  );
}
