// Follows a room for ever: resumes after every break, and acknowledges what it has printed.
import { connect } from '@unibus/client';

const client = connect('http://127.0.0.1:50051');
const messages = client.room('orders').messages({ subscriber: 'billing' });
process.once('SIGINT', () => messages.close());

for await (const { sequence, payload } of messages) {
  console.log(`${sequence} ${new TextDecoder().decode(payload)}`);
}
await client.close();
