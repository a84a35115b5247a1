import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { type Client, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { RoomService } from '../src/gen/unibus/v1/room_service_pb';

const ROOT = resolve(import.meta.dirname, '../..');
/** Finds a nats-server for the program. */
const RUNNER = join(ROOT, '.cargo/runner');
const PROGRAM = process.env.UNIBUS_PROGRAM ?? join(ROOT, 'target/debug/unibus');

async function freePort(): Promise<number> {
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
export async function eventually<T>(what: () => Promise<T>, within = 20_000): Promise<T> {
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

/** The service with its embedded nats-server, on ports and with a data directory that survive a restart. */
export class Service {
  #process: ChildProcess | undefined;

  private constructor(
    readonly dir: string,
    readonly port: number,
    readonly adminPort: number,
    readonly flags: string[],
  ) {}

  static async start({ enforce = false, flags = [] as string[] } = {}): Promise<Service> {
    const dir = mkdtempSync(join(tmpdir(), 'unibus-console-'));
    const auth: string[] = [];
    if (enforce) {
      execFileSync(PROGRAM, ['key', '--out', join(dir, 'key.pem')]);
      auth.push('--auth', 'enforce', '--auth-keys', join(dir, 'key.pem.pub'));
    }
    const service = new Service(dir, await freePort(), await freePort(), ['--console', ...auth, ...flags]);
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
    const running = this.#process;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const ended = new Promise((done) => running.once('exit', done));
    running.kill(signal);
    await ended;
  }

  /** Stops the process and removes its data. */
  async end(): Promise<void> {
    await this.kill('SIGTERM');
    rmSync(this.dir, { recursive: true, force: true });
  }

  token(subject: string): string {
    return execFileSync(PROGRAM, ['token', '--key', join(this.dir, 'key.pem'), '--sub', subject])
      .toString()
      .trim();
  }

  /** A client that is no browser. */
  client(token?: string): Client<typeof RoomService> {
    const transport = createGrpcWebTransport({
      baseUrl: `http://127.0.0.1:${this.port}`,
      interceptors: [
        (next) => (request) => {
          if (token) request.header.set('authorization', `Bearer ${token}`);
          return next(request);
        },
      ],
    });
    return createClient(RoomService, transport);
  }

  /** The address of a page of the console. */
  url(fragment = '#/', host = '127.0.0.1'): string {
    return `http://${host}:${this.adminPort}/console/${fragment}`;
  }
}
