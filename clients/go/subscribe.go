package unibus

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Handler processes a message. The message counts as processed when the handler returns nil (U19). If it returns an
// error, the subscription ends with that error, and the message comes again with the next one (U21).
type Handler func(ctx context.Context, m *Message) error

// SubscribeOption is an option of a subscription.
type SubscribeOption func(*subscribeOptions)

type subscribeOptions struct {
	start         Start
	concurrency   int
	readMessages  uint32
	readBytes     uint64
	ackCount      int
	ackInterval   time.Duration
	ackWait       time.Duration
	events        func(Event)
	untilCaughtUp bool
	stop          <-chan struct{}
}

// WithStart says where a new subscriber begins. A durable subscriber that exists ignores it.
func WithStart(start Start) SubscribeOption { return func(o *subscribeOptions) { o.start = start } }

// WithConcurrency runs several handlers at once. Messages are begun in order (U23). Messages ignores it.
func WithConcurrency(handlers int) SubscribeOption {
	return func(o *subscribeOptions) { o.concurrency = max(handlers, 1) }
}

// WithReadAhead bounds the messages that the client has read and not processed, and their payloads (U24). The
// defaults are 256 messages and 4 MiB. One message may exceed the second bound. There is always one message for each
// handler.
func WithReadAhead(messages, bytes int) SubscribeOption {
	return func(o *subscribeOptions) {
		o.readMessages, o.readBytes = uint32(min(max(messages, 1), 1<<30)), uint64(max(bytes, 1))
	}
}

// WithAckBatch says after how many messages, and after which time, the client acknowledges (U20). The defaults are
// 100 and 200 ms.
func WithAckBatch(messages int, interval time.Duration) SubscribeOption {
	return func(o *subscribeOptions) { o.ackCount, o.ackInterval = messages, interval }
}

// WithAckWait bounds the wait for the last confirmation (U20). The default is 5 s.
func WithAckWait(limit time.Duration) SubscribeOption {
	return func(o *subscribeOptions) { o.ackWait = limit }
}

// WithEvents calls a function for each event, in order with the messages (U25). It holds up the messages, so it must
// be quick.
func WithEvents(events func(Event)) SubscribeOption {
	return func(o *subscribeOptions) { o.events = events }
}

// UntilCaughtUp ends the subscription without an error after the messages that are stored when it is opened.
func UntilCaughtUp() SubscribeOption { return func(o *subscribeOptions) { o.untilCaughtUp = true } }

// WithStop ends the subscription in order and without an error when the channel is closed: the contexts of running
// handlers are not cancelled (U27).
func WithStop(stop <-chan struct{}) SubscribeOption {
	return func(o *subscribeOptions) { o.stop = stop }
}

// Subscribe gives the messages of the room to a handler, one after the other and in order, until ctx ends, the
// handler fails (U21), or an error is final. It connects again after every other error, renews the token, and goes on
// where it was (U15).
//
// With a name the service keeps the position of the durable subscriber, and the next subscription of this name goes
// on there. Two programs must not use one name at the same time: the newer one takes over, and the older one ends
// with TAKEN_OVER. Without a name the position is lost when Subscribe returns.
//
// When ctx ends, Subscribe waits for running handlers, which see the end of ctx, and for the confirmation of the last
// acknowledgement. Then it returns ctx.Err(). When the client is closed it does the same, and returns nil (U27).
func (r *Room) Subscribe(ctx context.Context, name string, handler Handler, opts ...SubscribeOption) error {
	o := subscribeOptions{
		concurrency: 1, readMessages: 256, readBytes: 4 << 20, ackCount: 100, ackInterval: 200 * time.Millisecond,
		ackWait: 5 * time.Second,
	}
	for _, opt := range opts {
		opt(&o)
	}
	o.readMessages = max(o.readMessages, uint32(o.concurrency))
	return newSubscription(ctx, r, name, o).run(ctx, handler)
}

// Messages is Subscribe as an iterator. A message counts as processed when the loop asks for the next one (U19): a
// message at which the loop is left comes again with the next subscription. The last pair has the error, if there is
// one.
func (r *Room) Messages(ctx context.Context, name string, opts ...SubscribeOption) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		left := errors.New("the loop was left")
		opts := append(opts[:len(opts):len(opts)], WithConcurrency(1))
		err := r.Subscribe(ctx, name, func(_ context.Context, m *Message) error {
			if !yield(m, nil) {
				return left
			}
			return nil
		}, opts...)
		if err != nil && err != left {
			yield(nil, err)
		}
	}
}

