package unibus

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Publisher publishes messages to one room without waiting for each answer (U13), and keeps their order (U14). It is
// made by Room.Publisher and must be closed.
type Publisher struct {
	room        *Room
	maxMessages int
	maxBytes    int
	ctx         context.Context // ends when the publisher gives up
	cancel      context.CancelCauseFunc
	done        chan struct{} // closed when run has ended
	turn        chan struct{} // a lock of Send that is given in the order of those who wait

	// of the goroutine of run
	login  login
	pauses backOff
	policy publishPolicy
	broken *Error // why the last stream ended

	mu         sync.Mutex
	changed    sync.Cond  // of what follows
	unanswered []*Pending // in the order of the program; the first `sent` of them were sent on the open stream
	sent       int
	bytes      int    // payloads of all unanswered messages
	last       uint64 // the number of the newest message
	failed     error  // the first failure since the last Flush
	closing    bool
	drain      *Error // an outcome after which the open stream sends nothing more, and a new one sends again
	silence    *time.Timer
}

// Pending is a message that a Publisher has taken: a future of its answer.
type Pending struct {
	number    uint64
	request   *unibusv1.PublishRequest
	id        string    // made by the client; empty if the program gave one
	since     time.Time // when its first attempt began, or when it was taken if there was none
	begun     bool      // there was one
	unknown   bool      // an attempt had an unknown outcome
	done      chan struct{}
	published Published
	err       error
}

// Done is closed when the message is answered.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait waits for the answer. If ctx ends first, the message is published nevertheless.
func (p *Pending) Wait(ctx context.Context) (Published, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		if !isClosed(p.done) {
			return Published{}, ctx.Err()
		}
	}
	return p.published, p.err
}

// PublisherOption is an option of a Publisher.
type PublisherOption func(*Publisher)

// WithWindow bounds the unanswered messages of a publisher and the bytes of their payloads (U13). The defaults are
// 1024 and 4 MiB. A single larger message is sent alone.
func WithWindow(messages, bytes int) PublisherOption {
	return func(p *Publisher) { p.maxMessages, p.maxBytes = max(messages, 1), bytes }
}

// Publisher opens a publisher. It connects with the first message.
func (r *Room) Publisher(opts ...PublisherOption) (*Publisher, error) {
	if err := r.client.hold(&r.client.publishers); err != nil {
		return nil, err
	}
	p := newPublisher(r)
	for _, opt := range opts {
		opt(p)
	}
	stop := context.AfterFunc(r.client.flushing, func() { p.Close(context.Background()) })
	go func() {
		defer r.client.publishers.Done()
		defer close(p.done)
		defer stop()
		p.run()
	}()
	return p, nil
}

func newPublisher(r *Room) *Publisher {
	p := &Publisher{
		room: r, maxMessages: 1024, maxBytes: 4 << 20, login: login{client: r.client},
		done: make(chan struct{}), turn: make(chan struct{}, 1),
	}
	p.changed.L = &p.mu
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	return p
}

// await waits until something holds, or ctx ends. The caller has the lock.
func (p *Publisher) await(ctx context.Context, holds func() bool) error {
	if holds() {
		return nil
	}
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})()
	for !holds() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.changed.Wait()
	}
	return nil
}

// Send gives a message to the publisher. It waits only while too many messages are unanswered (U13). The publisher
// copies the payload.
func (p *Publisher) Send(ctx context.Context, payload []byte, opts ...PublishOption) (*Pending, error) {
	request, err := p.room.message(bytes.Clone(payload), opts)
	if err != nil {
		return nil, err
	}
	m := &Pending{request: request, done: make(chan struct{})}
	if request.MessageId == "" {
		m.id = randomID()
	}
	select {
	case p.turn <- struct{}{}: // a small message does not overtake a large one that waits
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err = p.await(ctx, func() bool {
		fits := len(p.unanswered) < p.maxMessages && p.bytes+len(payload) <= p.maxBytes
		return p.closing || fits || len(p.unanswered) == 0
	})
	switch {
	case err != nil:
		return nil, err
	case p.closing:
		return nil, ErrClosed
	}
	p.last++
	m.number, m.since = p.last, time.Now()
	p.unanswered = append(p.unanswered, m)
	p.bytes += len(payload)
	p.changed.Broadcast()
	return m, nil
}

// Flush waits until every message that was sent before is answered (U14). It returns the first error with which a
// message failed since the last Flush, so that a program that looks at no Pending misses none.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last
	err := p.await(ctx, func() bool { return len(p.unanswered) == 0 || p.unanswered[0].number > last })
	if err == nil {
		err, p.failed = p.failed, nil
	}
	return err
}

