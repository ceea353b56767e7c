import "../style/models.css";
import { useEffect, useRef, useState } from "preact/hooks";
import type { ModelItem } from "../protocol";
import { Chip } from "./chip";
import { Deletion } from "./deletion";
import { matching } from "./matching";
import { MoreButton } from "./more-button";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";
import { useId } from "./use-id";

const SEARCH_AFTER_MS = 150;

/** Region `Models`: a combobox over a list that is always open. */
export function Models({ session }: PartProps) {
  const models = session.view.models.value;
  const { ask, problem, dismiss } = useAsk(session);
  const id = useId();
  const [draft, setDraft] = useState<string | null>(null);
  const [active, setActive] = useState<string | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const list = useRef<HTMLDivElement>(null);
  const box = useRef<HTMLInputElement>(null);

  const text = draft ?? models.query;
  // Until the kernel has answered, narrow what is here, so that Enter means what is shown.
  const answered = text.trim() === models.query.trim();
  const shown = answered ? models.items : matching(models.items, text);
  const groups = [...new Set(shown.map((item) => item.group))];
  const items = groups.flatMap((group) => shown.filter((item) => item.group === group));
  const chosenIndex = items.findIndex((item) => item.reference === models.chosen);
  const chosen = items[chosenIndex];
  const activeIndex = items.findIndex((item) => item.reference === active);

  useEffect(() => () => clearTimeout(timer.current), []);
  useEffect(() => {
    list.current?.querySelector(".ollm-active")?.scrollIntoView?.({ block: "nearest" });
  }, [active]);

  function search(value: string): void {
    setDraft(value);
    setActive(null);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => void ask("search", { text: value }), SEARCH_AFTER_MS);
  }

  function choose(item: ModelItem | undefined): void {
    if (!item) return;
    setActive(item.reference);
    void ask("choose", { reference: item.reference });
  }

  function move(to: number): void {
    setActive(items[Math.max(0, Math.min(items.length - 1, to))]?.reference ?? null);
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "ArrowDown") move(activeIndex + 1);
    else if (event.key === "ArrowUp") move(activeIndex < 0 ? items.length - 1 : activeIndex - 1);
    else if (event.key === "Enter") choose(items[activeIndex < 0 && text ? 0 : activeIndex]);
    else return;
    event.preventDefault();
  }

  return (
    <section aria-label="Models" class="ollm-part ollm-models">
      <input
        ref={box}
        class="ollm-search"
        type="search"
        // biome-ignore lint/a11y/noRedundantRoles: a search box is a combobox only by this role
        role="combobox"
        list={undefined}
        aria-label="Search models"
        aria-expanded="true"
        aria-autocomplete="list"
        aria-controls={`${id}-list`}
        aria-activedescendant={activeIndex >= 0 ? `${id}-${activeIndex}` : undefined}
        autocomplete="off"
        spellcheck={false}
        placeholder="Search models: name, folder, hub id"
        value={text}
        onInput={(event) => search(event.currentTarget.value)}
        onKeyDown={onKeyDown}
        onBlur={() => {
          if (answered) setDraft(null);
        }}
      />
      <ProblemNote problem={problem} onDismiss={dismiss} />
      <div class="ollm-options" role="listbox" aria-label="Models" id={`${id}-list`} ref={list}>
        {groups.map((group) => (
          // biome-ignore lint/a11y/useSemanticElements: a fieldset is not allowed in a listbox.
          <div role="group" aria-label={group} key={group}>
            <div class="ollm-heading" role="presentation">
              {group}
            </div>
            {items.map(
              (item, index) =>
                item.group === group && (
                  <Option
                    key={item.reference}
                    id={`${id}-${index}`}
                    item={item}
                    chosen={index === chosenIndex}
                    active={index === activeIndex}
                    onChoose={() => choose(item)}
                  />
                ),
            )}
          </div>
        ))}
      </div>
      <div class="ollm-models-foot">
        {models.more && (
          <MoreButton
            // While a search is under way, the next models would be those of the one before.
            waiting={models.searching || !answered}
            heir={box}
            onMore={() => void ask("more", {})}
          />
        )}
        {chosen && chosen.frees_bytes > 0 && (
          <Deletion
            // A question about one model must not become one about another.
            key={chosen.reference}
            item={chosen}
            nameId={`${id}-${chosenIndex}-name`}
            silent={session.link.silent}
            heir={box}
            onDelete={async () => (await ask("remove", { reference: chosen.reference })).ok}
          />
        )}
      </div>
      <div role="status" class="ollm-dim ollm-small">
        {models.searching && "Searching…"}
        {!models.searching && items.length === 0 && text && "No model matches."}
        {!models.searching && items.length === 0 && !text && "No models to show yet."}
      </div>
      {/* Always there, so that a screen reader notices when its text appears. */}
      <div role="status" class="ollm-hub-problem ollm-dim ollm-small">
        {models.problem}
      </div>
      {models.note && <p class="ollm-note ollm-dim ollm-small">{models.note}</p>}
    </section>
  );
}

interface OptionProps {
  id: string;
  item: ModelItem;
  chosen: boolean;
  active: boolean;
  onChoose: () => void;
}

function Option({ id, item, chosen, active, onChoose }: OptionProps) {
  const about = [`${id}-facts`, `${id}-verdict`, ...(item.reason ? [`${id}-reason`] : [])];
  return (
    // The search box keeps the focus and handles the keys, as ARIA's combobox pattern asks.
    // biome-ignore lint/a11y/useFocusableInteractive: see above
    // biome-ignore lint/a11y/useKeyWithClickEvents: see above
    <div
      id={id}
      role="option"
      class={active ? "ollm-option ollm-active" : "ollm-option"}
      aria-selected={chosen}
      aria-describedby={about.join(" ")}
      onMouseDown={(event) => event.preventDefault()}
      onClick={onChoose}
    >
      <span class="ollm-option-name" id={`${id}-name`} title={item.reference}>
        {item.name}
      </span>
      {/* Hidden, so that the option's name is the model's; read out as its description. */}
      <span class="ollm-option-about" aria-hidden="true">
        <Chip chip={item.verdict} id={`${id}-verdict`} />
        <span class="ollm-small ollm-dim" id={`${id}-facts`}>
          {item.facts}
        </span>
        {item.reason && (
          <span class="ollm-small ollm-dim" id={`${id}-reason`}>
            {item.reason}
          </span>
        )}
      </span>
    </div>
  );
}
