import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Plugin } from 'vite';

/** Writes the licences of the bundled packages to `licenses.txt`. */
export function licenses(): Plugin {
  return {
    name: 'licenses',
    generateBundle(_options, bundle) {
      const modules = Object.values(bundle).flatMap((part) => (part.type === 'chunk' ? part.moduleIds : []));
      const packages = new Map<string, string[]>();
      for (const module of modules.filter((id) => id.includes('/node_modules/')).sort()) {
        const root = packageRoot(module);
        packages.set(root, [...(packages.get(root) ?? []), module]);
      }
      const texts = [...packages].map(([root, of]) => describe(root, of)).sort();
      texts.push(readFileSync(join(import.meta.dirname, '../LICENSE-APACHE'), 'utf8'));
      const line = `\n${'-'.repeat(80)}\n\n`;
      this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: texts.join(line) });
    },
  };
}

/** The folder of the package that a module belongs to: the nearest one whose package.json has a name and a version. */
function packageRoot(module: string): string {
  for (let folder = dirname(module); folder !== dirname(folder); folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file)) {
      const { name, version } = JSON.parse(readFileSync(file, 'utf8'));
      if (name && version) return folder;
    }
  }
  throw new Error(`no package has the module ${module}`);
}

/** The licence of a package: its file, or else the comments at the beginning of its modules. */
function describe(root: string, modules: string[]): string {
  const { name, version, license } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const file = readdirSync(root).find((entry) => /^licen[cs]e/i.test(entry));
  const notices = file === undefined ? modules.map(notice) : [readFileSync(join(root, file), 'utf8').trim()];
  const texts = [...new Set(notices)].filter((text) => text !== '').sort();
  return `${[`${name} ${version}, ${license}`, ...texts].join('\n\n')}\n`;
}

function notice(module: string): string {
  const [comment = ''] = /^(\/\/.*\n)+/.exec(readFileSync(module, 'utf8')) ?? [];
  return /copyright/i.test(comment) ? comment.replace(/^\/\/ ?/gm, '').trim() : '';
}
