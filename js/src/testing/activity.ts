import type { ActivityView } from "../protocol";

type PaceView = NonNullable<ActivityView["pace"]>;
type KVView = NonNullable<ActivityView["kv"]>;
type TraceView = NonNullable<ActivityView["trace"]>;
type Kind = TraceView["parts"][number]["kind"];

/** Five tokens, four of them after the first. */
export function pace(more: Partial<PaceView> = {}): PaceView {
  return {
    state: "ended",
    prompt_tokens: 37,
    reused_tokens: 12,
    first_token_s: 0.4,
    new_tokens: 5,
    seconds: 0.6,
    tokens_per_s: 20,
    tokens: [1, 2, 3, 4, 5],
    at_s: [0.4, 0.45, 0.5, 0.55, 0.6],
    text: "5 tokens in 0.6 s, 20.0 tokens/s after the first.",
    ...more,
  };
}

/** Two answers, the second of them with something on disk. */
export function kv(more: Partial<KVView> = {}): KVView {
  const mib = 2 ** 20;
  return {
    items: [
      {
        number: 1,
        tokens: 40,
        hot_tokens: 40,
        hot_bytes: mib,
        ram_bytes: 0,
        disk_bytes: 0,
        text: "Answer 1 of a: 40 tokens: 1 MiB hot",
      },
      {
        number: 2,
        tokens: 160,
        hot_tokens: 40,
        hot_bytes: mib,
        ram_bytes: 2 * mib,
        disk_bytes: mib,
        text: "Answer 2 of a: 160 tokens, 40 of them hot: 1 MiB hot",
      },
    ],
    limit_tokens: 4096,
    limit_bytes: 100 * mib,
    text: "After 2 answers the KV cache holds 160 tokens.",
    ...more,
  };
}

/** Two tokens of two layers: the first takes 50 ms, the second, which is shown, 40 ms. */
export function trace(more: Partial<TraceView> = {}): TraceView {
  const onDisk = more.shown === 2 ? [10, 20] : [5, 15];
  const columns: Record<Kind, [string, number[], number[]]> = {
    disk: ["Waiting for disk", [30, 20], onDisk],
    copy: ["Waiting for copies", [3, 3], [1, 1]],
    unpack: ["Unpacking", [0, 0], [0, 0]],
    compute: ["Computing", [15, 15], [8, 7]],
    choose: ["Choosing the token", [1, 1], [0, 0]],
    between: ["Between layers", [1, 1], [0, 0]],
  };
  return {
    parts: Object.entries(columns).map(([kind, [name, tokens_ms, layers_ms]]) => ({
      kind: kind as Kind,
      name,
      help: "",
      tokens_ms,
      layers_ms,
    })),
    numbers: [2, 3],
    shown: 3,
    prompt: "Reading 25 prompt tokens took 90 ms: 100% computing.",
    note: "",
    text: "2 tokens of a took 45 ms each on average.",
    ...more,
  };
}
