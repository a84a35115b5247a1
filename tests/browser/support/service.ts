// Runs the service for the tests of a file, and calls it as programs that are no browser do.

import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { Answer } from '../page/wire';
import type { Certificates } from './certificates';

const ROOT = resolve(import.meta.dirname, '../../..');
/** Finds a nats-server for the program. */
const RUNNER = join(ROOT, '.cargo/runner');
const PROGRAM = process.env.UNIBUS_PROGRAM ?? join(ROOT, 'target/debug/unibus');

export async function freePort(): Promise<number> {
  return new Promise((done, failed) => {
    const server = createServer();
    server.on('error', failed);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => done(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

/** Tries until it succeeds. */
export async function eventually<T>(what: () => T | Promise<T>, within = 20_000): Promise<T> {
  const end = Date.now() + within;
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}

/** Ends a process, and waits for its end. */
export async function end(running: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
  const ended = new Promise((done) => running.once('exit', done));
  running.kill(signal);
  const hard = setTimeout(() => running.kill('SIGKILL'), 20_000);
  await ended;
  clearTimeout(hard);
}

export const base64 = (text: string) => Buffer.from(text).toString('base64');

export interface Options {
  /** The origins whose pages may call. */
  origins: string[];
  enforce?: boolean;
  tls?: Certificates;
  flags?: string[];
}

/** The service with its embedded nats-server, on ports and with a data directory that survive a restart. */
export class Service {
  #process: ChildProcess | undefined;

  private constructor(
    readonly dir: string,
    readonly port: number,
    readonly adminPort: number,
    readonly flags: string[],
    readonly tls: Certificates | undefined,
  ) {}

  static async start({ origins, enforce = false, tls, flags = [] }: Options): Promise<Service> {
    const dir = mkdtempSync(join(tmpdir(), 'unibus-browser-'));
    const all = ['--cors-origins', origins.join(','), ...flags];
    if (enforce) {
      execFileSync(PROGRAM, ['key', '--out', join(dir, 'key.pem')]);
      all.push('--auth', 'enforce', '--auth-keys', join(dir, 'key.pem.pub'));
    }
    if (tls) all.push('--tls-certificate', tls.certificate, '--tls-key', tls.key);
    const service = new Service(dir, await freePort(), await freePort(), all, tls);
    await service.run();
    return service;
  }

  /** Starts the process, and waits until it serves. */
  async run(): Promise<void> {
    const { dir, port, adminPort, flags } = this;
    const all = ['--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${adminPort}`, ...flags];
    this.#process = spawn(RUNNER, [PROGRAM, '--data-dir', join(dir, 'data'), ...all], {
      cwd: ROOT,
      stdio: process.env.UNIBUS_LOG ? 'inherit' : 'ignore',
    });
    await eventually(async () => {
      const answer = await fetch(`http://127.0.0.1:${adminPort}/readyz`);
      if (!answer.ok) throw new Error(`/readyz: ${answer.status}`);
    });
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await end(this.#process, signal);
  }

  /** Stops the process and removes its data. */
  async end(): Promise<void> {
    await this.kill('SIGTERM');
    rmSync(this.dir, { recursive: true, force: true });
  }

  get url(): string {
    return `${this.tls ? 'https' : 'http'}://127.0.0.1:${this.port}`;
  }

  token(subject: string): string {
    return execFileSync(PROGRAM, ['token', '--key', join(this.dir, 'key.pem'), '--sub', subject])
      .toString()
      .trim();
  }

  /** Makes a call over plain HTTP. It must succeed. */
  async call(method: string, request: object, token?: string): Promise<Answer['body']> {
    const answer = await fetch(`${this.url}/unibus.v1.RoomService/${method}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(10_000),
    });
    if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as Answer['body'];
  }

  /** The sum of a metric over its labels. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`http://127.0.0.1:${this.adminPort}/metrics`)).text();
    const lines = text
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
    if (lines.length === 0) throw new Error(`no metric ${name}`);
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  /** Runs the command line of the service, as a native client. */
  async command(...words: string[]): Promise<string> {
    const [name = '', ...rest] = words;
    const ca = this.tls ? ['--ca', this.tls.ca] : [];
    const all = [name, '--server', this.url, ...ca, ...rest];
    return (await promisify(execFile)(PROGRAM, all, { timeout: 20_000 })).stdout;
  }
}
