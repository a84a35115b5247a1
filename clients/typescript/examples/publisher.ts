// Publishes a thousand messages without waiting for each. Every message is stored once and in order, also if the service restarts.
import { connect, type UnibusError } from '@unibus/client';

const client = connect('http://127.0.0.1:50051');
await client.createRoom({ id: 'orders', persist: true });
const publisher = client.room('orders').publisher();
for (let order = 1; order <= 1000; order += 1) {
  await publisher.ready;
  publisher.publish(`order ${order}`).catch(({ code, reason, outcomeUnknown }: UnibusError) => {
    console.error(`order ${order}: ${code} ${reason}${outcomeUnknown ? ', may be stored' : ''}`);
  });
}
await publisher.close();
await client.close();
