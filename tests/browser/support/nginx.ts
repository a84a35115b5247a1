// Runs nginx in front of a service, with nothing in its configuration that changes a timeout.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Certificates } from './certificates';
import { end, eventually, freePort, type Service } from './service';

const PROGRAM = process.env.NGINX_PROGRAM ?? '/usr/sbin/nginx';

/** The addresses of one service behind nginx: HTTP/2 with TLS, and plain HTTP/1.1. */
export interface Proxied {
  tls: string;
  plain: string;
}

export class Nginx {
  private constructor(
    readonly dir: string,
    readonly process: ChildProcess,
    readonly proxied: Proxied[],
  ) {}

  static async start(services: Service[], certificates: Certificates): Promise<Nginx> {
    const dir = mkdtempSync(join(tmpdir(), 'unibus-browser-nginx-'));
    const ports: number[] = [];
    const servers: string[] = [];
    const proxied: Proxied[] = [];
    for (const { port } of services) {
      const [tls, plain] = [await freePort(), await freePort()];
      ports.push(tls, plain);
      proxied.push({ tls: `https://127.0.0.1:${tls}`, plain: `http://127.0.0.1:${plain}` });
      servers.push(
        `server { listen 127.0.0.1:${tls} ssl http2;
        ssl_certificate ${certificates.certificate}; ssl_certificate_key ${certificates.key};
        location / { grpc_pass grpc://127.0.0.1:${port}; } }`,
        `server { listen 127.0.0.1:${plain};
        location / { proxy_pass http://127.0.0.1:${port}; proxy_http_version 1.1; proxy_buffering off; } }`,
      );
    }
    const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (of) => `${of}_temp_path ${dir}/${of};`,
    );
    const isRoot = process.getuid?.() === 0;
    const config = `daemon off; ${isRoot ? 'user root;' : ''} worker_processes 1;
      error_log stderr crit; pid ${dir}/pid;
      events { worker_connections 256; }
      http { access_log off; ${paths.join(' ')} ${servers.join('\n')} }\n`;
    writeFileSync(join(dir, 'nginx.conf'), config);
    const running = spawn(PROGRAM, ['-e', 'stderr', '-p', dir, '-c', join(dir, 'nginx.conf')], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const nginx = new Nginx(dir, running, proxied);
    running.on('error', () => {});
    try {
      for (const port of ports) await eventually(() => listens(port), 10_000);
    } catch (error) {
      await nginx.end();
      throw error;
    }
    return nginx;
  }

  async end(): Promise<void> {
    if (this.process.pid !== undefined) await end(this.process, 'SIGTERM');
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function listens(port: number): Promise<void> {
  return new Promise((done, failed) => {
    const socket = createConnection(port, '127.0.0.1', () => {
      socket.destroy();
      done();
    });
    socket.on('error', failed);
  });
}
