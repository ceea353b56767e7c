import "../style/workbench.css";
import { activity } from "./activity";
import { Capabilities } from "./capabilities";
import { Chat } from "./chat";
import { Chip } from "./chip";
import { CopyCode } from "./copy-code";
import { Loading } from "./loading";
import { Models } from "./models";
import { Plan } from "./plan";
import type { PartProps } from "./props";
import { Shelf } from "./shelf";

/** Everything together: pick, plan, load, talk, keep. */
export function Workbench({ session }: PartProps) {
  const { view } = session;
  const { state, text } = activity(view.loading.value, view.chat.value);
  return (
    <section aria-label="Workbench" class="ollm-workbench">
      <div class="ollm-grid">
        <header class="ollm-header">
          <span class={`ollm-dot ollm-dot-${state}`} />
          <strong class="ollm-title">{view.title.value}</strong>
          <span class="ollm-dim">{text}</span>
          <span class="ollm-chips ollm-end">
            {view.memory.value.chips.map((chip, index) => (
              <Chip key={index} chip={chip} />
            ))}
          </span>
          <CopyCode code={view.plan.value?.code ?? ""} />
        </header>
        <div class="ollm-aside">
          <Models session={session} />
        </div>
        <div class="ollm-main">
          <Plan session={session} withCopy={false} />
          <Loading session={session} />
          <div class="ollm-columns">
            <Chat session={session} />
            <Capabilities session={session} />
          </div>
        </div>
        <div class="ollm-footer">
          <Shelf session={session} withChips={false} />
        </div>
      </div>
    </section>
  );
}
