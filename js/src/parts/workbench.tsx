import "../style/workbench.css";
import { useRef } from "preact/hooks";
import type { Store } from "../state/store";
import { activity } from "./activity";
import { Activity } from "./activity-region";
import { Capabilities } from "./capabilities";
import { Chat } from "./chat";
import { Chip } from "./chip";
import { CopyCode } from "./copy-code";
import { Loading } from "./loading";
import { Models } from "./models";
import { Plan } from "./plan";
import type { PartProps } from "./props";
import { Shelf } from "./shelf";
import { Welcome } from "./workbench-welcome";

/** Everything together: pick, plan, load, talk, keep. */
export function Workbench({ session }: PartProps) {
  const { view } = session;
  const { state, text } = activity(view.loading.value, view.chat.value);
  const main = useRef<HTMLDivElement>(null);
  const fresh = isFresh(view);
  return (
    <section aria-label="Workbench" class="ollm-workbench">
      <div class="ollm-grid">
        <header class="ollm-header">
          <span class={`ollm-dot ollm-dot-${state}`} />
          <strong class="ollm-title">{view.title.value}</strong>
          {!fresh && <span class="ollm-dim">{text}</span>}
          <span class="ollm-chips ollm-end">
            {view.memory.value.chips.map((chip, index) => (
              <Chip key={index} chip={chip} />
            ))}
          </span>
          {!fresh && <CopyCode code={view.plan.value?.code ?? ""} />}
        </header>
        <div class="ollm-aside">
          <Models session={session} />
        </div>
        <div ref={main} tabIndex={-1} class={fresh ? "ollm-main ollm-fresh" : "ollm-main"}>
          <Plan session={session} withCopy={false} />
          {fresh && <Welcome session={session} heir={main} />}
          {/* Hidden, not left out: what was typed or unfolded in them stays. */}
          <div hidden={fresh}>
            <Loading session={session} />
          </div>
          <div class="ollm-columns" hidden={fresh}>
            <Chat session={session} />
            <Capabilities session={session} />
            <Activity session={session} />
          </div>
        </div>
        <div class="ollm-footer">
          <Shelf session={session} withChips={false} />
        </div>
      </div>
    </section>
  );
}

/** Whether nothing was chosen, loaded or said yet, so that most regions have nothing to show. */
function isFresh({ models, plan, loading, chat }: Store): boolean {
  return (
    models.value.chosen === null &&
    plan.value === null &&
    loading.value.state === "idle" &&
    !chat.value.can_send &&
    chat.value.turns.length === 0
  );
}
