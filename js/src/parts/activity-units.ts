/** A duration whose milliseconds matter: "0.4 ms", "131 ms", "1.5 s", "2 min 5 s". */
export function formatMs(ms: number): string {
  if (ms < 999.5) return `${ms >= 9.95 || ms < 0.05 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const rest = whole % 60;
  return `${Math.floor(whole / 60)} min${rest ? ` ${rest} s` : ""}`;
}

/** "62%", and "under 1%" where rounding would say none. */
export function formatShare(share: number): string {
  const percent = Math.round(share * 100);
  return share > 0 && percent === 0 ? "under 1%" : `${percent}%`;
}

const MIB = 2 ** 20;

export function formatRate(tokensPerSecond: number): string {
  return tokensPerSecond >= 99.95 ? tokensPerSecond.toFixed(0) : tokensPerSecond.toFixed(1);
}

/** Up to three round values above 0 and up to `most`, evenly apart, for lines across a picture. */
export function ticks(most: number): number[] {
  if (!(most > 0) || !Number.isFinite(most)) return [];
  const magnitude = 10 ** Math.floor(Math.log10(most));
  const step = [0.2, 0.25, 0.5, 1, 2, 2.5, 5].find((one) => most / (one * magnitude) < 4) ?? 5;
  const count = Math.min(Math.floor(most / (step * magnitude) + 1e-9), 3);
  return Array.from({ length: count }, (_, index) => (index + 1) * step * magnitude);
}

/** The same for sizes of memory: whole MiB or GiB, as a step is a power of two. */
export function memoryTicks(mostBytes: number): number[] {
  if (!(mostBytes > 0)) return [];
  const step = Math.max(2 ** Math.ceil(Math.log2(mostBytes / 4)), MIB);
  const count = Math.floor(mostBytes / step + 1e-9);
  return Array.from({ length: count }, (_, index) => (index + 1) * step);
}
