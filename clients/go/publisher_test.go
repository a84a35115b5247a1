package unibus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// wire is a stream on which nothing is received. It notes what is sent.
type wire struct {
	sent   []string // payload and id
	closed bool
	full   func() // called after each message
}

func (w *wire) Send(r *unibusv1.PublishStreamRequest) error {
	text := string(r.Publish.Payload)
	if r.Publish.MessageId != "" {
		text += "#"
	}
	w.sent = append(w.sent, text)
	w.full()
	return nil
}
func (w *wire) CloseSend() error                               { w.closed = true; return nil }
func (w *wire) Recv() (*unibusv1.PublishStreamResponse, error) { return nil, io.EOF }
func (w *wire) Context() context.Context                       { return context.Background() }
func (w *wire) Header() (metadata.MD, error)                   { return nil, nil }
func (w *wire) Trailer() metadata.MD                           { return nil }
func (w *wire) RecvMsg(any) error                              { return io.EOF }
func (w *wire) SendMsg(any) error                              { return nil }

// bench is a publisher without a connection, with the messages "1", "2", ...
type bench struct {
	*Publisher
	messages []*Pending
}

func newBench(t *testing.T, persist bool, messages int) *bench {
	c := testClient(t)
	b := &bench{Publisher: newPublisher(c.Room("r"))}
	b.policy = publishPolicy{persist, 2 * time.Minute}
	for i := range messages {
		m, err := b.Send(t.Context(), fmt.Append(nil, i+1))
		if err != nil {
			t.Fatal(err)
		}
		b.messages = append(b.messages, m)
	}
	return b
}

// stream sends all messages that are due on a new stream, and returns them.
func (b *bench) stream() string {
	b.begin(b.policy, time.NewTimer(time.Hour))
	return b.more()
}

func (b *bench) more() string {
	ctx, cancel := context.WithCancel(context.Background())
	w := &wire{}
	w.full = func() {
		if b.sent == len(b.unanswered) {
			cancel()
		}
	}
	if b.sent == len(b.unanswered) && b.drain == nil {
		cancel()
	}
	b.write(ctx, w)
	if w.closed {
		w.sent = append(w.sent, "end")
	}
	return strings.Join(w.sent, " ")
}

func (b *bench) ok(i int, sequence uint64) {
	b.answer(&unibusv1.PublishStreamResponse{
		CorrelationId: b.messages[i-1].number, Outcome: &unibusv1.PublishStreamResponse_Result{Result: &unibusv1.PublishResponse{Sequence: sequence}},
	})
}

func (b *bench) fail(i int, s *status.Status) {
	b.answer(&unibusv1.PublishStreamResponse{
		CorrelationId: b.messages[i-1].number, Outcome: &unibusv1.PublishStreamResponse_Error{Error: s.Proto()},
	})
}

// results tells what has become of the messages.
func (b *bench) results() string {
	var all []string
	for _, m := range b.messages {
		var e *Error
		switch {
		case !isClosed(m.done):
			all = append(all, "-")
		case errors.As(m.err, &e) && e.OutcomeUnknown:
			all = append(all, "unknown")
		case m.err != nil:
			all = append(all, e.Reason)
		default:
			all = append(all, fmt.Sprint(m.published.Sequence))
		}
	}
	return strings.Join(all, " ")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, not %q", what, got, want)
	}
}

// U13, U14: after a broken stream all unanswered messages are sent again, in their order, with their ids, before
// later ones.
func TestResend(t *testing.T) {
	b := newBench(t, true, 4)
	expect(t, "first stream", b.stream(), "1# 2# 3# 4#")
	ids := []string{b.messages[1].request.MessageId, b.messages[2].request.MessageId}
	b.ok(1, 11)
	if e := fromError(b.end(status.Error(codes.Unavailable, "broken"))); e.Class != Again {
		t.Error(e)
	}
	m, _ := b.Send(t.Context(), []byte("5"))
	b.messages = append(b.messages, m)
	expect(t, "second stream", b.stream(), "2# 3# 4# 5#")
	if ids[0] != b.messages[1].request.MessageId || ids[1] != b.messages[2].request.MessageId || ids[0] == ids[1] || len(ids[0]) != 32 {
		t.Error("the ids changed")
	}
	for i := 2; i <= 5; i++ {
		b.ok(i, uint64(i+10))
	}
	expect(t, "results", b.results(), "11 12 13 14 15")
}

// U13, U14: an outcome of the class again inside a stream ends the stream and is repeated on the next one. Other
// answers count.
func TestAgainInsideAStream(t *testing.T) {
	b := newBench(t, true, 5)
	b.stream()
	b.ok(1, 11)
	b.fail(2, statusWith(codes.Unavailable, domain, "NATS_UNAVAILABLE", time.Second))
	b.fail(3, statusWith(codes.InvalidArgument, domain, "PAYLOAD_TOO_LARGE", -1))
	b.ok(4, 12)
	expect(t, "after the outcome", b.more(), "end")
	if e := fromError(b.end(io.EOF)); e.Reason != "NATS_UNAVAILABLE" || e.RetryAfter != time.Second {
		t.Error(e)
	}
	expect(t, "next stream", b.stream(), "2# 5#")
	b.ok(2, 13)
	b.ok(5, 14)
	expect(t, "results", b.results(), "11 13 PAYLOAD_TOO_LARGE 12 14")
}

