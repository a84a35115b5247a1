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
	for _, test := range []struct {
		policy    publishPolicy
		program   time.Duration
		all, last time.Duration
	}{
		{publishPolicy{true, 2 * time.Minute}, 0, 2 * time.Minute, 110 * time.Second},
		{publishPolicy{true, 2 * time.Minute}, 5 * time.Second, 5 * time.Second, 5 * time.Second},
		{publishPolicy{true, 2 * time.Minute}, time.Hour, 2 * time.Minute, 110 * time.Second},
		{publishPolicy{true, 24 * time.Hour}, 0, 24 * time.Hour, 24*time.Hour - 10*time.Second},
		{publishPolicy{true, time.Second}, 0, 10 * time.Second, -9 * time.Second}, // one attempt
		{publishPolicy{}, 0, time.Minute, time.Minute},
	} {
		o := &clientOptions{attempt: 10 * time.Second, total: time.Minute, publish: test.program}
		if all, last := test.policy.times(o); all != test.all || last != test.last {
			t.Errorf("%+v: all attempts have %v, the last one begins after %v", test, all, last)
		}
	}
}

// U12: the outcomes after which the client asks for the room again.
func TestOutdated(t *testing.T) {
	room := testClient(t).Room("r")
	for reason, want := range map[string]struct{ forgotten, ephemeral bool }{
		"ROOM_NOT_FOUND": {true, false}, "ROOM_NOT_PERSISTED": {true, true}, "PERMISSION_DENIED": {false, false},
	} {
		room.client.policies["r"] = publishPolicy{persist: true}
		ephemeral := room.outdated(&Error{Reason: reason})
		if _, known := room.client.policies["r"]; known == want.forgotten || ephemeral != want.ephemeral {
			t.Errorf("%s: known %v, ephemeral %v", reason, known, ephemeral)
		}
	}
}
