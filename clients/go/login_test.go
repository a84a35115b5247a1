package unibus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// U3: a token function that cancels something itself is no cancel by the program.
func TestTokenFunctionCancels(t *testing.T) {
	room := serve(t, &service{getRoom: persisted}, WithPlaintextToken(), WithCallTimeout(200*time.Millisecond),
		WithTokenFunc(func(context.Context) (string, error) { return "", fmt.Errorf("login: %w", context.Canceled) }))
	var e *Error
	if _, err := room.Info(t.Context()); !errors.As(err, &e) || errors.Is(err, context.Canceled) || e.Class != Again {
		t.Error(err)
	}
}

// U27: the end of the client ends a call that waits for a token.
func TestCloseWhileATokenIsAwaited(t *testing.T) {
	asked, hang := make(chan struct{}), make(chan struct{})
	defer close(hang)
	room := serve(t, &service{getRoom: persisted}, WithPlaintextToken(),
		WithTokenFunc(func(context.Context) (string, error) { close(asked); <-hang; return "t", nil }))
	go func() { <-asked; room.client.Close() }()
	within(t, time.Second, func() {
		if _, err := room.Info(t.Context()); err != ErrClosed {
			t.Error(err)
		}
	})
}

// U8: a publisher tries a token again that was refused for earlier messages.
func TestTokenThatWasRefused(t *testing.T) {
	var known atomic.Bool
	room := serve(t, &service{getRoom: persisted, stream: func(stream unibusv1.RoomService_PublishStreamServer) error {
		if !known.Load() {
			return statusWith(codes.Unauthenticated, domain, "UNAUTHENTICATED", -1).Err()
		}
		return answerAll(stored)(stream)
	}}, WithPlaintextToken(), WithTokenFunc(func(context.Context) (string, error) { return "t", nil }))
	p := publisher(t, room)
	var e *Error
	if err := send(t, p); !errors.As(err, &e) || e.Class != Final || e.Reason != "UNAUTHENTICATED" {
		t.Error(err)
	}
	known.Store(true)
	if err := send(t, p); err != nil {
		t.Error(err)
	}
}
