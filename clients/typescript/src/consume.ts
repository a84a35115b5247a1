// The streams of Node: gRPC over HTTP/2, with one Consume for each subscription and one PublishStream for each publisher.

import type { Caller } from './caller.js';
import { PublishAcks } from './gen/unibus/v1/room_service_pb.js';
import type { Mailer, Round } from './publisher.js';
import type { Commands, Given, Link } from './session.js';

async function* each(commands: Commands): AsyncGenerator<Given> {
  for (let next = await commands.next(1); next.length > 0; next = await commands.next(1)) yield* next;
}

/** A Consume stream for each room. */
export const consumeLink: Link = {
  roomsMax: 1,
  lingerMs: 0,
  run: ({ caller, commands, headers, signal }) => caller.stub.consume(each(commands), { headers, signal }),
};

/** A PublishStream for each publisher. */
export const streamMailer: Mailer = { bytesMax: Number.POSITIVE_INFINITY, runRound: publishStream };

async function publishStream({ stub }: Caller, round: Round): Promise<void> {
  async function* requests() {
    for (let entry = await round.next(); entry; entry = await round.next()) {
      const { correlationId, message } = entry;
      yield { correlationId, publish: message, acks: PublishAcks.EACH };
    }
  }
  const options = { headers: round.headers, signal: round.signal };
  for await (const { correlationId, outcome } of stub.publishStream(requests(), options)) {
    if (outcome.case !== 'through') round.answer(correlationId, outcome);
  }
}
