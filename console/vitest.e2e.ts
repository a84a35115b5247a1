import { defineConfig } from 'vitest/config';

// The service and the browser are shared by the tests of a file, so files run one after the other.
export default defineConfig({
  test: {
    include: ['e2e/**/*.e2e.ts'],
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
