import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { expect } from 'vitest';

const OUT = join(import.meta.dirname, 'out');
const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export function launch(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, headless: true, args: ARGUMENTS });
}

/** A page in a context of its own, that fails the test if it breaks its policy, throws, or calls another host. */
export class Watched {
  readonly faults: string[] = [];

  private constructor(readonly page: Page) {}

  static async open(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Watched> {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    await context.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) => {
        console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
      });
    });
    const page = await context.newPage();
    const watched = new Watched(page);
    page.on('pageerror', (error) => watched.faults.push(`${error}`));
    page.on('console', (line) => {
      // a request that fails is no fault: some tests stop the service
      const isFault =
        line.type() === 'error' && !/Failed to load resource|blocked by CORS|net::ERR/.test(line.text());
      if (isFault) watched.faults.push(line.text());
    });
    page.on('request', (request) => {
      const { protocol, hostname } = new URL(request.url());
      const isOwn = protocol === 'data:' || hostname === new URL(url).hostname;
      if (!isOwn) watched.faults.push(`a request to ${request.url()}`);
    });
    await page.goto(url);
    return watched;
  }

  async picture(name: string): Promise<void> {
    mkdirSync(OUT, { recursive: true });
    await this.page.screenshot({ path: join(OUT, `${name}.png`) });
  }

  async close(): Promise<void> {
    await this.page.context().close();
    expect(this.faults).toEqual([]);
  }
}

/** The sequences of the messages that a page shows. */
export async function shownSequences(page: Page): Promise<number[]> {
  const texts = await page.locator('.message .sequence').allTextContents();
  return texts.map((text) => Number(text.replaceAll(',', '')));
}

export const range = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, at) => from + at);
