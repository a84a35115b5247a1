package unibus

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// U11, U12: what is repeated, and until when.
func TestPublishPolicy(t *testing.T) {
	unknown := failure(codes.Unavailable, "broken")
	internal := fromStatus(statusWith(codes.Internal, domain, "INTERNAL", -1).Proto())
	refused := fromStatus(statusWith(codes.Unavailable, domain, "NATS_UNAVAILABLE", 0).Proto())
	final := fromStatus(statusWith(codes.NotFound, domain, "ROOM_NOT_FOUND", -1).Proto())
	l := &login{client: testClient(t)}
	for _, test := range []struct {
		persist bool
		e       *Error
		want    bool
	}{
		{true, unknown, true}, {true, internal, true}, {true, refused, true}, {true, final, false},
		{false, unknown, false}, {false, internal, false}, {false, refused, true}, {false, final, false},
	} {
		if got := (publishPolicy{persist: test.persist}).repeats(l, test.e); got != test.want {
			t.Errorf("persist %v, %v: %v", test.persist, test.e, got)
		}
	}
	now := time.Now()
	o := &clientOptions{attempt: 10 * time.Second}
	if latest := (publishPolicy{true, 2 * time.Minute}).latest(now, o); latest != now.Add(110*time.Second) {
		t.Errorf("the last attempt begins %v after the first", latest.Sub(now))
	}
	if !(publishPolicy{}).latest(now, o).IsZero() {
		t.Error("an ephemeral room has no window")
	}
}

// U12: the outcomes after which the client asks for the room again.
func TestOutdated(t *testing.T) {
	field := func(name string) *Error {
		return &Error{Reason: "INVALID_FIELD", Fields: []FieldViolation{{Field: name}}}
	}
	for e, want := range map[*Error]bool{
		field("message_id"): true, field("publish.message_id"): true, field("headers"): false,
		{Reason: "ROOM_NOT_FOUND"}: true, {Reason: "ROOM_NOT_PERSISTED"}: true, {Reason: "PERMISSION_DENIED"}: false,
	} {
		if isOutdated(e) != want {
			t.Errorf("%+v: %v", e, !want)
		}
	}
}