// U12: a message of an ephemeral room has no id, and is not repeated after an unknown outcome.
func TestEphemeralMessages(t *testing.T) {
	b := newBench(t, false, 4)
	expect(t, "first stream", b.stream(), "1 2 3 4")
	b.ok(1, 0)
	b.fail(2, statusWith(codes.Unavailable, domain, "NATS_UNAVAILABLE", 0))
	b.fail(3, statusWith(codes.DeadlineExceeded, domain, "OUTCOME_UNKNOWN", 0))
	b.end(statusWith(codes.Unavailable, domain, "DRAINING", 0).Err())
	expect(t, "results", b.results(), "0 - unknown -")
	expect(t, "second stream", b.stream(), "2 4")
	b.end(status.Error(codes.Unavailable, "broken"))
	expect(t, "results", b.results(), "0 unknown unknown unknown")
}

// U11: a message fails before the room could forget its id, with an unknown outcome and the id.
func TestWindowEnds(t *testing.T) {
	b := newBench(t, true, 3)
	b.stream()
	e := fromError(b.end(status.Error(codes.Unavailable, "broken")))
	b.messages[0].since = time.Now().Add(-111 * time.Second)
	b.messages[1].since = time.Now().Add(-109 * time.Second)
	b.broken = e
	b.expire(time.Now())
	expect(t, "results", b.results(), "unknown - -")
	errors.As(b.messages[0].err, &e)
	if e.MessageID == "" || e.Class != Again {
		t.Errorf("%+v", e)
	}
	if err := b.failed; !errors.Is(err, b.messages[0].err) {
		t.Error(err)
	}
	b.begin(b.policy, time.NewTimer(time.Hour))
	b.messages[1].since = time.Now().Add(-111 * time.Second) // the stream opened late
	expect(t, "late stream", b.more(), "3#")
	expect(t, "results", b.results(), "unknown unknown -")
}

// U13: sending waits while too many messages or bytes are unanswered.
func TestWindow(t *testing.T) {
	b := newBench(t, true, 0)
	b.maxMessages, b.maxBytes = 3, 10
	full := func(size int) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		m, err := b.Send(ctx, make([]byte, size))
		if err == nil {
			b.messages = append(b.messages, m)
		}
		return err != nil
	}
	if full(100) || !full(0) {
		t.Error("one large message is taken, and nothing beside it")
	}
	b.stream()
	b.ok(1, 1)
	for i, want := range []struct {
		size int
		full bool
	}{{4, false}, {4, false}, {4, true}, {2, false}, {0, true}} {
		if full(want.size) != want.full {
			t.Errorf("%d: messages: %d, bytes: %d", i, len(b.unanswered), b.bytes)
		}
	}
}

// U14: a message that fits does not overtake one that waits for space.
func TestSendKeepsTheOrder(t *testing.T) {
	b := newBench(t, true, 1)
	b.maxBytes = 5
	large := make(chan error)
	go func() {
		_, err := b.Send(t.Context(), make([]byte, 5))
		large <- err
	}()
	time.Sleep(20 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Send(ctx, nil); err != context.DeadlineExceeded {
		t.Errorf("an empty message overtakes: %v", err)
	}
	b.stream()
	b.ok(1, 1)
	if err := <-large; err != nil {
		t.Error(err)
	}
}

// U11, U13, U14: whatever breaks, each message is stored once, under the sequence of its answer, and in order as long as the
// service refuses nothing.
func TestAnyOrderOfBreaks(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := newBench(t, true, 0)
		var log []string             // ids in the order in which they were stored
		var wireIn, wireOut []uint64 // numbers of messages, and of answers that are on their way
		refuses := seed%2 == 0
		b.begin(b.policy, time.NewTimer(time.Hour))
		broken := func(err error) {
			for n := r.IntN(len(wireIn) + 1); n > 0; n-- { // some arrive, and their answers do not
				store(&log, b, wireIn[0])
				wireIn = wireIn[1:]
			}
			wireIn, wireOut = nil, nil
			b.end(err)
			b.begin(b.policy, time.NewTimer(time.Hour))
		}
		for step := 0; step < 400 || len(b.unanswered) > 0; step++ {
			if step > 50_000 {
				t.Fatalf("%d: %d messages are never answered", seed, len(b.unanswered))
			}
			switch n := r.IntN(10); {
			case n < 3 && step < 400:
				m, _ := b.Send(t.Context(), []byte("x"))
				b.messages = append(b.messages, m)
			case n < 5:
				before := b.sent
				b.more()
				for _, m := range b.unanswered[before:b.sent] {
					wireIn = append(wireIn, m.number)
				}
			case n < 7 && len(wireIn) > 0:
				if store(&log, b, wireIn[0]); refuses && r.IntN(10) == 0 {
					b.fail(int(wireIn[0]), statusWith(codes.DeadlineExceeded, domain, "OUTCOME_UNKNOWN", 0))
				} else {
					wireOut = append(wireOut, wireIn[0])
				}
				wireIn = wireIn[1:]
			case n < 9 && len(wireOut) > 0:
				b.ok(int(wireOut[0]), store(&log, b, wireOut[0]))
				wireOut = wireOut[1:]
			case r.IntN(5) == 0:
				broken(status.Error(codes.Unavailable, "broken"))
			case b.drain != nil && len(wireIn)+len(wireOut) == 0:
				broken(io.EOF)
			}
		}
		if len(log) != len(b.messages) {
			t.Fatalf("%d: %d of %d are stored", seed, len(log), len(b.messages))
		}
		for i, m := range b.messages {
			if m.err != nil || m.published.Sequence != uint64(i+1) {
				t.Fatalf("%d: message %d: sequence %d, %v", seed, i+1, m.published.Sequence, m.err)
			}
		}
	}
}

// store does what the room does with a message: an id that it knows is not stored again. It returns the sequence.
func store(log *[]string, b *bench, number uint64) uint64 {
	id := b.messages[number-1].request.MessageId
	if i := slices.Index(*log, id); i >= 0 {
		return uint64(i + 1)
	}
	*log = append(*log, id)
	return uint64(len(*log))
}