// Close takes no further messages, flushes, and ends the publisher. It waits at most as long as ctx and the time of
// all attempts of a call allow. Messages that are then unanswered fail, with an unknown outcome if they were sent (U14).
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	p.changed.Broadcast()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, p.room.client.options.total)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		p.cancel(failure(codes.DeadlineExceeded, "the publisher was closed before the answer"))
	})()
	<-p.done
	return p.Flush(context.Background())
}

// run opens a stream as often as there is something to send. In the end it fails what is unanswered.
func (p *Publisher) run() {
	var next time.Time // when the next stream begins
	for p.wait(next) {
		next = time.Time{}
		err := p.stream()
		if p.ctx.Err() != nil {
			continue
		}
		if p.broken = nil; err == nil {
			continue
		}
		p.broken = fromError(err)
		if p.broken.OutcomeUnknown || p.login.again(p.broken) {
			next = time.Now().Add(p.pauses.next(p.broken.RetryAfter))
		} else {
			p.failAll(p.broken)
		}
	}
	if closed, ok := context.Cause(p.ctx).(*Error); ok {
		if p.broken != nil {
			closed.Message += "; the last failure was: " + p.broken.Message
		}
		p.failAll(closed)
	}
}

// wait waits for an unanswered message, and until `next`. It fails messages that cannot wait so long. It is false when
// the publisher has ended.
func (p *Publisher) wait(next time.Time) bool {
	pause, cancel := context.WithDeadline(p.ctx, next)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await(pause, func() bool {
		p.expire(next)
		return p.closing && len(p.unanswered) == 0
	})
	p.await(p.ctx, func() bool { return p.closing || len(p.unanswered) > 0 })
	return p.ctx.Err() == nil && len(p.unanswered) > 0
}

// stream sends all unanswered messages over one PublishStream, then later ones, until the stream ends. It returns nil
// if the program needs no stream at the end.
func (p *Publisher) stream() error {
	limit := p.room.client.options.attempt
	lookup, stop := context.WithTimeout(p.ctx, limit) // then messages whose time is up can fail
	defer stop()
	policy, err := p.room.policy(lookup)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(p.ctx)
	defer cancel(nil)
	silence := time.AfterFunc(limit, func() { cancel(failure(codes.DeadlineExceeded, "no answer for %v", limit)) })
	defer silence.Stop()
	p.begin(policy, silence)
	return p.end(because(ctx, p.exchange(ctx)))
}

// exchange sends and receives on one stream until it ends.
func (p *Publisher) exchange(ctx context.Context) error {
	ctx, err := p.login.context(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.room.client.service.PublishStream(ctx)
	if err != nil {
		return err
	}
	var writer sync.WaitGroup
	writer.Go(func() { p.write(ctx, stream) })
	defer writer.Wait()
	defer cancel()
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		p.answer(answer)
	}
}

// begin makes all unanswered messages unsent, for a new stream.
func (p *Publisher) begin(policy publishPolicy, silence *time.Timer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.policy, p.silence, p.sent, p.drain = policy, silence, 0, nil
}

// write sends messages as they come.
func (p *Publisher) write(ctx context.Context, stream unibusv1.RoomService_PublishStreamClient) {
	for {
		next, err := p.next(ctx)
		switch {
		case err != nil:
			return
		case next == nil:
			stream.CloseSend()
			return
		case stream.Send(&unibusv1.PublishStreamRequest{
			CorrelationId: next.number, Publish: next.request, Acks: unibusv1.PublishAcks_PUBLISH_ACKS_EACH,
		}) != nil: // Recv has the reason
			p.mu.Lock()
			p.sent--
			p.mu.Unlock()
			return
		}
	}
}