// subscription is one call of Subscribe. Its goroutine delivers; another one receives (stream.go).
type subscription struct {
	subscribeOptions
	client *Client
	room   *Room
	name   string
	ctx    context.Context // of the streams: does not end with the context of the program
	cancel context.CancelFunc

	queued   chan struct{} // wakes the goroutine that delivers
	commands chan struct{} // wakes the goroutine that sends
	received chan struct{} // closed when no more is received

	// of the goroutine that receives
	login  login
	pauses backOff

	mu        sync.Mutex
	track     tracker
	queue     []item // received and not yet given to a handler
	failed    error  // of a handler
	err       error  // why nothing follows after the queue
	finishing bool   // the program has ended the subscription: flush and close
	stream    streamState
	restart   bool // the next stream starts at `start`
	ephemeral bool // known after `opened`
}

// item is a message or an event in the queue.
type item struct {
	message *Message
	event   Event
	stream  int // the number of the stream that brought the message
	running *delivery
}

// errStopped ends the delivery without an error.
var errStopped = errors.New("stopped")

func newSubscription(ctx context.Context, r *Room, name string, o subscribeOptions) *subscription {
	s := &subscription{
		subscribeOptions: o, client: r.client, room: r, name: name,
		login: login{client: r.client}, restart: true, track: tracker{durable: name != ""},
		queued: make(chan struct{}, 1), commands: make(chan struct{}, 1), received: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

func (s *subscription) run(ctx context.Context, handler Handler) error {
	defer s.cancel() // also if a handler panics
	if err := s.client.hold(&s.client.subscriptions); err != nil {
		return err
	}
	defer s.client.subscriptions.Done()
	go s.receive()
	return s.finish(s.deliver(ctx, handler))
}

// deliver gives messages to handlers until the subscription ends, and waits for the handlers. It returns errStopped,
// or why the subscription has ended.
func (s *subscription) deliver(ctx context.Context, handler Handler) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, s.concurrency)
	for {
		slots <- struct{}{}
		it, err := s.next(ctx)
		switch {
		case err != nil:
			return err
		case it.message == nil:
			if s.events != nil {
				s.events(it.event)
			}
			<-slots
		case s.concurrency == 1:
			s.handle(ctx, handler, it)
			<-slots
		default:
			begun := make(chan struct{}) // goroutines do not run in the order in which they are made
			running.Go(func() {
				close(begun)
				s.handle(ctx, handler, it)
				<-slots
			})
			<-begun
		}
	}
}

// next waits for the next message or event.
func (s *subscription) next(ctx context.Context) (item, error) {
	for {
		if it, ready, err := s.take(ctx); ready {
			return it, err
		}
		select {
		case <-s.queued:
		case <-ctx.Done():
		case <-s.stop:
		case <-s.client.closing.Done():
		}
	}
}

func (s *subscription) take(ctx context.Context) (it item, ready bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return it, true, ctx.Err()
	case s.failed != nil:
		return it, true, s.failed
	case s.client.closing.Err() != nil, isClosed(s.stop):
		return it, true, errStopped
	}
	for len(s.queue) > 0 {
		it = s.queue[0]
		s.queue[0] = item{}
		s.queue = s.queue[1:]
		report := true
		switch event := it.event.(type) {
		case nil:
			it.running = s.track.begin(it.message)
			if report = it.running != nil; !report {
				s.giveBack(it)
			}
		case Gap:
			it.event, report = s.track.gap(event)
		}
		if report {
			return it, true, nil
		}
	}
	return item{}, s.err != nil, s.err
}

// handle processes one message.
func (s *subscription) handle(ctx context.Context, handler Handler, it item) {
	err := handler(ctx, it.message)
	s.mu.Lock()
	if err == nil {
		s.track.done(it.running)
		s.giveBack(it)
	} else if s.failed == nil {
		s.failed = err
	}
	s.mu.Unlock()
	wake(s.commands)
	wake(s.queued)
}

// finish flushes the acknowledgements and ends the streams (U20, U27).
func (s *subscription) finish(err error) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), s.ackWait)
	defer cancel()
	s.mu.Lock()
	s.finishing = true
	if !s.stream.open {
		s.cancel()
	}
	s.mu.Unlock()
	wake(s.commands)
	select {
	case <-s.received:
	case <-limit.Done():
		s.cancel()
		<-s.received
	}
	s.mu.Lock()
	left := s.track.durable && s.track.watermark > s.track.confirmed
	request := s.acknowledgement(s.track.watermark)
	s.mu.Unlock()
	var flush error
	if left {
		_, flush = call(limit, s.client, repeat{}, s.client.service.Acknowledge, request)
	}
	if err == errStopped {
		return flush
	}
	return err
}

// acknowledgement makes the request that acknowledges all messages up to a sequence.
func (s *subscription) acknowledgement(sequence uint64) *unibusv1.AcknowledgeRequest {
	request := &unibusv1.AcknowledgeRequest{RoomId: s.room.id, Subscriber: s.name, Sequence: sequence}
	if generation := s.stream.generation; generation != 0 {
		request.Generation = &generation
	}
	return request
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wake wakes the goroutine that waits for a channel of capacity one, now or the next time.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
