import { defineConfig } from 'vite';
import { licenses } from './licenses.ts';

const ADMIN = 'http://127.0.0.1:50052';

// Stable names and no source maps, because the built files are checked in and compared.
export default defineConfig({
  base: './',
  plugins: [licenses()],
  // `npm run dev` shows the rooms of a service on the default ports
  server: {
    proxy: {
      '/settings.json': { target: ADMIN, rewrite: (path) => `/console${path}` },
      '/readyz': ADMIN,
      '/metrics': ADMIN,
    },
  },
  build: {
    outDir: 'dist',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    reportCompressedSize: false,
    rollupOptions: { output: { entryFileNames: 'app.js', assetFileNames: 'app[extname]' } },
  },
});
