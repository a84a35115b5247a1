// Messages that the service cannot read: AES-256-GCM with the room and the sender bound to each message.
//
// This is an example, not a protocol. The program must bring the key to all readers, and change it before 2^32 messages, since nonces
// are random. Nothing here stops the service from leaving out, repeating or reordering messages. The sender is what the service
// verified (Message.sender): a message that is read under another sender or in another room does not open.

const NONCE_BYTES = 12;
const VERSION = 1;

/** A key from its 32 bytes. */
export const importKey = (bytes: Uint8Array<ArrayBuffer>): Promise<CryptoKey> =>
  crypto.subtle.importKey('raw', bytes, 'AES-GCM', false, ['encrypt', 'decrypt']);

/** What the key authenticates beside the payload: room and sender, each after its length in two bytes. */
function associated(room: string, sender: string): Uint8Array<ArrayBuffer> {
  const parts = [room, sender].flatMap((text) => {
    const bytes = new TextEncoder().encode(text);
    return [bytes.length >> 8, bytes.length & 255, ...bytes];
  });
  return Uint8Array.from(parts);
}

/** Encrypts a payload: one byte version, 12 bytes nonce, then the ciphertext with its tag. */
export async function seal(
  key: CryptoKey,
  room: string,
  sender: string,
  payload: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const algorithm = { name: 'AES-GCM', iv: nonce, additionalData: associated(room, sender) };
  const ciphertext = await crypto.subtle.encrypt(algorithm, key, payload);
  return Uint8Array.from([VERSION, ...nonce, ...new Uint8Array(ciphertext)]);
}

/** Decrypts a payload. Fails if it was sealed with another key, or for another room or sender. */
export async function open(
  key: CryptoKey,
  room: string,
  sender: string,
  sealed: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  if (sealed[0] !== VERSION) throw new Error('not a sealed message of this version');
  const nonce = sealed.slice(1, 1 + NONCE_BYTES);
  const algorithm = { name: 'AES-GCM', iv: nonce, additionalData: associated(room, sender) };
  const payload = await crypto.subtle.decrypt(algorithm, key, sealed.slice(1 + NONCE_BYTES));
  return new Uint8Array(payload);
}
