// Ends the service and starts it again while a page of another origin follows a room: no message is lost, none comes twice.

import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Way } from './page/page';
import { count, launch, range, Site, sequences, Tab, texts } from './support/browser';
import { type Certificates, makeCertificates } from './support/certificates';
import { Nginx } from './support/nginx';
import { base64, Service } from './support/service';

const WAYS: Way[] = ['subscribe', 'events', 'source', 'session'];
const ENDS = 2;

let browser: Browser;
let site: Site;
let service: Service;
let certificates: Certificates;
let nginx: Nginx;

beforeAll(async () => {
  [browser, site] = await Promise.all([launch(), Site.open()]);
  certificates = makeCertificates();
  service = await Service.start({ origins: [site.origin] });
  nginx = await Nginx.start([service], certificates);
});

afterAll(async () => {
  await browser?.close();
  await site?.close();
  await nginx?.end();
  certificates?.remove();
  await service?.end();
});

/** Publishes the numbers from 1, each until it is acknowledged. Returns how many, after `stop`. */
function publishOn(room: string): {
  published: () => number;
  failures: () => number;
  stop: () => Promise<number>;
} {
  let number = 0;
  let failures = 0;
  let isStopping = false;
  const run = async () => {
    while (!isStopping) {
      const next = `${number + 1}`;
      try {
        await service.call('Publish', { roomId: room, payload: base64(next), messageId: `id-${next}` });
        number += 1;
      } catch {
        failures += 1;
      }
      await new Promise((done) => setTimeout(done, 10));
    }
    return number;
  };
  const running = run();
  const stop = () => {
    isStopping = true;
    return running;
  };
  return { published: () => number, failures: () => failures, stop };
}

test.each([
  ['SIGKILL', ''],
  ['SIGTERM', ''],
  ['SIGKILL', ' behind nginx over TLS'],
  ['SIGKILL', ' behind nginx over plain HTTP'],
] as const)('a page goes on without a hole after %s%s', async (signal, where) => {
  // Goal: a message that was acknowledged reaches the page once, in order. Method: a program publishes numbers one by one while the page
  // follows by JSON, by server-sent events with Last-Event-ID, by EventSource, and in a session; the service ends
  // twice by the signal, and starts again on its data.
  const [proxied] = nginx.proxied;
  if (proxied === undefined) throw new Error('the service is behind nginx');
  const isDirect = where === '';
  const url = isDirect ? service.url : where.endsWith('TLS') ? proxied.tls : proxied.plain;
  const room = `kept-${signal}${where.replaceAll(' ', '-')}`;
  await service.call('CreateRoom', { roomId: room, persist: true });
  const tab = await Tab.open(browser, site, url);
  for (const way of WAYS) {
    await tab.follow(way, { service: url, way, rooms: [room], resume: true });
  }
  const publisher = publishOn(room);
  const grows = (by: number) => {
    const from = publisher.published();
    return expect.poll(publisher.published, { timeout: 20_000 }).toBeGreaterThan(from + by);
  };
  try {
    await grows(50);
    for (const _ of range(1, ENDS)) {
      const { closed } = await tab.feed('source');
      await service.kill(signal);
      // the answer of nginx for a service that is away ends an EventSource for good, and the page makes a new one
      if (!isDirect) await tab.until('source', (feed) => expect(feed.closed).toBeGreaterThan(closed));
      await service.run();
      await grows(50);
      // everybody is back before the next end
      const published = publisher.published();
      for (const way of WAYS) {
        await tab.until(way, (feed) => expect(sequences(feed).length).toBeGreaterThanOrEqual(published));
      }
    }
  } finally {
    await publisher.stop();
  }
  const last = publisher.published();
  expect(publisher.failures()).toBeGreaterThan(0);
  for (const way of WAYS) {
    await tab.until(way, (feed) => {
      expect(sequences(feed)).toEqual(range(1, last));
      expect(texts(feed)).toEqual(range(1, last).map(String));
    });
    const feed = await tab.feed(way);
    expect(feed.end, way).toBeUndefined();
    expect(feed.breaks.length, way).toBeGreaterThanOrEqual(ENDS);
    expect(count(feed, 'opened'), way).toBe(1 + ENDS);
    expect(count(feed, 'gap'), way).toBe(0);
    // alone it begins again by itself
    if (isDirect) expect(feed.closed, way).toBe(0);
  }
  await tab.close();
});
