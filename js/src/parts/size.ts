const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

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
