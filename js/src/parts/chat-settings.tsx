import type { SampleBody, SamplingField, SamplingPresetBody, SamplingView } from "../protocol";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";
import { useId } from "./use-id";
import { useTyped } from "./use-typed";

const SEND_AFTER_MS = 300;

/** How the next answers are generated. */
export function ChatSettings({ sampling, session }: { sampling: SamplingView } & PartProps) {
  const { ask, problem, dismiss } = useAsk(session);
  return (
    <div class="ollm-chat-panel">
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset takes no flex layout */}
      <div class="ollm-choices" role="group" aria-label="Presets">
        {sampling.presets.map((preset) => (
          <button
            key={preset.id}
            type="button"
            title={preset.help}
            aria-pressed={preset.active}
            onClick={() =>
              // The schema names the presets; the kernel sends no others.
              void ask("sampling-preset", { preset: preset.id as SamplingPresetBody["preset"] })
            }
          >
            {preset.title}
          </button>
        ))}
        <span class="ollm-dim ollm-small">From the next answer on.</span>
      </div>
      <div class="ollm-settings">
        {sampling.fields.map((field) => (
          <Setting
            key={field.name}
            field={field}
            // The schema names the fields; the kernel sends no others.
            onEdit={(value) =>
              void ask("sample", { field: field.name as SampleBody["field"], value })
            }
          />
        ))}
      </div>
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </div>
  );
}

function Setting({ field, onEdit }: { field: SamplingField; onEdit: (value: string) => void }) {
  const id = useId();
  const typed = useTyped(field.value, SEND_AFTER_MS, onEdit);
  const described = field.error ? `${id}-help ${id}-error` : `${id}-help`;
  const common = {
    id,
    value: typed.text,
    placeholder: field.automatic,
    "aria-describedby": described,
    "aria-invalid": field.error !== "",
    onFocus: typed.onFocus,
    onBlur: typed.onBlur,
  };
  return (
    <div
      class={`ollm-setting ollm-setting-${field.kind}${field.unused ? " ollm-unused" : ""}`}
      title={[field.unused, field.help].filter(Boolean).join(" ")}
    >
      <label for={id}>{field.label}</label>
      {field.kind === "texts" ? (
        <textarea
          {...common}
          rows={Math.min(4, typed.text.split("\n").length)}
          spellcheck={false}
          onInput={(event) => typed.onInput(event.currentTarget.value)}
        />
      ) : (
        <input
          {...common}
          type="number"
          min={0}
          step={field.kind === "count" ? 1 : 0.05}
          autocomplete="off"
          onInput={(event) => typed.onInput(event.currentTarget.value)}
        />
      )}
      <span id={`${id}-help`} class="ollm-hidden">
        {[field.unused, field.help, field.value === "" ? field.automatic : ""]
          .filter(Boolean)
          .join(" ")}
      </span>
      {field.error && (
        <span id={`${id}-error`} class="ollm-no ollm-small">
          {field.error}
        </span>
      )}
    </div>
  );
}
