// One type of error for failed calls, for statuses inside streams, and for failures of the library (U1, U2).

import { durationMs } from '@bufbuild/protobuf/wkt';
import { ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js';
import type { Status } from './gen/google/rpc/status_pb.js';

// The place of a name is its number in gRPC.
const CODES = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
] as const;

/** The name of a status code of gRPC. */
export type StatusCode = (typeof CODES)[number];

/**
 * What an outcome means for the next attempt (U1): `again` may succeed later, `new_token` needs another token, and `final` stays as
 * it is.
 */
export type OutcomeClass = 'again' | 'new_token' | 'final';

/** What an error says. */
export interface ErrorFields {
  code: StatusCode;
  message: string;
  /** The reason of `ErrorInfo`. Empty if the error is not one of the service. */
  reason?: string;
  metadata?: Readonly<Record<string, string>>;
  fields?: readonly string[];
  retryAfterMs?: number | undefined;
  /** Without it, the code and the reason decide. */
  outcomeClass?: OutcomeClass;
  outcomeUnknown?: boolean;
  messageId?: string | undefined;
}

const AGAIN_WITHOUT_REASON: ReadonlySet<StatusCode> = new Set([
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'CANCELLED',
  'UNKNOWN',
  'INTERNAL',
  'ABORTED',
]);
const UNKNOWN_REASONS: ReadonlySet<string> = new Set(['OUTCOME_UNKNOWN', 'TIMEOUT', 'INTERNAL']);

function classify({ code, reason, retryAfterMs }: ErrorFields): OutcomeClass {
  if (reason) {
    if (reason === 'UNAUTHENTICATED' || reason === 'CREDENTIALS_EXPIRED') return 'new_token';
    return retryAfterMs === undefined ? 'final' : 'again';
  }
  if (code === 'UNAUTHENTICATED') return 'new_token';
  return AGAIN_WITHOUT_REASON.has(code) ? 'again' : 'final';
}

/** An outcome other than success. Match on `code` and `reason`, never on the message: docs/errors.md lists the reasons (U2). */
export class UnibusError extends Error {
  override readonly name = 'UnibusError';
  readonly code: StatusCode;
  /** The reason, from the closed list in docs/errors.md. Empty if the error does not come from the service. */
  readonly reason: string;
  /** The metadata of `ErrorInfo`, such as `last_sequence` or `limit`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The wrong fields of the request. */
  readonly fields: readonly string[];
  /** The time after which an attempt may succeed. */
  readonly retryAfterMs: number | undefined;
  readonly outcomeClass: OutcomeClass;
  /** Whether the call may have taken effect (U11). */
  readonly outcomeUnknown: boolean;
  /** The id of the message that was not published, or of which that is not known. */
  readonly messageId: string | undefined;

  constructor(what: ErrorFields, cause?: unknown) {
    super(what.message, cause === undefined ? undefined : { cause });
    this.code = what.code;
    this.reason = what.reason ?? '';
    this.metadata = what.metadata ?? {};
    this.fields = what.fields ?? [];
    this.retryAfterMs = what.retryAfterMs;
    this.outcomeClass = what.outcomeClass ?? classify(what);
    this.outcomeUnknown =
      what.outcomeUnknown ?? (this.reason === '' ? this.outcomeClass === 'again' : UNKNOWN_REASONS.has(this.reason));
    this.messageId = what.messageId;
  }

  /** A status inside a stream. */
  static fromStatus({ code, message, details }: Status): UnibusError {
    const error = new ConnectError(message, code);
    error.details = details.map(({ typeUrl, value }) => ({ type: typeUrl.slice(typeUrl.lastIndexOf('/') + 1), value }));
    return UnibusError.from(error);
  }

  /** Whatever a call threw. Details that cannot be read are left out. */
  static from(thrown: unknown): UnibusError {
    if (thrown instanceof UnibusError) return thrown;
    const error = ConnectError.from(thrown);
    const what = { code: CODES[error.code] ?? 'UNKNOWN', message: `${error.rawMessage}${whyOf(error.cause)}` };
    const info = error.findDetails(ErrorInfoSchema).find(({ domain }) => domain === 'unibus.v1');
    if (info === undefined) return new UnibusError(what, thrown);
    const [retryInfo] = error.findDetails(RetryInfoSchema);
    const violations = error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
    const all: ErrorFields = {
      ...what,
      reason: info.reason,
      metadata: { ...info.metadata },
      fields: violations.map(({ field }) => field),
      // the service says what helps, also if it does not name the reason
      ...(info.reason === '' && { outcomeClass: retryInfo ? 'again' : 'final', outcomeUnknown: false }),
      retryAfterMs: retryInfo && (retryInfo.retryDelay ? durationMs(retryInfo.retryDelay) : 0),
    };
    return new UnibusError(all, thrown);
  }

  /** The same error with other values. */
  with(changes: Partial<ErrorFields>): UnibusError {
    return new UnibusError({ ...this, message: this.message, ...changes }, this.cause);
  }
}

/** What fetch keeps to itself: it says "fetch failed", and its cause says "connection refused". */
function whyOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  if (!(cause instanceof Error)) return '';
  return `: ${cause.message || ('code' in cause && cause.code) || cause.name}`;
}

/** A mistake of the program, found before anything was sent. */
export const invalid = (field: string, message: string): UnibusError =>
  new UnibusError({ code: 'INVALID_ARGUMENT', message, fields: [field] });

/** The reason of calls after the client was closed (U3). */
export const closedReason = (what: string): DOMException => new DOMException(`the ${what} is closed`, 'AbortError');
