import "../style/activity.css";
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

export interface Table {
  columns: string[];
  rows: string[][];
}

interface Props {
  title: string;
  /** The figure that matters most, beside the title. */
  aside?: string | undefined;
  table: () => Table;
  children: ComponentChildren;
}

/** A picture with its title, and the same as a table. */
export function Picture({ title, aside, table, children }: Props) {
  const [open, setOpen] = useState(false);
  return (
    <figure class="ollm-picture" aria-label={title}>
      <figcaption class="ollm-picture-head">
        <h4>{title}</h4>
        {aside && <span class="ollm-dim">{aside}</span>}
        <button
          type="button"
          class="ollm-quiet ollm-end"
          aria-expanded={open}
          aria-label="Show as table"
          onClick={() => setOpen(!open)}
        >
          Table
        </button>
      </figcaption>
      {children}
      {open && <Rows title={title} table={table()} />}
    </figure>
  );
}

/** What is pointed at. What has the focus is read by its own value, so this is for the eye. */
export function Told({ children }: { children: string }) {
  return (
    <p class="ollm-picture-told ollm-dim" aria-hidden="true" title={children}>
      {children}
    </p>
  );
}

function Rows({ title, table: { columns, rows } }: { title: string; table: Table }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <div class="ollm-picture-table" tabIndex={0}>
      <table aria-label={title}>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column} scope="col">
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((cells, index) => (
            <tr key={index}>
              {cells.map((cell, column) =>
                column === 0 ? (
                  <th key={column} scope="row">
                    {cell}
                  </th>
                ) : (
                  <td key={column}>{cell}</td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