// next waits for the next message to send. It is nil when nothing more is to be sent on this stream.
func (p *Publisher) next(ctx context.Context) (*Pending, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.await(ctx, func() bool {
		// the stream may have opened too late for a message that is to be sent again
		for p.drain == nil && p.sent < len(p.unanswered) && p.unanswered[p.sent].unknown && p.late(p.unanswered[p.sent], time.Now()) {
			p.resolve(p.sent, Published{}, p.broken)
		}
		return p.drain != nil || p.closing || p.sent < len(p.unanswered)
	})
	if err != nil {
		return nil, err
	}
	if p.drain != nil || p.sent == len(p.unanswered) {
		p.silence.Reset(p.room.client.options.attempt)
		return nil, nil
	}
	next := p.unanswered[p.sent]
	p.sent++
	if p.sent == 1 {
		p.silence.Reset(p.room.client.options.attempt)
	}
	if !next.begun {
		next.begun, next.since = true, time.Now()
	}
	if next.id != "" { // in an ephemeral room a message has none (U12)
		next.request.MessageId = ""
		if p.policy.persist {
			next.request.MessageId = next.id
		}
	}
	return next, nil
}

// answer takes one answer of the stream.
func (p *Publisher) answer(answer *unibusv1.PublishStreamResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.find(answer.GetCorrelationId())
	if i >= p.sent || p.unanswered[i].number != answer.GetCorrelationId() {
		return
	}
	m := p.unanswered[i]
	if status := answer.GetError(); status == nil {
		p.pauses.failures = 0
		p.resolve(i, p.room.published(m.request, p.policy, answer.GetResult()), nil)
	} else {
		e := fromStatus(status)
		m.unknown = m.unknown || e.OutcomeUnknown
		again := p.policy.repeats(&p.login, e)
		withoutID := p.room.outdated(e) && m.id != "" && m.request.MessageId != ""
		if !again && !withoutID {
			p.resolve(i, Published{}, e)
		}
		if p.drain == nil && (again || withoutID || e.Reason == "ROOM_NOT_FOUND") { // the next stream asks for the room (U12)
			p.drain = e
			e.Class = Again // also if it is an unknown outcome (U11), or if the id was wrong
			p.changed.Broadcast()
		}
	}
	if p.sent > 0 || p.drain != nil || p.closing {
		p.silence.Reset(p.room.client.options.attempt)
	} else {
		p.silence.Stop()
	}
}

// find returns the place of a message among the unanswered ones.
func (p *Publisher) find(number uint64) int {
	return sort.Search(len(p.unanswered), func(i int) bool { return p.unanswered[i].number >= number })
}

// end says what the end of a stream means for the messages that were sent on it.
func (p *Publisher) end(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == io.EOF && p.drain != nil:
		return p.drain
	case len(p.unanswered) == 0:
		return nil // such as the end of an idle stream
	case err == io.EOF:
		err = failure(codes.Unavailable, "the service ended the stream")
	}
	e := fromError(err)
	for i := p.sent - 1; i >= 0 && e.OutcomeUnknown; i-- {
		p.unanswered[i].unknown = true
		if !p.policy.persist {
			p.resolve(i, Published{}, e)
		}
	}
	if p.drain != nil {
		return p.drain
	}
	return e
}

// expire fails the messages for which no attempt may begin then.
func (p *Publisher) expire(then time.Time) {
	for i := 0; i < len(p.unanswered); {
		if p.late(p.unanswered[i], then) {
			p.resolve(i, Published{}, p.broken)
		} else {
			i++
		}
	}
}

// late says whether no attempt for a message may begin then (U11).
func (p *Publisher) late(m *Pending, then time.Time) bool {
	all, last := p.policy.times(&p.room.client.options)
	if m.unknown {
		all = last
	}
	return then.Sub(m.since) > all
}

// failAll fails all unanswered messages.
func (p *Publisher) failAll(e *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.unanswered) > 0 {
		p.resolve(0, Published{}, e)
	}
}

// resolve answers an unanswered message.
func (p *Publisher) resolve(i int, published Published, e *Error) {
	m := p.unanswered[i]
	if e != nil {
		own := *e
		own.OutcomeUnknown, own.MessageID = m.unknown, m.request.MessageId
		m.err = &own
		if p.failed == nil {
			p.failed = m.err
		}
	}
	m.published = published
	if i == 0 {
		p.unanswered[0] = nil
		p.unanswered = p.unanswered[1:]
	} else {
		p.unanswered = slices.Delete(p.unanswered, i, i+1)
	}
	if i < p.sent {
		p.sent--
	}
	p.bytes -= len(m.request.Payload)
	close(m.done)
	p.changed.Broadcast()
}
