// Follows a room with fetch, in Node or in a browser: node examples/fetch/follow.mjs URL ROOM COUNT [TOKEN]
// Prints COUNT messages, and begins with the oldest. docs/http.md explains the protocol.

/** Calls a method whose answer is a stream. Yields each message, and throws the error that ends the stream. */
export async function* stream(url, method, request, token) {
  const body = new TextEncoder().encode(JSON.stringify(request));
  const message = new Uint8Array(5 + body.length);
  new DataView(message.buffer).setUint32(1, body.length);
  message.set(body, 5);
  const headers = { "content-type": "application/connect+json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(`${url}/unibus.v1.RoomService/${method}`, { method: "POST", headers, body: message });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  let received = new Uint8Array();
  for await (const chunk of answer.body) {
    const joined = new Uint8Array(received.length + chunk.length);
    joined.set(received);
    joined.set(chunk, received.length);
    received = joined;
    while (received.length >= 5) {
      const end = 5 + new DataView(received.buffer, received.byteOffset).getUint32(1);
      if (received.length < end) break;
      const json = JSON.parse(new TextDecoder().decode(received.subarray(5, end)));
      // the flag 2 marks the last message, which has the error if there is one
      if (received[0] & 2) {
        if (json.error) throw Object.assign(new Error(json.error.message), json.error);
        return;
      }
      yield json;
      received = received.subarray(end);
    }
  }
  throw new Error("the stream broke off: subscribe again after the last sequence");
}

const [url, roomId, count, token] = process.argv.slice(2);
let left = Number(count);
for await (const frame of stream(url, "Subscribe", { roomId }, token)) {
  if (!frame.message) continue;
  // a sequence has 64 bits: a string in JSON, and a BigInt where it is counted with
  const sequence = BigInt(frame.message.sequence);
  console.log(`${sequence}: ${Buffer.from(frame.message.payload, "base64").toString()}`);
  if (--left === 0) break;
}
