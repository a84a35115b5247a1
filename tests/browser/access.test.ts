// Calls from pages of other origins with `--auth enforce`, and from an origin that is not allowed.

import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, Site, Tab, texts } from './support/browser';
import { base64, Service } from './support/service';

let browser: Browser;
let site: Site;
let stranger: Site;
let service: Service;
let open: Service;

beforeAll(async () => {
  [browser, site, stranger] = await Promise.all([launch(), Site.open(), Site.open()]);
  const origins = [site.origin];
  [service, open] = await Promise.all([
    Service.start({ origins, enforce: true }),
    Service.start({ origins }),
  ]);
});

afterAll(async () => {
  await browser?.close();
  await Promise.all([site?.close(), stranger?.close(), service?.end(), open?.end()]);
});

test('a page without a token reads the refusal', async () => {
  // Goal: a page can tell a missing token from a broken connection. Method: no token, and one that is no token: as a call, as streams and
  // as events.
  const { url } = service;
  const tab = await Tab.open(browser, site, url);
  for (const token of [undefined, 'garbage']) {
    const { status, body, requestId } = await tab.call(url, 'ListRooms', {}, token);
    expect(status).toBe(401);
    expect(body.code).toBe('unauthenticated');
    expect(requestId).toMatch(/./);
    for (const way of ['subscribe', 'session', 'events'] as const) {
      await tab.follow(way, { service: url, way, rooms: ['any'], ...(token && { token }) });
      await tab.until(way, (feed) => expect(feed.end).toBe('unauthenticated UNAUTHENTICATED'));
    }
  }
  expect((await tab.call(url, 'ListRooms', {}, service.token('ann'))).status).toBe(200);
  await tab.close();
});

test('a removal ends one room of a session within a second', async () => {
  // Goal: removal is in force at once, and only where it was made. Method: ann removes bob from one of three rooms; bob's page has a
  // session of all three, and a subscription to the first.
  const ann = service.token('ann');
  const bob = service.token('bob');
  const rooms = ['first', 'second', 'third'];
  for (const roomId of rooms) {
    await service.call('CreateRoom', { roomId, persist: true }, ann);
    await service.call('AddMember', { roomId, memberId: 'bob', role: 'ROLE_READER' }, ann);
  }
  const publish = (text: string) =>
    Promise.all(rooms.map((roomId) => service.call('Publish', { roomId, payload: base64(text) }, ann)));
  const { url } = service;
  const tab = await Tab.open(browser, site, url);
  await tab.follow('session', { service: url, way: 'session', rooms, token: bob });
  await tab.follow('events', { service: url, way: 'events', rooms: ['first'], token: bob });
  await publish('before');
  await tab.until('session', (feed) => {
    for (const room of rooms) expect(texts(feed, room)).toEqual(['before']);
  });
  await tab.until('events', (feed) => expect(texts(feed)).toEqual(['before']));
  const begun = Date.now();
  await service.call('RemoveMember', { roomId: 'first', memberId: 'bob' }, ann);
  const closed = await tab.until('session', ({ frames }) => {
    const found = frames.find(({ frame }) => frame.consume?.closed);
    if (found === undefined) throw new Error('the room is not closed');
    return found;
  });
  expect(closed.at - begun).toBeLessThan(1000);
  expect(closed.frame.consume).toMatchObject({ roomId: 'first', closed: { code: 7 } });
  await tab.until('events', ({ end }) => expect(end).toBe('permission_denied PERMISSION_DENIED'));
  await publish('after');
  await tab.until('session', (feed) => {
    for (const room of ['second', 'third']) expect(texts(feed, room)).toEqual(['before', 'after']);
  });
  const feed = await tab.feed('session');
  expect(texts(feed, 'first')).toEqual(['before']);
  expect(feed).toMatchObject({ breaks: [], end: undefined });
  await tab.close();
});

test('a page of an origin that is not allowed reads nothing and publishes nothing', async () => {
  // Goal: only the listed origins may call. Method: a page of another origin makes calls with a preflight, calls that need none, and an
  // EventSource; then the room is as before. A page of the listed origin can do the same calls.
  const { url } = open;
  await open.call('CreateRoom', { roomId: 'guarded', persist: true });
  const tab = await Tab.open(browser, stranger, url);
  const call = `${url}/unibus.v1.RoomService/Publish`;
  const body = JSON.stringify({ roomId: 'guarded', payload: base64('forged') });
  const inQuery = `${call}?encoding=json&message=${encodeURIComponent(body)}`;
  const history = `${url}/rooms/guarded/history?limit=1`;
  const attempts: [string, RequestInit][] = [
    [call, { method: 'POST', body, headers: { 'content-type': 'application/json' } }],
    [call, { method: 'POST', body, headers: { 'content-type': 'application/connect+json' } }],
    [call, { method: 'POST', body, headers: { 'content-type': 'application/grpc-web+proto' } }],
    [call, { method: 'POST', body, headers: { 'content-type': 'text/plain' } }],
    [inQuery, {}],
    [history, {}],
  ];
  for (const [address, init] of attempts) {
    const outcome = (tab: Tab) =>
      tab.page.evaluate(
        ([address, init]) =>
          fetch(address, init).then(
            () => 'an answer',
            (error: Error) => error.name,
          ),
        [address, init] as const,
      );
    expect(await outcome(tab)).toBe('TypeError');
  }
  // no preflight, and an answer that the page cannot see
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
    const init: RequestInit = { method: 'POST', mode: 'no-cors', body, headers: { 'content-type': type } };
    const seen = await tab.page.evaluate(async ([address, init]) => (await fetch(address, init)).type, [
      call,
      init,
    ] as const);
    expect(seen).toBe('opaque');
  }
  expect(
    await tab.page.evaluate(async (address) => (await fetch(address, { mode: 'no-cors' })).type, inQuery),
  ).toBe('opaque');
  await tab.follow('source', { service: url, way: 'source', rooms: ['guarded'] });
  await tab.until('source', ({ end, frames }) => {
    expect(end).toBe('closed');
    expect(frames).toEqual([]);
  });
  await tab.close();
  expect((await open.call('History', { roomId: 'guarded' })).messages).toBeUndefined();

  for (const [origin, isAllowed] of [
    [stranger.origin, false],
    [site.origin, true],
  ] as const) {
    const asked = {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type',
    };
    const preflight = await fetch(call, { method: 'OPTIONS', headers: asked });
    const read = await fetch(history, { headers: { origin } });
    for (const answer of [preflight, read]) {
      expect(answer.headers.get('access-control-allow-origin')).toBe(isAllowed ? origin : null);
      await answer.arrayBuffer();
    }
  }
  const allowed = await Tab.open(browser, site, url);
  const answer = await allowed.call(url, 'Publish', { roomId: 'guarded', payload: base64('genuine') });
  expect(answer.body).toMatchObject({ sequence: '1' });
  await allowed.close();
});
