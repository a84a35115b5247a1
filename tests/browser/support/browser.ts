// Serves the page from an origin of its own, and opens it in Chromium.

import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import type { Way, Wish } from '../page/page';
import type { Answer, Frame } from '../page/wire';
import { eventually } from './service';

const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // the authority of the tests is in no store
  '--ignore-certificate-errors',
];

export function launch(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, headless: true, args: ARGUMENTS });
}

/** A web server that has the page, and nothing else. */
export class Site {
  private constructor(
    readonly server: Server,
    readonly origin: string,
  ) {}

  static async open(): Promise<Site> {
    const script = readFileSync(join(import.meta.dirname, '../out/page.js'));
    const server = createServer((request, answer) => {
      if (request.url === '/page.js') answer.setHeader('content-type', 'text/javascript').end(script);
      else if (request.url === '/favicon.ico') answer.writeHead(204).end();
      else
        answer.setHeader('content-type', 'text/html').end('<script type="module" src="/page.js"></script>');
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    // the service is at 127.0.0.1: not the same site, and not only another port
    return new Site(server, `http://localhost:${port}`);
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((done) => this.server.close(done));
  }
}

export interface Feed {
  frames: { at: number; frame: Frame }[];
  breaks: string[];
  closed: number;
  end: string | undefined;
}

/** The page, in a context of its own: with its own connections. */
export class Tab {
  /** What Chromium spoke with each host, such as `h2`. */
  readonly protocols = new Set<string>();
  readonly #feeds = new Map<string, Feed>();

  private constructor(readonly page: Page) {}

  static async open(browser: Browser, site: Site, service: string): Promise<Tab> {
    const context = await browser.newContext();
    const page = await context.newPage();
    const tab = new Tab(page);
    const inspector = await context.newCDPSession(page);
    await inspector.send('Network.enable');
    inspector.on('Network.responseReceived', ({ response }) => {
      if (response.url.startsWith(service)) tab.protocols.add(response.protocol ?? '');
    });
    await page.goto(site.origin);
    await page.waitForFunction(() => 'tools' in window);
    return tab;
  }

  call(service: string, method: string, request: object, token?: string): Promise<Answer> {
    return this.page.evaluate(
      ([service, method, request, token]) => window.tools.call(service, method, request, token),
      [service, method, request, token] as const,
    );
  }

  publish(service: string, way: Way, room: string, text: string): Promise<string> {
    return this.page.evaluate((all) => window.tools.publish(...all), [service, way, room, text] as const);
  }

  follow(name: string, wish: Wish): Promise<void> {
    return this.page.evaluate(([name, wish]) => window.tools.follow(name, wish), [name, wish] as const);
  }

  stop(name: string): Promise<void> {
    return this.page.evaluate((name) => window.tools.stop(name), name);
  }

  /** All that came to a subscription or session so far. */
  async feed(name: string): Promise<Feed> {
    const before = this.#feeds.get(name)?.frames ?? [];
    const all = [name, before.length] as const;
    const { frames, ...state } = await this.page.evaluate((all) => window.tools.read(...all), all);
    const feed = { frames: [...before, ...frames], ...state };
    this.#feeds.set(name, feed);
    return feed;
  }

  /** Waits until a feed is as it should be. */
  until<T>(name: string, what: (feed: Feed) => T, within?: number): Promise<T> {
    return eventually(async () => what(await this.feed(name)), within);
  }

  async close(): Promise<void> {
    await this.page.context().close();
  }
}

/** The sequences of the messages of a feed, or of one room of a session. */
export function sequences({ frames }: Feed, room?: string): number[] {
  return messages(frames, room).map(({ sequence }) => Number(sequence));
}

/** The texts of the messages of a feed, or of one room of a session. */
export function texts({ frames }: Feed, room?: string): string[] {
  return messages(frames, room).map(({ payload }) => Buffer.from(payload ?? '', 'base64').toString());
}

function messages(frames: Feed['frames'], room: string | undefined) {
  return frames.flatMap(({ frame }) => {
    const own = frame.consume === undefined || room === undefined || frame.consume.roomId === room;
    const message = frame.message ?? frame.consume?.message;
    return own && message ? [message] : [];
  });
}

/** How many frames of a kind came, in a subscription or in any room of a session. */
export function count({ frames }: Feed, kind: 'opened' | 'heartbeat' | 'gap'): number {
  return frames.filter(({ frame }) => frame[kind] !== undefined || frame.consume?.[kind] !== undefined)
    .length;
}

export const range = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, at) => from + at);
