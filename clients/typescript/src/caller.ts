// Calls: attempted until they succeed, fail finally, or their time is up (U9).

import { createClient, type Client as Stub, type Transport } from '@connectrpc/connect';
import { authorization, type Credentials, type Refusal, refusalOf } from './credentials.js';
import { UnibusError } from './error.js';
import { RoomService } from './gen/unibus/v1/room_service_pb.js';
import { Backoff, linked, sleep, timedOut, unless } from './time.js';

/** What every call takes. */
export interface CallOptions {
  /** Cancels the call: it rejects with the reason of the signal (U3). */
  signal?: AbortSignal | undefined;
  /** The time for all attempts of the call, if it is shorter than that of the client (U9). */
  timeoutMs?: number | undefined;
}

/** What the stub takes. */
export interface Attempt {
  headers: Record<string, string>;
  signal: AbortSignal;
  timeoutMs: number;
}

/** Makes one attempt. */
export type Make<T> = (stub: Stub<typeof RoomService>, attempt: Attempt) => Promise<T>;

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

/** What calls and streams say of the connection that they share. */
export interface Health {
  /** Something came. */
  heard(): void;
  /** A call or a stream got nothing for so long. */
  silent(ms: number): void;
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
  readonly stub: Stub<typeof RoomService>;

  constructor(
    transport: Transport,
    readonly credentials: Credentials,
    readonly limits: Limits,
    /** Aborted when the client is closed. */
    readonly closed: AbortSignal,
    readonly health: Health,
  ) {
    this.stub = createClient(RoomService, transport);
  }

  /**
   * Makes a call with all its attempts. Returns undefined if the thing is gone, as `policy.goneReason` says. When the time is up, the
   * last error is thrown.
   */
  async call<T>(
    make: Make<T>,
    { signal, timeoutMs = Number.POSITIVE_INFINITY }: CallOptions = {},
    policy: Policy = {},
  ): Promise<T | undefined> {
    const { attemptMs } = this.limits;
    const begun = performance.now();
    const end = begun + Math.min(timeoutMs, policy.totalMs ?? this.limits.totalMs);
    const lastBegin = Math.min(end, begun + (policy.lastBeginMs ?? Number.POSITIVE_INFINITY));
    const backoff = new Backoff();
    let refusal: Refusal | undefined;
    let unknown = false;
    for (;;) {
      const used: { token?: string | undefined } = {};
      try {
        return await linked([signal, this.closed], (linkedSignal, abort) =>
          this.#attempt(make, Math.min(attemptMs, end - performance.now()), linkedSignal, abort, refusal, used),
        );
      } catch (thrown) {
        signal?.throwIfAborted();
        this.closed.throwIfAborted();
        let error = UnibusError.from(thrown);
        if (error.code === 'DEADLINE_EXCEEDED' && error.reason === '' && error.outcomeUnknown)
          this.health.silent(attemptMs);
        if (unknown && error.reason === policy.goneReason) return undefined;
        unknown ||= error.outcomeUnknown;
        if (unknown !== error.outcomeUnknown) error = error.with({ outcomeUnknown: unknown });
        if (unknown && policy.unlessUnknown) throw error;
        if (error.outcomeClass === 'final' && !(error.outcomeUnknown && policy.evenIfUnknown)) throw error;
        const pause = backoff.next(error);
        if (performance.now() + pause >= lastBegin) throw error;
        refusal = refusalOf(error, used.token);
        await linked([signal, this.closed], (linkedSignal) => sleep(pause, linkedSignal));
      }
    }
  }

  async #attempt<T>(
    make: Make<T>,
    ms: number,
    signal: AbortSignal,
    abort: (reason: unknown) => void,
    refusal: Refusal | undefined,
    used: { token?: string | undefined },
  ): Promise<T> {
    // the time of the attempt includes that of the token function; nothing was sent then
    let what = timedOut('the token function did not answer in time').with({ outcomeUnknown: false });
    const timer = setTimeout(() => abort(what), ms);
    try {
      const begun = performance.now();
      used.token = await unless(this.credentials.token(refusal), signal);
      what = timedOut(`no answer in ${Math.round(ms)} ms`);
      const timeoutMs = Math.max(1, Math.ceil(ms - (performance.now() - begun)));
      const options = { headers: authorization(used.token), signal, timeoutMs };
      const answer = await unless(make(this.stub, options), signal);
      this.health.heard();
      return answer;
    } finally {
      clearTimeout(timer);
    }
  }
}
