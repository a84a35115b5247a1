import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb';

/** A call that failed, as the console shows it. */
export interface Failure {
  /** The gRPC code in capitals. */
  code: string;
  /** The reason of the service; empty if the failure is not an answer of the service. */
  reason: string;
  message: string;
  /** The wrong fields of the request. */
  fields: { field: string; problem: string }[];
  retryAfter: number | undefined;
  metadata: Record<string, string>;
}

function name(code: Code): string {
  return (Code[code] ?? 'Unknown').replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();
}

/** What a thrown value says. A value without a reason of the service means that there was no answer. */
export function failure(thrown: unknown): Failure {
  const error = ConnectError.from(thrown);
  const [info] = error.findDetails(ErrorInfoSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  const [wrong] = error.findDetails(BadRequestSchema);
  const delay = retry?.retryDelay;
  return {
    code: name(error.code),
    reason: info?.reason ?? '',
    message: info ? sentence(error.rawMessage) : noAnswer(error),
    fields: wrong?.fieldViolations.map(({ field, description }) => ({ field, problem: description })) ?? [],
    retryAfter: delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
    metadata: info?.metadata ?? {},
  };
}

function noAnswer(error: ConnectError): string {
  return error.code === Code.DeadlineExceeded
    ? 'The service did not answer in time. The call may have taken effect.'
    : 'The service did not answer.';
}

function sentence(text: string): string {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

/** Whether the call was ended by the console itself. */
export function isAborted(thrown: unknown): boolean {
  return ConnectError.from(thrown).code === Code.Canceled;
}
