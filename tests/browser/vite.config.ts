import { defineConfig } from 'vite';

// Builds the script of the page that the tests open.
export default defineConfig({
  build: {
    outDir: 'out',
    target: 'es2022',
    lib: { entry: 'page/page.ts', formats: ['es'], fileName: () => 'page.js' },
  },
});
