import type { RefObject } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { CommandBody, CommandName } from "../link/link";
import type { ResidentItem } from "../protocol";
import { IconButton } from "./icon-button";
import { LastUsed } from "./last-used";
import { segmentColor, segmentName } from "./memory-names";
import { formatMemory } from "./size";
import { UnloadQuestion } from "./unload-question";
import { useHeir } from "./use-heir";
import { useId } from "./use-id";

interface Props {
  item: ResidentItem;
  /** Bytes of a full bar. */
  scaleBytes: number;
  /** By how much the page's clock is ahead of the kernel's, in seconds. */
  aheadS: number;
  /** What takes the focus when the runtime has left. */
  heir: RefObject<HTMLElement | null>;
  ask: <N extends CommandName>(name: N, body: NonNullable<CommandBody<N>>) => unknown;
}

/** One runtime: what it is doing, what it holds, what can be done with it. */
export function RuntimeRow({ item, scaleBytes, aheadS, heir, ask }: Props) {
  const nameId = useId();
  const row = useHeir<HTMLLIElement>(heir);
  const unloadButton = useRef<HTMLButtonElement>(null);
  const [asking, setAsking] = useState(false);
  const returns = useRef(false);
  const runtime = item.id;
  const coming = item.state === "loading" || item.state === "waiting";

  useLayoutEffect(() => {
    if (!asking && returns.current) unloadButton.current?.focus();
    returns.current = false;
  }, [asking]);

  function close(): void {
    returns.current = true;
    setAsking(false);
  }

  return (
    <li ref={row} aria-label={item.name} class="ollm-runtime" aria-current={item.current}>
      <span class="ollm-runtime-name">
        <span class={`ollm-dot ollm-dot-${item.state}`} />
        <span>
          <span id={nameId} class={item.current ? "ollm-strong" : undefined}>
            {item.name}
          </span>
          {item.node && (
            <>
              {" "}
              <span class="ollm-dim ollm-runtime-node">{item.node}</span>
            </>
          )}
        </span>
      </span>
      <span class="ollm-runtime-state">
        {item.word}
        {item.pinned && <span class="ollm-dim"> · pinned</span>}
      </span>
      {!coming && <Bar item={item} scaleBytes={scaleBytes} />}
      {!coming && <span class="ollm-dim ollm-runtime-bytes">{item.text}</span>}
      <span
        class={`ollm-dim ollm-runtime-note ${coming ? "ollm-runtime-wide" : ""}`}
        title={queueNames(item)}
      >
        <Note item={item} aheadS={aheadS} />
      </span>
      {!coming && (
        <span class="ollm-runtime-buttons">
          {!item.current && (
            <IconButton
              icon="use"
              name="Use"
              describedBy={nameId}
              onClick={() => ask("use", { runtime })}
            />
          )}
          <IconButton
            icon="pin"
            name={item.pinned ? "Unpin" : "Pin"}
            describedBy={nameId}
            filled={item.pinned}
            onClick={() => ask("pin", { runtime, pinned: !item.pinned })}
          />
          {item.can_demote && (
            <IconButton
              icon="demote"
              name="Demote"
              describedBy={nameId}
              onClick={() => ask("demote", { runtime })}
            />
          )}
          <IconButton
            button={unloadButton}
            icon="unload"
            name="Unload"
            describedBy={nameId}
            onClick={() =>
              item.state === "busy" ? setAsking(true) : ask("unload", { runtime, force: false })
            }
          />
        </span>
      )}
      {asking && (
        <UnloadQuestion
          item={item}
          onKeep={close}
          onUnload={(force) => {
            close();
            ask("unload", { runtime, force });
          }}
        />
      )}
    </li>
  );
}

function Bar({ item, scaleBytes }: { item: ResidentItem; scaleBytes: number }) {
  return (
    <span class="ollm-mini" aria-hidden="true">
      {item.holdings.map(({ kind, place, size_bytes }) => (
        <i
          key={`${kind} ${place}`}
          class={segmentColor(kind, place)}
          style={{ width: `${(size_bytes / scaleBytes) * 100}%` }}
          title={`${segmentName(kind, place)}, ${formatMemory(size_bytes)}`}
        />
      ))}
    </span>
  );
}

function Note({ item, aheadS }: { item: ResidentItem; aheadS: number }) {
  if (item.note) return <>{item.note}</>;
  const waiting = item.queue.filter(({ running }) => !running).length;
  if (waiting > 0) return <>{waiting} waiting</>;
  if (item.last_used_s > 0) return <LastUsed lastUsedS={item.last_used_s} aheadS={aheadS} />;
  return null;
}

/** Who is answered and who waits, in their order. */
function queueNames({ queue }: ResidentItem): string | undefined {
  if (queue.length === 0) return undefined;
  return queue.map(({ caller, running }) => (running ? `${caller} now` : caller)).join(", ");
}
