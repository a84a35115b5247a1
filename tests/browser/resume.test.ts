// Ends the service and starts it again while a page of another origin follows a room: no message is lost, none comes twice.

import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Way } from './page/page';
import { count, launch, range, Site, sequences, Tab, texts } from './support/browser';
import { base64, Service } from './support/service';

const WAYS: Way[] = ['subscribe', 'events', 'source', 'session'];
const ENDS = 2;

let browser: Browser;
let site: Site;
let service: Service;

beforeAll(async () => {
  [browser, site] = await Promise.all([launch(), Site.open()]);
  service = await Service.start({ origins: [site.origin] });
});

afterAll(async () => {
  await browser?.close();
  await site?.close();
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

test.each(['SIGKILL', 'SIGTERM'] as const)('a page goes on without a hole after %s', async (signal) => {
  // Goal: a message that was acknowledged reaches the page once, in order. Method: a program publishes numbers one by one while the page
  // follows by JSON, by server-sent events with Last-Event-ID, by EventSource, and in a session; the service ends
  // twice by the signal, and starts again on its data.
  const room = `kept-${signal}`;
  await service.call('CreateRoom', { roomId: room, persist: true });
  const tab = await Tab.open(browser, site, service.url);
  for (const way of WAYS) {
    await tab.follow(way, { service: service.url, way, rooms: [room], resume: true });
  }
  const publisher = publishOn(room);
  const grows = (by: number) => {
    const from = publisher.published();
    return expect.poll(publisher.published, { timeout: 20_000 }).toBeGreaterThan(from + by);
  };
  await grows(50);
  for (const _ of range(1, ENDS)) {
    await service.kill(signal);
    await service.run();
    await grows(50);
    // everybody is back before the next end
    const published = publisher.published();
    for (const way of WAYS) {
      await tab.until(way, (feed) => expect(sequences(feed).length).toBeGreaterThanOrEqual(published));
    }
  }
  const last = await publisher.stop();
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
  }
  await tab.close();
});
