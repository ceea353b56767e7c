import { type ComponentType, render } from "preact";
import type { HostModel } from "../link/host";
import type { PartProps } from "../parts/props";
import { Shell } from "../parts/shell";
import { openSession, type Session } from "../state/session";
import { keepFocusInside } from "./focus";
import { keepKeysInside } from "./keys";
import { keepPresses } from "./presses";

interface InitializeProps {
  model: HostModel;
}

interface RenderProps extends InitializeProps {
  el: HTMLElement;
}

/** The module's default export for anywidget: called once a model, it holds that model's state. */
export function widget(Part: ComponentType<PartProps>) {
  return () => {
    const sessions = new Map<HostModel, Session>();

    // anywidget calls this factory anew for each model, but hands initialize and render two
    // different proxies of it; other hosts share the factory between models, but not proxies.
    function find(model: HostModel): Session | undefined {
      return sessions.get(model) ?? (sessions.size === 1 ? [...sessions.values()][0] : undefined);
    }

    return {
      initialize({ model }: InitializeProps): () => void {
        const closing = new AbortController();
        sessions.set(model, openSession(model, closing.signal));
        return () => {
          closing.abort();
          sessions.delete(model);
        };
      },

      render({ model, el }: RenderProps): () => void {
        const closing = new AbortController();
        // Older hosts do not call initialize: such a view has a session of its own.
        const session = find(model) ?? openSession(model, closing.signal);
        const root = document.createElement("div");
        root.className = "ollm";
        keepKeysInside(root, closing.signal);
        keepFocusInside(root, closing.signal);
        keepPresses(root, closing.signal);
        el.append(root);
        render(
          <Shell session={session}>
            <Part session={session} />
          </Shell>,
          root,
        );
        return () => {
          closing.abort();
          render(null, root);
          root.remove();
        };
      },
    };
  };
}
