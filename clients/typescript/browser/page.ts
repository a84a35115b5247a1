// The script of a page: follows rooms with the package as a page of a program would.

import { type Client, type ConnectOptions, connect, type Subscription } from '@unibus/client';

const clients = new Map<string, Client>();
const subscriptions: Subscription[] = [];
/** What came, a line for each message and event: `room sequence text`, or `room event`. */
const lines: string[] = [];

function client(address: string, options: ConnectOptions): Client {
  const name = JSON.stringify([address, options]);
  const found = clients.get(name) ?? connect(address, options);
  clients.set(name, found);
  return found;
}

const tools = {
  async create(address: string, rooms: string[]): Promise<void> {
    for (const id of rooms) await client(address, {}).createRoom({ id, persist: true });
  },
  follow(address: string, options: ConnectOptions, rooms: string[], subscriber?: string): void {
    for (const id of rooms) {
      const onEvent = ({ type }: { type: string }) => lines.push(`${id} ${type}`);
      const handler = ({ sequence, payload }: { sequence: bigint; payload: Uint8Array }) =>
        lines.push(`${id} ${sequence} ${new TextDecoder().decode(payload)}`);
      subscriptions.push(client(address, options).room(id).subscribe({ subscriber, onEvent }, handler));
    }
  },
  /** Publishes texts through one publisher. Returns their sequences. */
  async publish(address: string, room: string, texts: string[]): Promise<string[]> {
    const publisher = client(address, {}).room(room).publisher();
    const all = await Promise.all(texts.map((text) => publisher.publish(text)));
    await publisher.close();
    return all.map(({ sequence }) => `${sequence}`);
  },
  read: () => lines,
  async close(): Promise<void> {
    await Promise.all(subscriptions.splice(0).map((each) => each.close()));
    lines.length = 0;
  },
};

export type Tools = typeof tools;

declare global {
  interface Window {
    unibus: Tools;
  }
}

window.unibus = tools;
