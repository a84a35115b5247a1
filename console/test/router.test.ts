import { expect, test } from 'vitest';
import { href, parseRoute } from '../src/router';

test('every room id has a link that leads back to it', () => {
  for (const room of ['general', 'a/b', '100%', 'привет', 'q?x#y', '..', 'a b']) {
    for (const tab of ['live', 'settings'] as const) {
      expect(parseRoute(href({ page: 'room', room, tab }))).toEqual({ page: 'room', room, tab });
    }
  }
});

test('a room opens on its live messages, and unknown addresses are unknown', () => {
  expect(parseRoute('#/room/x')).toEqual({ page: 'room', room: 'x', tab: 'live' });
  expect(parseRoute('')).toEqual({ page: 'rooms' });
  expect(parseRoute('#/')).toEqual({ page: 'rooms' });
  expect(parseRoute('#/health')).toEqual({ page: 'health' });
  for (const address of [
    '#/room',
    '#/room/',
    '#/room/x/none',
    '#/room/x/live/y',
    '#/room/%ff',
    '#/other',
    '#/health/x',
  ]) {
    expect(parseRoute(address)).toEqual({ page: 'unknown' });
  }
});
