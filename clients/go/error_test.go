package unibus

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// statusWith makes a status as the service does. A retry of less than 0 means: without RetryInfo.
func statusWith(code codes.Code, domain, reason string, retry time.Duration) *status.Status {
	s := status.New(code, "text")
	details := []protoadapt.MessageV1{}
	if reason != "" {
		details = append(details, &errdetails.ErrorInfo{Domain: domain, Reason: reason, Metadata: map[string]string{"position": "7"}})
	}
	if retry >= 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	with, err := s.WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return with
}

// U1, U11: the class of an outcome and whether it is known follow from the table.
func TestClassification(t *testing.T) {
	const none = -time.Second
	tests := []struct {
		code    codes.Code
		domain  string
		reason  string
		retry   time.Duration
		class   Class
		unknown bool
	}{
		{codes.Unauthenticated, domain, "UNAUTHENTICATED", none, NewToken, false},
		{codes.Unauthenticated, domain, "CREDENTIALS_EXPIRED", none, NewToken, false},
		{codes.Unauthenticated, domain, "CREDENTIALS_EXPIRED", 0, NewToken, false},
		{codes.Aborted, domain, "CONFLICT", 100 * time.Millisecond, Again, false},
		{codes.Aborted, domain, "TAKEN_OVER", none, Final, false},
		{codes.Aborted, domain, "ROOM_RECREATED", none, Final, false},
		{codes.ResourceExhausted, domain, "RATE_LIMITED", time.Second, Again, false},
		{codes.ResourceExhausted, domain, "LIMIT_REACHED", none, Final, false},
		{codes.Unavailable, domain, "NATS_UNAVAILABLE", time.Second, Again, false},
		{codes.Unavailable, domain, "DRAINING", 100 * time.Millisecond, Again, false},
		{codes.DeadlineExceeded, domain, "OUTCOME_UNKNOWN", 500 * time.Millisecond, Again, true},
		{codes.DeadlineExceeded, domain, "TIMEOUT", 500 * time.Millisecond, Again, true},
		{codes.Internal, domain, "INTERNAL", none, Final, true},
		{codes.NotFound, domain, "ROOM_NOT_FOUND", none, Final, false},
		{codes.Unavailable, "", "", none, Again, true},
		{codes.DeadlineExceeded, "", "", none, Again, true},
		{codes.Canceled, "", "", none, Again, true},
		{codes.Unknown, "", "", none, Again, true},
		{codes.Internal, "", "", none, Again, true},
		{codes.Aborted, "", "", none, Again, true},
		{codes.Unauthenticated, "", "", none, NewToken, false},
		{codes.ResourceExhausted, "", "", none, Final, false},
		{codes.PermissionDenied, "", "", none, Final, false},
		{codes.Unimplemented, "", "", none, Final, false},
		{codes.Unavailable, "other.example", "ROOM_NOT_FOUND", none, Again, true},
		{codes.Unavailable, domain, "SOMETHING_NEW", none, Final, false},
		{codes.NotFound, "other.example", "UNAUTHENTICATED", time.Second, Final, false},
	}
	for _, test := range tests {
		e := fromError(statusWith(test.code, test.domain, test.reason, test.retry).Err())
		if e.Class != test.class || e.OutcomeUnknown != test.unknown {
			t.Errorf("%v %s %s: %v, unknown %v; want %v, %v", test.code, test.domain, test.reason, e.Class, e.OutcomeUnknown, test.class, test.unknown)
		}
	}
}

// U2: the error has the details of the status.
func TestErrorHasDetails(t *testing.T) {
	s, err := statusWith(codes.InvalidArgument, domain, "INVALID_FIELD", 2*time.Second).WithDetails(
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "room_id", Description: "is empty"}}})
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if !errors.As(error(fromStatus(s.Proto())), &e) {
		t.Fatal("errors.As does not find it")
	}
	past, err := status.New(codes.Aborted, "text").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(-time.Hour)})
	if err != nil || fromStatus(past.Proto()).RetryAfter != 0 {
		t.Error("a time in the past", err)
	}
	if e.Code != codes.InvalidArgument || e.Reason != "INVALID_FIELD" || e.Metadata["position"] != "7" || e.RetryAfter != 2*time.Second ||
		len(e.Fields) != 1 || e.Fields[0].Field != "room_id" || status.Code(e) != codes.InvalidArgument {
		t.Errorf("%+v", e)
	}
}

// U3, U9: a deadline of the program is visible as such, and is of the class again.
func TestDeadlineIsNoCancel(t *testing.T) {
	e := fromError(context.DeadlineExceeded)
	if e.Class != Again || e.Code != codes.DeadlineExceeded || !errors.Is(e, context.DeadlineExceeded) || errors.Is(e, context.Canceled) {
		t.Errorf("%+v", e)
	}
}
