import { expect, test } from "vitest";
import { formatBytes, formatMemory } from "./size";

// As tests/render has it for the kernel's own function.
test.each([
  [0, "0 B"],
  [999, "999 B"],
  [1_000, "1.0 kB"],
  [9_960_000, "10 MB"],
  [269_060_552, "269 MB"],
  [999_600_000, "1.0 GB"],
  [2_471_645_608, "2.5 GB"],
  [16_060_522_240, "16.1 GB"],
  [162_700_000_000, "163 GB"],
])("%d bytes are %s", (sizeBytes, text) => {
  expect(formatBytes(sizeBytes)).toBe(text);
});

test.each([
  [0, "0 GiB"],
  [2 ** 10, "under 1 MiB"],
  [94_371_840, "90 MiB"],
  [538_000_000, "513 MiB"],
  [999.6 * 2 ** 20, "1.0 GiB"],
  [2 ** 30, "1.0 GiB"],
  [99.96 * 2 ** 30, "100 GiB"],
  [1_500 * 2 ** 30, "1.5 TiB"],
])("%d bytes of memory are %s", (sizeBytes, text) => {
  expect(formatMemory(sizeBytes)).toBe(text);
});
