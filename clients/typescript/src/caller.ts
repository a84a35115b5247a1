// Calls: attempted until they succeed, fail finally, or their time is up (U9).

import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { createClient, type Client as Stub, type Transport } from '@connectrpc/connect';
import { authorization, type Credentials, type Refusal, refusalOf } from './credentials.js';
import { UnibusError } from './error.js';
import { RoomService } from './gen/unibus/v1/room_service_pb.js';
import { Backoff, libraryMs, limited, linked, sleep, timedOut } from './time.js';

/** What every call takes. */
export interface CallOptions {
  /** Cancels the call: it rejects with the reason of the signal (U3). */
  signal?: AbortSignal | undefined;
  /** The time for all attempts of the call, if it is shorter than that of the client (U9). */
  timeoutMs?: number | undefined;
}

/** How a call is repeated, where it differs from U9. */
export interface Policy {
  /** This reason means success if an earlier attempt may have taken effect (U10). */
  goneReason?: string;
  /** The call is not repeated after an unknown outcome (U10, U12). */
  unlessUnknown?: boolean;
  /** The call is repeated after each unknown outcome (U11). */
  evenIfUnknown?: boolean;
  /** The time for all attempts. */
  totalMs?: number;
  /** An attempt does not begin later than this. */
  lastBeginMs?: number;
}

/** The connection that calls and streams share. */
export interface Connection {
  /** Something came. */
  heard(): void;
  /** A call or a stream got nothing for so long. */
  silent(ms: number): void;
  close(): void;
}

/** Time limits of calls. */
export interface Limits {
  attemptMs: number;
  totalMs: number;
  /** For all attempts of a publish, if it is shorter than the room allows. */
  publishMs?: number | undefined;
}

/** Makes calls for everything else. */
export class Caller {
  /** For streams. */
  readonly stub: Stub<typeof RoomService>;

  constructor(
    private readonly transport: Transport,
    private readonly credentials: Credentials,
    readonly limits: Limits,
    /** Aborted when the client is closed. */
    readonly closed: AbortSignal,
    readonly connection: Connection,
  ) {
    this.stub = createClient(RoomService, transport);
  }

  /** The token for an attempt. A function that does not answer in time counts as one that fails (U8). */
  token(refusal: Refusal | undefined, signal: AbortSignal, ms = this.limits.attemptMs): Promise<string | undefined> {
    const late = timedOut('the token function did not answer in time').with({ outcomeUnknown: false });
    return limited(ms, late, signal, () => this.credentials.token(refusal));
  }

  /**
   * Makes a call with all its attempts. The answer is empty if the thing is gone, as `policy.goneReason` says. When the time is up, the
   * last error is thrown.
   */
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    { signal, timeoutMs = Number.POSITIVE_INFINITY }: CallOptions = {},
    policy: Policy = {},
  ): Promise<MessageShape<O>> {
    const { attemptMs, totalMs } = this.limits;
    const begun = performance.now();
    const end = begun + Math.min(timeoutMs, policy.totalMs ?? totalMs);
    const lastBegin = Math.min(end, begun + (policy.lastBeginMs ?? Number.POSITIVE_INFINITY));
    const backoff = new Backoff();
    return linked([signal, this.closed], async (either) => {
      let refusal: Refusal | undefined;
      let unknown = false;
      let last: UnibusError | undefined;
      for (;;) {
        let token: string | undefined;
        const attemptEnd = Math.min(performance.now() + attemptMs, end);
        let ms = attemptEnd - performance.now();
        try {
          token = await this.token(refusal, either, ms);
          ms = Math.max(1, Math.ceil(attemptEnd - performance.now()));
          const headers = authorization(token);
          const { message } = await limited(ms, timedOut(`no answer in ${ms} ms`), either, (limit) =>
            this.transport.unary(method, limit, libraryMs(ms), headers, request),
          );
          this.connection.heard();
          return message;
        } catch (thrown) {
          either.throwIfAborted();
          let error = UnibusError.from(thrown);
          const { code, reason, outcomeUnknown } = error;
          if (code === 'INTERNAL' && reason === '') checkRequest(method.input, request);
          // an attempt that was cut short says nothing of the connection, and less than the attempt before it
          const silent = code === 'DEADLINE_EXCEEDED' && reason === '';
          const short = ms < 0.9 * attemptMs;
          if (silent && !short && outcomeUnknown) this.connection.silent(ms);
          if (unknown && reason === policy.goneReason) return create(method.output);
          unknown ||= outcomeUnknown;
          if (unknown !== outcomeUnknown) error = error.with({ outcomeUnknown: unknown });
          if (unknown && policy.unlessUnknown) throw error;
          if (error.outcomeClass === 'final' && !(outcomeUnknown && policy.evenIfUnknown)) throw error;
          const pause = backoff.next(error);
          if (performance.now() + pause >= lastBegin)
            throw silent && short && last ? last.with({ outcomeUnknown: unknown }) : error;
          last = error;
          refusal = refusalOf(error, token);
          await sleep(pause, either);
        }
      }
    });
  }
}

/** Fails if the request cannot be encoded. The library reports that as INTERNAL, as it reports what may pass. */
export function checkRequest<I extends DescMessage>(schema: I, request: MessageInitShape<I>): void {
  try {
    toBinary(schema, create(schema, request));
  } catch (cause) {
    throw new UnibusError({ code: 'INVALID_ARGUMENT', message: `${cause}` }, cause);
  }
}
