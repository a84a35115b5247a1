import { defineConfig } from 'vite';

// Builds the script of the page that the test opens.
export default defineConfig({
  root: import.meta.dirname,
  build: {
    outDir: 'out',
    target: 'es2022',
    lib: { entry: 'page.ts', formats: ['es'], fileName: () => 'page.js' },
  },
});
