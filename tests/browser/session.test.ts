// Follows many rooms in one session from a page of another origin, over plain HTTP/1.1.

import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { reasonOf } from './page/wire';
import { count, type Feed, launch, range, Site, sequences, Tab, texts } from './support/browser';
import { base64, Service } from './support/service';

const ROOMS = range(1, 100).map((at) => `room-${at}`);

let browser: Browser;
let site: Site;
let service: Service;
let tab: Tab;

beforeAll(async () => {
  [browser, site] = await Promise.all([launch(), Site.open()]);
  service = await Service.start({ origins: [site.origin] });
  tab = await Tab.open(browser, site, service.url);
});

afterAll(async () => {
  await browser?.close();
  await site?.close();
  await service?.end();
});

const open = (roomId: string, more = {}) => ({ open: { subscribe: { roomId, ...more } } });
const consumed = ({ frames }: Feed, room: string) =>
  frames.flatMap(({ frame }) => (frame.consume?.roomId === room ? [frame.consume] : []));

async function sessionId(name: string): Promise<string> {
  return tab.until(name, ({ frames }) => {
    const id = frames[0]?.frame.session?.id;
    if (id === undefined) throw new Error('the session is not open yet');
    return id;
  });
}

test('a session of 100 rooms brings the messages of each', async () => {
  // Goal: one connection is enough for many rooms. Method: a session opens with half of the rooms, SessionCommand opens the others; a
  // message goes to each room; one subscription and one call more show that the connections of the page are free.
  for (const roomId of ROOMS) await service.call('CreateRoom', { roomId, persist: true });
  const { url } = service;
  const commands = ROOMS.slice(0, 50).map((room) => open(room));
  await tab.follow('hundred', { service: url, way: 'session', rooms: ROOMS, commands });
  const id = await sessionId('hundred');
  const others = ROOMS.slice(50).map((room) => open(room));
  const request = { sessionId: id, number: '1', commands: others };
  expect((await tab.call(url, 'SessionCommand', request)).status).toBe(200);
  await tab.until('hundred', (feed) => expect(count(feed, 'opened')).toBe(100));
  await Promise.all(
    ROOMS.map((roomId) => service.call('Publish', { roomId, payload: base64(`to ${roomId}`) })),
  );
  await tab.until('hundred', (feed) => {
    for (const room of ROOMS) expect(texts(feed, room)).toEqual([`to ${room}`]);
  });
  for (const at of range(1, 4)) {
    await tab.follow(`beside ${at}`, { service: url, way: 'subscribe', rooms: ['room-1'] });
    await tab.until(`beside ${at}`, (feed) => expect(sequences(feed)).toEqual([1]));
  }
  expect((await tab.call(url, 'GetRoom', { roomId: 'room-1' })).status).toBe(200);
  expect([...tab.protocols]).toEqual(['http/1.1']);
  expect(await tab.feed('hundred')).toMatchObject({ breaks: [], end: undefined });
  for (const name of ['hundred', ...range(1, 4).map((at) => `beside ${at}`)]) await tab.stop(name);
});

test('commands with numbers take effect once and in order', async () => {
  // Goal: a page may repeat a call whose outcome it does not know. Method: the page opens a room by command 1, sends it again, sends
  // command 3 before command 2, acknowledges, closes, and repeats the close: each has one effect.
  const { url } = service;
  await service.call('CreateRoom', { roomId: 'ordered', persist: true });
  await service.call('Publish', { roomId: 'ordered', payload: base64('one') });
  await tab.follow('ordered', { service: url, way: 'session', rooms: ['ordered'], commands: [] });
  const id = await sessionId('ordered');
  const command = async (number: number, ...commands: object[]) => {
    const request = { sessionId: id, number: `${number}`, commands };
    const { status, body } = await tab.call(url, 'SessionCommand', request);
    return status === 200 ? 'taken' : reasonOf(body);
  };
  const first = open('ordered', { subscriber: 'laptop' });
  expect(await command(1, first)).toBe('taken');
  expect(await command(1, first)).toBe('taken');
  await tab.until('ordered', (feed) => expect(texts(feed, 'ordered')).toEqual(['one']));
  const close = { close: { roomId: 'ordered' } };
  expect(await command(3, close)).toBe('CONFLICT');
  expect(await command(2, { ack: { roomId: 'ordered', sequence: '1' } })).toBe('taken');
  await tab.until('ordered', (feed) => {
    const acked = consumed(feed, 'ordered').flatMap((frame) => (frame.acked ? [frame.acked.position] : []));
    expect(acked).toEqual(['1']);
  });
  expect(await command(3, close)).toBe('taken');
  expect(await command(3, close)).toBe('taken');
  expect(await command(4, first)).toBe('taken');
  await tab.until('ordered', (feed) => expect(count(feed, 'opened')).toBe(2));
  const frames = consumed(await tab.feed('ordered'), 'ordered');
  expect(frames.filter((frame) => frame.rejected)).toEqual([]);
  expect(frames.filter((frame) => frame.closed)).toHaveLength(1);
  expect(frames.filter((frame) => frame.opened).map(({ opened }) => opened?.resumed ?? false)).toEqual([
    false,
    true,
  ]);
  // nothing came again: the acknowledgement counts
  expect(frames.filter((frame) => frame.message)).toHaveLength(1);
  await tab.stop('ordered');
  await expect.poll(() => command(5, close), { timeout: 10_000 }).toBe('SESSION_NOT_FOUND');
});
