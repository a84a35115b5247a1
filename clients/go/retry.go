package unibus

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// pauses between attempts (U4)
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// backOff counts attempts that failed one after the other.
type backOff struct{ failures int }

// next returns the pause before the next attempt: half of it is random, and it is never shorter than the service
// asks.
func (b *backOff) next(retryAfter time.Duration) time.Duration {
	pause := min(firstPause<<min(b.failures, 10), longestPause)
	b.failures++
	return max(pause/2+rand.N(pause/2+1), retryAfter)
}

// repeat says what an attempt with an unknown outcome means for the next one (U10).
type repeat struct {
	done  string // the reason that then means success
	never bool   // there is no next attempt
}

// method is a call of the generated client.
type method[Q proto.Message, R any] func(ctx context.Context, request Q, opts ...grpc.CallOption) (*R, error)

// call makes a call until it succeeds, fails finally, or its time is up (U9).
func call[Q proto.Message, R any](ctx context.Context, c *Client, rule repeat, method method[Q, R], request Q) (*R, error) {
	latest := time.Now().Add(c.options.total)
	ctx, cancel := context.WithDeadline(ctx, latest)
	defer cancel()
	a := newAttempts(ctx, c)
	for {
		answer, e := attempt(a, method, request)
		switch {
		case e == nil:
			return answer, nil
		case a.unknown && rule.done != "" && e.Reason == rule.done:
			return new(R), nil
		case a.unknown && rule.never, !a.login.again(e), !a.pause(e, latest):
			return nil, a.failed(e)
		}
	}
}

// attempts is the state of one call over its attempts.
type attempts struct {
	ctx     context.Context // of the call: the program's, with the time of all attempts
	client  *Client
	login   login
	backOff backOff
	unknown bool   // an attempt had an unknown outcome
	last    *Error // the newest outcome that was not our own limit
}

func newAttempts(ctx context.Context, c *Client) *attempts {
	return &attempts{ctx: ctx, client: c, login: login{client: c}}
}

// attempt makes one attempt. It notes whether the outcome is unknown.
func attempt[Q proto.Message, R any](a *attempts, method method[Q, R], request Q) (*R, *Error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.client.options.attempt)
	defer cancel()
	ctx, err := a.login.context(ctx)
	if err != nil {
		return nil, fromError(err)
	}
	answer, err := method(ctx, request)
	if err == nil {
		return answer, nil
	}
	e := fromError(err)
	if wrong := unsendable(request); wrong != nil {
		e = fromError(wrong)
	}
	a.unknown = a.unknown || e.OutcomeUnknown
	return nil, e
}

// pause waits before the next attempt. It is false if there is none, since it would begin later than `latest`.
func (a *attempts) pause(e *Error, latest time.Time) bool {
	if a.client.closed.Err() != nil || a.ctx.Err() != nil {
		return false
	}
	a.last = e
	pause := a.backOff.next(e.RetryAfter)
	if time.Now().Add(pause).After(latest) {
		return false
	}
	return sleep(a.ctx, a.client.closed, pause)
}

// failed gives the end of a call its error: the program's own cancel (U3), or the last outcome (U9).
func (a *attempts) failed(e *Error) error {
	switch {
	case a.ctx.Err() == context.Canceled:
		return context.Canceled
	case a.client.closed.Err() != nil:
		return ErrClosed
	case a.ctx.Err() != nil && a.last != nil && e.Code == codes.DeadlineExceeded && e.Reason == "":
		// the last attempt was cut short, so the outcome before it tells more
		e = a.last
	}
	final := *e
	final.OutcomeUnknown = a.unknown
	final.cause = errors.Join(a.ctx.Err(), e.cause)
	return &final
}

// sleep waits, and is false if one of the contexts ended first.
func sleep(ctx, other context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-other.Done():
	}
	return false
}
