// The package in Chromium, from a page of another origin, over plain HTTP/1.1.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Service } from '../../../tests/browser/support/service';
import type { ConnectOptions } from '../src/web.js';

const ROOMS = Array.from({ length: 12 }, (_, at) => `room-${at}`);

const script = readFileSync(join(import.meta.dirname, 'out/page.js'));
const site = createServer((request, answer) => {
  if (request.url === '/page.js') answer.setHeader('content-type', 'text/javascript').end(script);
  else answer.setHeader('content-type', 'text/html').end('<script type="module" src="/page.js"></script>');
});
let browser: Browser;
let service: Service;
let page: Page;
/** The calls of OpenSession so far. */
let sessions = 0;

beforeAll(async () => {
  await new Promise<void>((done) => site.listen(0, '127.0.0.1', done));
  // the service is at 127.0.0.1: another site, and not only another port
  const origin = `http://localhost:${(site.address() as AddressInfo).port}`;
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking'];
  browser = await chromium.launch({ executablePath, headless: true, args });
  service = await Service.start({ origins: [origin], flags: ['--heartbeat-interval', '2s'] });
  page = await browser.newPage();
  page.on('request', (request) => {
    if (request.method() === 'POST' && request.url().endsWith('/OpenSession')) sessions += 1;
  });
  await page.goto(origin);
  await page.waitForFunction(() => 'unibus' in window);
  await page.evaluate(([url, rooms]) => window.unibus.create(url, rooms), [service.url, ROOMS] as const);
});

afterEach(() => page.evaluate(() => window.unibus.close()));

afterAll(async () => {
  await browser?.close();
  await service?.end();
  site.closeAllConnections();
  site.close();
});

const lines = () => page.evaluate(() => window.unibus.read());
const follow = (options: ConnectOptions, rooms: string[], subscriber?: string) =>
  page.evaluate(([url, options, rooms, subscriber]) => window.unibus.follow(url, options, rooms, subscriber), [
    service.url,
    options,
    rooms,
    subscriber,
  ] as const);
const publish = (room: string, texts: string[]) =>
  page.evaluate(([url, room, texts]) => window.unibus.publish(url, room, texts), [service.url, room, texts] as const);
const messages = async (room: string) =>
  (await lines()).filter((line) => /^\S+ \d+ /.test(line) && line.startsWith(`${room} `));

for (const protocol of ['connect', 'grpc-web'] as const) {
  test(`twelve rooms share one session over ${protocol}, and go on after the service was killed`, async () => {
    // Goal: a browser has six connections for a host, and a page more rooms. Method: follows twelve rooms, kills the service, publishes
    // while it is away and afterwards; each message comes once, in order.
    const before = sessions;
    const texts = (what: string) => [1, 2, 3].map((at) => `${protocol} ${what} ${at}`);
    await follow({ protocol }, ROOMS, `page-${protocol}`);
    await expect.poll(async () => (await lines()).filter((line) => line.endsWith(' opened')).length).toBe(12);
    expect(sessions - before).toBe(1);
    await Promise.all(ROOMS.map((room) => publish(room, texts('before'))));
    await service.kill();
    const published = Promise.all(ROOMS.map((room) => publish(room, texts('away'))));
    await service.run();
    await published;
    await Promise.all(ROOMS.map((room) => publish(room, texts('after'))));
    for (const room of ROOMS) {
      const wanted = ['before', 'away', 'after'].flatMap(texts);
      const own = async () =>
        (await messages(room)).filter((line) => line.includes(protocol)).map((line) => line.replace(/^\S+ \d+ /, ''));
      await expect.poll(own, { timeout: 20_000 }).toEqual(wanted);
    }
    const opened = (await lines()).filter((line) => line.endsWith(' opened'));
    expect(opened).toHaveLength(24);
  });
}

test('what a page has processed does not come again', async () => {
  // Goal: acknowledgements of a page count. Method: follows a room as a durable subscriber, closes, and follows it again.
  await publish('room-0', ['one', 'two']);
  await follow({}, ['room-0'], 'durable');
  await expect.poll(async () => (await messages('room-0')).slice(-1)[0]).toMatch(/two$/);
  await page.evaluate(() => window.unibus.close());
  await follow({}, ['room-0'], 'durable');
  await publish('room-0', ['three']);
  await expect.poll(() => messages('room-0')).toEqual([expect.stringMatching(/ three$/)]);
});
