import type { PastEvent } from "../protocol";

/** What happened to the runtimes, newest first. */
export function ShelfHistory({ events, aheadS }: { events: PastEvent[]; aheadS: number }) {
  return (
    <details class="ollm-fold ollm-history">
      <summary>History</summary>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <ol aria-label="History" tabIndex={0}>
        {events.map(({ at_s, text, tone }, index) => (
          <li key={events.length - index}>
            <time class="ollm-dim" dateTime={new Date(at_s * 1000).toISOString()}>
              {clock(at_s + aheadS)}
            </time>
            <span class={tone === "neutral" ? undefined : `ollm-${tone}`}>{text}</span>
          </li>
        ))}
      </ol>
    </details>
  );
}

function clock(seconds: number): string {
  const time = new Date(seconds * 1000);
  return [time.getHours(), time.getMinutes(), time.getSeconds()]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
}
