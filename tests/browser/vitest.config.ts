import { defineConfig } from 'vitest/config';

// Each file has a browser and services of its own, so files run side by side: one of them waits for two minutes.
export default defineConfig({
  test: {
    include: ['*.test.ts'],
    maxWorkers: 3,
    testTimeout: 120_000,
    hookTimeout: 60_000,
  },
});
