import { create, toBinary } from '@bufbuild/protobuf';
import { anyPack, durationFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { expect, test } from 'vitest';
import { UnibusError } from '../src/error.js';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../src/gen/google/rpc/error_details_pb.js';
import { StatusSchema } from '../src/gen/google/rpc/status_pb.js';

interface Row {
  code: keyof typeof Code;
  reason?: string;
  domain?: string;
  retryMs?: number;
  outcomeClass: string;
  unknown: boolean;
}

// the table of U1, with the unknown outcomes of U11
const ROWS: Row[] = [
  { code: 'Unauthenticated', reason: 'UNAUTHENTICATED', outcomeClass: 'new_token', unknown: false },
  {
    code: 'Unauthenticated',
    reason: 'CREDENTIALS_EXPIRED',
    retryMs: 100,
    outcomeClass: 'new_token',
    unknown: false,
  },
  { code: 'Unavailable', reason: 'NATS_UNAVAILABLE', retryMs: 1000, outcomeClass: 'again', unknown: false },
  { code: 'DeadlineExceeded', reason: 'OUTCOME_UNKNOWN', retryMs: 500, outcomeClass: 'again', unknown: true },
  { code: 'DeadlineExceeded', reason: 'TIMEOUT', retryMs: 500, outcomeClass: 'again', unknown: true },
  { code: 'Internal', reason: 'INTERNAL', outcomeClass: 'final', unknown: true },
  { code: 'Aborted', reason: 'CONFLICT', retryMs: 100, outcomeClass: 'again', unknown: false },
  { code: 'Aborted', reason: 'TAKEN_OVER', outcomeClass: 'final', unknown: false },
  { code: 'ResourceExhausted', reason: 'RATE_LIMITED', retryMs: 1000, outcomeClass: 'again', unknown: false },
  { code: 'ResourceExhausted', reason: 'LIMIT_REACHED', outcomeClass: 'final', unknown: false },
  { code: 'NotFound', reason: 'ROOM_NOT_FOUND', outcomeClass: 'final', unknown: false },
  { code: 'Unavailable', outcomeClass: 'again', unknown: true },
  { code: 'DeadlineExceeded', outcomeClass: 'again', unknown: true },
  { code: 'Canceled', outcomeClass: 'again', unknown: true },
  { code: 'Unknown', outcomeClass: 'again', unknown: true },
  { code: 'Internal', outcomeClass: 'again', unknown: true },
  { code: 'Aborted', outcomeClass: 'again', unknown: true },
  { code: 'Unauthenticated', outcomeClass: 'new_token', unknown: false },
  { code: 'ResourceExhausted', outcomeClass: 'final', unknown: false },
  { code: 'PermissionDenied', outcomeClass: 'final', unknown: false },
  { code: 'Unimplemented', outcomeClass: 'final', unknown: false },
  { code: 'Unavailable', reason: '', outcomeClass: 'final', unknown: false },
  { code: 'NotFound', reason: '', retryMs: 100, outcomeClass: 'again', unknown: false },
  // what another service or a proxy says counts as no reason
  { code: 'Unavailable', reason: 'NO_ROUTE', domain: 'example.com', outcomeClass: 'again', unknown: true },
];

function detailsOf({ reason, domain = 'unibus.v1', retryMs }: Row) {
  const details = [];
  if (reason !== undefined) {
    const info = create(ErrorInfoSchema, { domain, reason, metadata: { limit: 'x' } });
    details.push(anyPack(ErrorInfoSchema, info));
  }
  if (retryMs !== undefined) {
    const info = create(RetryInfoSchema, { retryDelay: durationFromMs(retryMs) });
    details.push(anyPack(RetryInfoSchema, info));
  }
  return details;
}

test.each(ROWS)('$code $reason is $outcomeClass, in a stream and from a call', (row) => {
  // Goal: U1. Method: each row as a status in a stream, and as an error that the library decoded.
  const details = detailsOf(row);
  const status = create(StatusSchema, { code: Code[row.code], message: 'text', details });
  const thrown = new ConnectError('text', Code[row.code]);
  thrown.details = details.map(({ typeUrl, value }) => ({ type: typeUrl.split('/')[1] ?? '', value }));
  for (const error of [UnibusError.fromStatus(status), UnibusError.from(thrown)]) {
    expect(error.outcomeClass).toBe(row.outcomeClass);
    expect(error.outcomeUnknown).toBe(row.unknown);
    expect(error.reason).toBe(row.domain ? '' : (row.reason ?? ''));
    expect(error.retryAfterMs).toBe(row.domain ? undefined : row.retryMs);
    expect(error.message).toBe('text');
    if (error.reason) expect(error.metadata).toEqual({ limit: 'x' });
  }
});

test.each([
  { bytes: new Uint8Array(), retryAfterMs: 0 },
  { bytes: toBinary(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: -5n } })), retryAfterMs: -5000 },
])('RetryInfo without a time, or with one that has passed, means again: $retryAfterMs', ({ bytes, retryAfterMs }) => {
  // Goal: U1, U4. Method: RetryInfo without `retry_delay`, and a negative one.
  const info = anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { domain: 'unibus.v1', reason: 'NEW_REASON' }));
  const retry = { typeUrl: 'type.googleapis.com/google.rpc.RetryInfo', value: bytes };
  const error = UnibusError.fromStatus(create(StatusSchema, { code: 99, details: [info, retry] }));
  expect(error).toMatchObject({ code: 'UNKNOWN', reason: 'NEW_REASON', outcomeClass: 'again', retryAfterMs });
});

test('the details of another domain do not hide those of the service', () => {
  // Goal: U1. Method: a proxy has put its ErrorInfo before that of the service.
  const infos = ['proxy.example', 'unibus.v1'].map((domain) =>
    anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { domain, reason: 'ROOM_NOT_FOUND' })),
  );
  const status = create(StatusSchema, { code: Code.Unavailable, details: infos });
  expect(UnibusError.fromStatus(status)).toMatchObject({ reason: 'ROOM_NOT_FOUND', outcomeClass: 'final' });
});

test('wrong fields are named, and a detail that cannot be read is left out', () => {
  // Goal: U2. Method: a status with BadRequest, and with bytes that are no message.
  const info = anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { domain: 'unibus.v1', reason: 'INVALID_FIELD' }));
  const wrong = create(BadRequestSchema, { fieldViolations: [{ field: 'a.b' }, { field: 'c' }] });
  const broken = { typeUrl: 'type.googleapis.com/google.rpc.RetryInfo', value: new Uint8Array([255]) };
  const details = [info, anyPack(BadRequestSchema, wrong), broken];
  const bytes = toBinary(StatusSchema, create(StatusSchema, { code: Code.InvalidArgument, details }));
  expect(bytes.length).toBeGreaterThan(0);
  const error = UnibusError.fromStatus(create(StatusSchema, { code: Code.InvalidArgument, details }));
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', fields: ['a.b', 'c'], outcomeClass: 'final' });
});

test('what is no error of a call keeps its cause', () => {
  // Goal: a browser says "Failed to fetch" as a TypeError. Method: such an error, and one that is one of ours.
  const cause = new TypeError('Failed to fetch');
  const error = UnibusError.from(cause);
  expect(error).toMatchObject({ code: 'UNKNOWN', outcomeClass: 'again', cause });
  expect(UnibusError.from(error)).toBe(error);
});
