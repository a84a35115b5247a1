// Follows a silent room from a page of another origin, behind nginx with its default timeouts, which end a silent answer after 60 s.

import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Way } from './page/page';
import { count, launch, Site, Tab, texts } from './support/browser';
import { type Certificates, makeCertificates } from './support/certificates';
import { Nginx } from './support/nginx';
import { base64, Service } from './support/service';

const SILENCE = 120_000;
const WAYS: Way[] = ['subscribe', 'events', 'source', 'session', 'grpc-web'];

let browser: Browser;
let site: Site;
let certificates: Certificates;
/** With default flags, and without heartbeats and pings. */
let services: Service[] = [];
let nginx: Nginx;

beforeAll(async () => {
  certificates = makeCertificates();
  [browser, site] = await Promise.all([launch(), Site.open()]);
  const origins = [site.origin];
  const rare = ['--heartbeat-interval', '1h', '--keepalive-interval', '1h'];
  services = await Promise.all([Service.start({ origins }), Service.start({ origins, flags: rare })]);
  nginx = await Nginx.start(services, certificates);
});

afterAll(async () => {
  await browser?.close();
  await site?.close();
  await nginx?.end();
  await Promise.all(services.map((service) => service.end()));
  certificates?.remove();
});

test('heartbeats keep a silent subscription open behind nginx', { timeout: SILENCE + 60_000 }, async () => {
  // Goal: a proxy with default timeouts ends no subscription. Method: two minutes of silence, then a message, in every way and over
  // HTTP/2 with TLS and plain HTTP/1.1. Without heartbeats nginx ends the same subscription, so the test can fail.
  const [patient, impatient] = nginx.proxied;
  if (patient === undefined || impatient === undefined) throw new Error('two services are behind nginx');
  const followed: [Tab, string][] = [];
  for (const url of [patient.tls, patient.plain]) {
    const tab = await Tab.open(browser, site, url);
    const { status } = await tab.call(url, 'CreateRoom', { roomId: 'quiet', persist: true });
    expect([200, 409]).toContain(status);
    for (const way of WAYS) {
      await tab.follow(way, { service: url, way, rooms: ['quiet'] });
      followed.push([tab, way]);
    }
  }
  const other = await Tab.open(browser, site, impatient.tls);
  await other.call(impatient.tls, 'CreateRoom', { roomId: 'quiet', persist: true });
  for (const url of [impatient.tls, impatient.plain]) {
    await other.follow(url, { service: url, way: 'subscribe', rooms: ['quiet'] });
    await other.until(url, (feed) => expect(count(feed, 'opened')).toBe(1));
  }
  for (const [tab, way] of followed) await tab.until(way, (feed) => expect(count(feed, 'opened')).toBe(1));

  await new Promise((done) => setTimeout(done, SILENCE));
  await services[0]?.call('Publish', { roomId: 'quiet', payload: base64('at last') });
  for (const [tab, way] of followed) {
    await tab.until(way, (feed) => expect(texts(feed)).toEqual(['at last']));
    const feed = await tab.feed(way);
    expect(feed, way).toMatchObject({ breaks: [], end: undefined });
    expect(count(feed, 'opened'), way).toBe(1);
    expect(count(feed, 'heartbeat'), way).toBeGreaterThanOrEqual(7);
  }
  for (const url of [impatient.tls, impatient.plain]) {
    const { end } = await other.feed(url);
    expect(end, 'without heartbeats').toBeDefined();
  }
});
