package unibus

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// U4: the pauses double up to 2 s, half of each is random, and none is shorter than the service asks.
func TestPauses(t *testing.T) {
	for range 200 {
		var b backOff
		for n := range 40 {
			whole := min(100*time.Millisecond<<min(n, 10), 2*time.Second)
			if pause := b.next(0); pause < whole/2 || pause > whole {
				t.Fatalf("pause %d is %v of %v", n, pause, whole)
			}
		}
		if pause := b.next(5 * time.Second); pause != 5*time.Second {
			t.Fatalf("the service asked for 5 s, the pause is %v", pause)
		}
	}
}

// testClient is a client that connects to nothing.
func testClient(t *testing.T, opts ...Option) *Client {
	t.Helper()
	c, err := Dial("http://127.0.0.1:1", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// outcomes is a method that ends with one outcome after the other, then with success.
func outcomes(calls *int, list ...error) method[*unibusv1.GetRoomRequest, string] {
	return func(context.Context, *unibusv1.GetRoomRequest, ...grpc.CallOption) (*string, error) {
		*calls++
		if *calls <= len(list) {
			return nil, list[*calls-1]
		}
		return new(string), nil
	}
}

var request = &unibusv1.GetRoomRequest{}

var (
	errBroken  = statusWith(codes.Unavailable, "", "", -1).Err()
	errRefused = statusWith(codes.Aborted, domain, "CONFLICT", time.Millisecond).Err()
	errGone    = statusWith(codes.NotFound, domain, "MEMBER_NOT_FOUND", -1).Err()
	errExpired = statusWith(codes.Unauthenticated, domain, "CREDENTIALS_EXPIRED", -1).Err()
)

// U9, U10: calls are repeated until they succeed or fail finally.
func TestCalls(t *testing.T) {
	tests := []struct {
		name     string
		rule     repeat
		outcomes []error
		calls    int
		reason   string
	}{
		{"success", repeat{}, nil, 1, ""},
		{"again", repeat{}, []error{errBroken, errRefused}, 3, ""},
		{"final", repeat{}, []error{errRefused, errGone}, 2, "MEMBER_NOT_FOUND"},
		{"gone after an unknown outcome", repeat{done: "MEMBER_NOT_FOUND"}, []error{errBroken, errGone}, 2, ""},
		{"gone after a known outcome", repeat{done: "MEMBER_NOT_FOUND"}, []error{errRefused, errGone}, 2, "MEMBER_NOT_FOUND"},
		{"never after an unknown outcome", repeat{never: true}, []error{errBroken, errGone}, 1, ""},
		{"again after a known outcome", repeat{never: true}, []error{errRefused}, 2, ""},
		{"without a token", repeat{}, []error{errExpired}, 1, "CREDENTIALS_EXPIRED"},
	}
	for _, test := range tests {
		calls := 0
		_, err := call(t.Context(), testClient(t), test.rule, outcomes(&calls, test.outcomes...), request)
		var e *Error
		errors.As(err, &e)
		if calls != test.calls || e != nil && e.Reason != test.reason || e == nil && test.reason != "" {
			t.Errorf("%s: %d calls, %v", test.name, calls, err)
		}
	}
}

// U8: a new token helps, the same one does not, and a function that fails is asked again.
func TestTokens(t *testing.T) {
	tests := []struct {
		name   string
		tokens []string // "" fails
		fixed  bool
		calls  int
		ok     bool
	}{
		{"renewed", []string{"a", "b"}, false, 2, true},
		{"the same", []string{"a", "a"}, false, 1, false},
		{"fails for a moment", []string{"", "a", "", "b"}, false, 2, true},
		{"fixed", []string{"a"}, true, 1, false},
	}
	for _, test := range tests {
		asked, calls := 0, 0
		supply := func(context.Context) (string, error) {
			token := test.tokens[asked]
			asked++
			if token == "" {
				return "", errors.New("down")
			}
			return token, nil
		}
		option := WithTokenFunc(supply)
		if test.fixed {
			option = WithToken(test.tokens[0])
		}
		_, err := call(t.Context(), testClient(t, option, WithPlaintextToken()), repeat{}, outcomes(&calls, errExpired), request)
		var e *Error
		if errors.As(err, &e) == test.ok || calls != test.calls || e != nil && (e.Class != Final || e.Reason != "CREDENTIALS_EXPIRED") {
			t.Errorf("%s: %d calls, %v", test.name, calls, err)
		}
	}
}

// U3, U9: the program's cancel ends a call as such. When the time is up, the last outcome is returned.
func TestEndsOfCalls(t *testing.T) {
	blocks := func(ctx context.Context, _ *unibusv1.GetRoomRequest, _ ...grpc.CallOption) (*string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c := testClient(t, WithAttemptTimeout(10*time.Millisecond), WithCallTimeout(300*time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := call(ctx, c, repeat{}, blocks, request); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	var e *Error
	if _, err := call(t.Context(), c, repeat{}, blocks, request); !errors.As(err, &e) || e.Class != Again || !e.OutcomeUnknown {
		t.Errorf("time of all attempts: %v", err)
	}
	calls := 0
	fails := outcomes(&calls, errRefused, errRefused, errRefused, errRefused, errRefused, errRefused, errRefused, errRefused)
	if _, err := call(t.Context(), c, repeat{}, fails, request); !errors.As(err, &e) || e.Reason != "CONFLICT" || e.OutcomeUnknown {
		t.Errorf("the last outcome: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t.Context(), c, repeat{}, blocks, request); err != ErrClosed {
		t.Errorf("closed: %v", err)
	}
}
