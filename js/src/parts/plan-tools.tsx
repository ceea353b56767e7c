import type { PlanView, PresetBody } from "../protocol";
import { CopyCode } from "./copy-code";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";
import { useId } from "./use-id";

type PresetView = PlanView["presets"][number];

interface Props extends PartProps {
  plan: PlanView;
  withCopy: boolean;
}

/** Presets, the way back, and the way out: as code. */
export function PlanTools({ plan, session, withCopy }: Props) {
  const { ask, problem, dismiss } = useAsk(session);
  const step = (name: "undo" | "redo") => void session.moves.heard.then(() => ask(name, {}));
  return (
    <>
      <div class="ollm-tools">
        {/* biome-ignore lint/a11y/useSemanticElements: a fieldset takes no flex layout */}
        <div class="ollm-presets" role="group" aria-label="Presets">
          {plan.presets.map((preset) => (
            <Preset
              key={preset.id}
              preset={preset}
              // The schema names the presets; the kernel sends no others.
              onChoose={() => void ask("preset", { preset: preset.id as PresetBody["preset"] })}
            />
          ))}
        </div>
        <span class="ollm-steps">
          <Step name="Undo" can={plan.can_undo} onStep={() => step("undo")} />
          <Step name="Redo" can={plan.can_redo} onStep={() => step("redo")} />
        </span>
        {withCopy && <CopyCode code={plan.code} />}
      </div>
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </>
  );
}

function Preset({ preset, onChoose }: { preset: PresetView; onChoose: () => void }) {
  const id = useId();
  const said = preset.disabled ? `${preset.help} Not now: ${preset.disabled}` : preset.help;
  return (
    <>
      <button
        type="button"
        title={said}
        aria-pressed={preset.active}
        // Not `disabled`: the reason can be read by whoever comes to it with the keyboard.
        aria-disabled={preset.disabled !== ""}
        aria-describedby={id}
        onClick={() => {
          if (!preset.disabled) onChoose();
        }}
      >
        {preset.title}
      </button>
      <span id={id} class="ollm-hidden">
        {said}
      </span>
    </>
  );
}

function Step({ name, can, onStep }: { name: string; can: boolean; onStep: () => void }) {
  return (
    <button
      type="button"
      class="ollm-quiet"
      // Not `disabled`, which would drop the focus of whoever presses it to the end.
      aria-disabled={!can}
      onClick={() => {
        if (can) onStep();
      }}
    >
      {name}
    </button>
  );
}
