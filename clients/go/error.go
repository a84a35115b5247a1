package unibus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ErrClosed is the error of a call on a client or publisher that the program has closed (U3).
var ErrClosed = errors.New("unibus: closed")

// Class says what helps after an error (U1).
type Class int

const (
	// Final means that repeating the call unchanged does not help.
	Final Class = iota
	// Again means that the same call may succeed later.
	Again
	// NewToken means that the same call may succeed with a new token.
	NewToken
)

func (c Class) String() string {
	return [...]string{"final", "again", "new token"}[c]
}

// Error is every failure of a call, of a stream, of one message in a stream, and of the connection (U2).
type Error struct {
	// Code is the gRPC code.
	Code codes.Code
	// Reason is the reason of the service's ErrorInfo, one of the closed list in docs/errors.md. It is empty if the
	// failure does not come from the service. Match on it and never on Message.
	Reason string
	// Message is for people.
	Message string
	// Metadata has the values of the service's ErrorInfo, such as "position" or "limit".
	Metadata map[string]string
	// Fields names the wrong fields of the request.
	Fields []FieldViolation
	// RetryAfter is the time after which the service allows the same call, or 0.
	RetryAfter time.Duration
	// Class says what helps.
	Class Class
	// OutcomeUnknown is true if the call may have taken effect (U11).
	OutcomeUnknown bool
	// MessageID is the id of the message that could not be published (U11).
	MessageID string

	cause error
}

// FieldViolation names one wrong field of a request.
type FieldViolation struct {
	Field, Description string
}

func (e *Error) Error() string {
	text := "unibus: " + e.Code.String()
	if e.Reason != "" {
		text += " " + e.Reason
	}
	text += ": " + e.Message
	if e.OutcomeUnknown && e.MessageID != "" {
		text += fmt.Sprintf(" (the message %s may be stored)", e.MessageID)
	}
	return text
}

// Unwrap returns what caused a failure that the service did not report. If the time of the call was up, or the deadline
// of the program had passed, errors.Is(err, context.DeadlineExceeded) is true.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus lets status.FromError and status.Code of grpc-go read the error.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

const domain = "unibus.v1"

// reasons of the service after which the call may have taken effect (U11)
var unknownReasons = map[string]bool{"OUTCOME_UNKNOWN": true, "TIMEOUT": true, "INTERNAL": true}

// fromStatus classifies a status of a call or inside a stream (U1).
func fromStatus(s *spb.Status) *Error {
	e := &Error{Code: codes.Code(s.GetCode()), Message: s.GetMessage()}
	ours, retry := false, false
	for _, detail := range status.FromProto(s).Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == domain {
				ours, e.Reason, e.Metadata = true, d.GetReason(), d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			retry, e.RetryAfter = true, max(d.GetRetryDelay().AsDuration(), 0)
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, FieldViolation{v.GetField(), v.GetDescription()})
			}
		}
	}
	switch {
	case ours && (e.Reason == "UNAUTHENTICATED" || e.Reason == "CREDENTIALS_EXPIRED"):
		e.Class = NewToken
	case ours && retry:
		e.Class = Again
	case ours:
		e.Class = Final
	default:
		e.Class = classOf(e.Code)
	}
	e.OutcomeUnknown = unknownReasons[e.Reason] || !ours && e.Class == Again
	return e
}

// classOf returns the class of an outcome that is not the service's own.
func classOf(code codes.Code) Class {
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal, codes.Aborted:
		return Again
	case codes.Unauthenticated:
		return NewToken
	}
	return Final
}

// fromError gives every error of grpc-go and of this package as an *Error. The caller has excluded a cancel by the
// program.
func fromError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s := status.Convert(err)
	if errors.Is(err, context.DeadlineExceeded) {
		s = status.FromContextError(err)
	}
	e = fromStatus(s.Proto())
	e.cause = err
	return e
}

// failure is an outcome of the class again that this package finds itself (U1).
func failure(code codes.Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Class: Again, OutcomeUnknown: true}
}

// invalid is a final failure that this package finds before it sends something.
func invalid(err error) *Error {
	return &Error{Code: codes.InvalidArgument, Message: err.Error(), cause: err}
}

// unsendable returns a failure if a request cannot be encoded, such as a text that is not UTF-8. For grpc-go it is INTERNAL,
// as if another attempt could succeed.
func unsendable(request proto.Message) error {
	if _, err := proto.Marshal(request); err != nil {
		return invalid(err)
	}
	return nil
}

// because returns the failure with which a watchdog has cancelled ctx, together with what is known of the connection.
// Otherwise it returns err.
func because(ctx context.Context, err error) error {
	own, ok := context.Cause(ctx).(*Error)
	if !ok {
		return err
	}
	if text := status.Convert(err).Message(); !strings.Contains(text, context.Canceled.Error()) {
		own.Message += ": " + text
	}
	return own
}
