import { useNow } from "./use-now";

interface Props {
  /** Seconds since the epoch, by the kernel's clock. */
  lastUsedS: number;
  /** By how much the page's clock is ahead of the kernel's. */
  aheadS: number;
}

/** How long ago something was used; counted here, so that the kernel need not say it again. */
export function LastUsed({ lastUsedS, aheadS }: Props) {
  const nowS = useNow(10_000);
  return <>{idleText(nowS - aheadS - lastUsedS)}</>;
}

export function idleText(idleS: number): string {
  const minutes = Math.floor(idleS / 60);
  if (minutes < 1) return "used just now";
  return minutes < 60 ? `idle ${minutes} min` : `idle ${Math.floor(minutes / 60)} h`;
}
