import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.{ts,tsx}"],
    // One document for all files: to make one for each takes longer than the tests.
    isolate: false,
    restoreMocks: true,
    // Its sources name one another without ".js", which Node alone does not follow.
    server: { deps: { inline: ["temml"] } },
  },
});
