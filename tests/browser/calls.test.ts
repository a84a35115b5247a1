// Publishes and subscribes from a page of another origin, in every way that a page has, over plain HTTP and over TLS.

import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Way } from './page/page';
import { reasonOf } from './page/wire';
import { launch, range, Site, sequences, Tab, texts } from './support/browser';
import { type Certificates, makeCertificates } from './support/certificates';
import { base64, Service } from './support/service';

const WAYS: Way[] = ['subscribe', 'events', 'source', 'session', 'connect', 'grpc-web'];

let browser: Browser;
let site: Site;
let certificates: Certificates;

beforeAll(async () => {
  certificates = makeCertificates();
  [browser, site] = await Promise.all([launch(), Site.open()]);
});

afterAll(async () => {
  await browser?.close();
  await site?.close();
  certificates?.remove();
});

describe.each(['http', 'https'])('over %s', (scheme) => {
  let service: Service;
  let tab: Tab;

  beforeAll(async () => {
    const tls = scheme === 'https' ? { tls: certificates } : {};
    service = await Service.start({ origins: [site.origin], ...tls });
    tab = await Tab.open(browser, site, service.url);
  });

  afterAll(async () => {
    await tab?.close();
    await service?.end();
  });

  test.each(WAYS)('a page gets stored and new messages by %s', async (way) => {
    // Goal: every documented way brings every message, at once. Method: the page creates a room and publishes; it subscribes; it and a
    // native client publish more.
    const { url } = service;
    const room = `room-${way}`;
    const created = await tab.call(url, 'CreateRoom', { roomId: room, persist: true });
    expect(created.status).toBe(200);
    const first = await tab.call(url, 'Publish', { roomId: room, payload: base64('stored') });
    expect(first.body).toMatchObject({ sequence: '1' });
    await tab.follow(way, { service: url, way, rooms: [room] });
    await tab.until(way, (feed) => expect(texts(feed)).toEqual(['stored']));
    expect(await tab.publish(url, way === 'grpc-web' ? way : 'connect', room, 'generated')).toBe('2');
    await service.command('pub', room, 'native');
    await tab.until(way, (feed) => {
      expect(texts(feed)).toEqual(['stored', 'generated', 'native']);
      expect(sequences(feed)).toEqual([1, 2, 3]);
      expect(feed).toMatchObject({ breaks: [], end: undefined });
    });
    await tab.stop(way);
  });

  test('a page reads the error and the id of a refused call', async () => {
    // Goal: CORS hides nothing that an error says. Method: a room that does not exist, as a call and as a stream.
    const { url } = service;
    const { status, body, requestId } = await tab.call(url, 'GetRoom', { roomId: 'nowhere' });
    expect(status).toBe(404);
    expect(body.code).toBe('not_found');
    expect(reasonOf(body)).toBe('ROOM_NOT_FOUND');
    expect(requestId).toMatch(/./);
    for (const way of ['subscribe', 'events'] as const) {
      await tab.follow(`no ${way}`, { service: url, way, rooms: ['nowhere'] });
      await tab.until(`no ${way}`, ({ end }) => expect(end).toBe('not_found ROOM_NOT_FOUND'));
    }
  });

  test(`the number of subscriptions is that of HTTP/${scheme === 'https' ? 2 : 1.1}`, async () => {
    // Goal: the statement about connections in docs/http.md. Method: a session and five subscriptions in a page; over TLS twenty more get
    // a message, over plain HTTP the seventh waits until another one is stopped. The session goes on meanwhile.
    const { url } = service;
    await tab.call(url, 'CreateRoom', { roomId: 'many', persist: true });
    const own = await Tab.open(browser, site, url);
    const follow = (name: string, way: Way) => own.follow(name, { service: url, way, rooms: ['many'] });
    const opens = (name: string) => own.until(name, ({ frames }) => expect(frames.length).toBeGreaterThan(0));
    await follow('session', 'session');
    await opens('session');
    for (const at of range(1, 5)) {
      await follow(`${at}`, 'subscribe');
      await opens(`${at}`);
    }
    const more = scheme === 'https' ? range(6, 25) : [6];
    for (const at of more) await follow(`${at}`, 'subscribe');
    await service.command('pub', 'many', 'hello');
    await own.until('session', (feed) => expect(texts(feed)).toEqual(['hello']));
    if (scheme === 'https') {
      for (const at of more) await own.until(`${at}`, (feed) => expect(texts(feed)).toEqual(['hello']));
      expect([...own.protocols]).toEqual(['h2']);
    } else {
      expect((await own.feed('6')).frames).toEqual([]);
      await own.stop('1');
      await own.until('6', (feed) => expect(texts(feed)).toEqual(['hello']));
      expect([...own.protocols]).toEqual(['http/1.1']);
    }
    await own.close();
  });

  test('subscriptions end when the page stops them or goes away', async () => {
    // Goal: nothing stays open for a page that is gone. Method: a page follows in every way, stops each, follows again, and is closed; the
    // service counts its open subscriptions.
    const { url } = service;
    await tab.call(url, 'CreateRoom', { roomId: 'left', persist: true });
    const own = await Tab.open(browser, site, url);
    const has = (number: number) =>
      expect.poll(() => service.metric('unibus_open_subscriptions'), { timeout: 10_000 }).toBe(number);
    // those of the other tests have been stopped
    await has(0);
    for (const end of [() => Promise.all(WAYS.slice(0, 4).map((way) => own.stop(way))), () => own.close()]) {
      for (const way of WAYS.slice(0, 4)) await own.follow(way, { service: url, way, rooms: ['left'] });
      await has(4);
      await end();
      await has(0);
    }
  });
});
