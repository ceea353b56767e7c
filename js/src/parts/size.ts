const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
const MIB = 2 ** 20;

/** The size of files, written as the kernel writes it: "269 MB", "2.5 GB", "16.1 GB". */
export function formatBytes(sizeBytes: number): string {
  let magnitude = sizeBytes;
  let step = 0;
  // From 999.5 the rounded number would be 1000.
  while (magnitude >= (step ? 999.5 : 1000) && step < UNITS.length - 1) {
    magnitude /= 1000;
    step += 1;
  }
  const decimal = step > 0 && magnitude < (step > 2 ? 99.95 : 9.95);
  return `${magnitude.toFixed(decimal ? 1 : 0)} ${UNITS[step]}`;
}

/** A size of memory, written as the kernel writes it: "513 MiB", "7.6 GiB", "1.2 TiB". */
export function formatMemory(sizeBytes: number): string {
  const mib = sizeBytes / MIB;
  if (mib === 0) return "0 GiB";
  if (mib < 1) return "under 1 MiB";
  if (mib < 999.5) return `${mib.toFixed(0)} MiB`;
  const gib = mib / 1024;
  if (gib >= 1000) return `${(gib / 1024).toFixed(1)} TiB`;
  return `${gib.toFixed(gib < 99.95 ? 1 : 0)} GiB`;
}
