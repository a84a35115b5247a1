// The streams of browsers, which cannot send one: OpenSession with commands in calls, and batches. They work wherever fetch does.

import type { Caller } from './caller.js';
import { UnibusError } from './error.js';
import { type ConsumeResponse, RoomService } from './gen/unibus/v1/room_service_pb.js';
import type { Entry } from './outbox.js';
import type { Mailer, Round } from './publisher.js';
import type { Given, Link, Run } from './session.js';
import { libraryMs } from './time.js';

const COMMANDS_MAX = 256;
const BATCH_MAX = 1000;

/** A session that up to 1000 rooms share. */
export const sessionLink: Link = { roomsMax: 1000, lingerMs: 1000, run: openSession };

const next = ({ commands, signal }: Run) => commands.next(COMMANDS_MAX, signal);

async function* openSession(run: Run): AsyncGenerator<ConsumeResponse> {
  const { caller, headers, signal } = run;
  for (let commands = await next(run); ; ) {
    try {
      for await (const { frame } of caller.stub.openSession({ commands }, { headers, signal })) {
        if (frame.case === 'session') void sendCommands(run, frame.value.id);
        else if (frame.case === 'consume') yield frame.value;
      }
      return;
    } catch (thrown) {
      commands = withoutWrong(run, commands, thrown);
    }
  }
}

/** Sends commands in numbered calls, one at a time. A call is repeated under its number until its outcome is known. */
async function sendCommands(run: Run, sessionId: string): Promise<void> {
  const { caller, signal } = run;
  try {
    let number = 1n;
    for (let commands = await next(run); commands.length > 0; commands = await next(run)) {
      while (commands.length > 0) {
        try {
          await caller.call(RoomService.method.sessionCommand, { sessionId, number, commands }, { signal });
          number += 1n;
          break;
        } catch (thrown) {
          commands = withoutWrong(run, commands, thrown);
        }
      }
    }
  } catch (thrown) {
    // without its commands a session is of no use: its rooms are opened again in another one
    run.abort(UnibusError.from(thrown).with({ outcomeClass: 'again' }));
  }
}

/** A call with a wrong command takes none. Ends the room of the wrong one, and returns the commands of the others. */
function withoutWrong({ drop }: Run, commands: Given[], thrown: unknown): Given[] {
  const error = UnibusError.from(thrown);
  const [, at, field = ''] = error.fields[0]?.match(/^commands\[(\d+)\]\.(.*)$/) ?? [];
  const wrong = commands[Number(at)];
  if (error.reason !== 'INVALID_FIELD' || wrong === undefined) throw thrown;
  drop(wrong.roomId, error.with({ fields: [field] }));
  return commands.filter(({ roomId }) => roomId !== wrong.roomId);
}

/** Batches of what waits. The service takes at most 8 MiB together. */
export const batchMailer: Mailer = { bytesMax: 4 << 20, runRound: publishBatch };

async function publishBatch({ stub, limits }: Caller, round: Round): Promise<void> {
  const entries: Entry[] = [];
  for (let entry = await round.next(); entry; entry = entries.length < BATCH_MAX ? round.take() : undefined) {
    entries.push(entry);
  }
  if (entries.length === 0) return;
  const messages = entries.map(({ message: { roomId: _, ...message } }) => message);
  const timeoutMs = libraryMs(limits.attemptMs);
  const options = { headers: round.headers, signal: round.signal, ...(timeoutMs && { timeoutMs }) };
  const { results } = await stub.publishBatch({ roomId: round.roomId, messages }, options);
  for (const [at, { outcome }] of results.entries()) {
    const entry = entries[at];
    if (entry) round.answer(entry.correlationId, outcome);
  }
}
