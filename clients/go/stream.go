package unibus

import (
	"context"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// steady is how long a subscription must be open so that the next pause is the shortest one again (U15)
const steady = 10 * time.Second

// streamState is what belongs to one Consume stream.
type streamState struct {
	number       int
	open         bool // `opened` has come, and the stream has not ended
	openedAt     time.Time
	closed       bool // the service has closed the subscription as it was asked to
	generation   uint64
	backMessages uint32 // credit to give back
	backBytes    uint64
	ackSince     time.Time // when a message was processed that is not acknowledged
	ackAfter     time.Time // no acknowledgement before, since one was rejected
	ping         bool
}

// receive opens the subscription again and again, until it ends (U15).
func (s *subscription) receive() {
	defer close(s.received)
	for {
		if again, pause := s.broken(s.attempt()); !again || !sleep(s.ctx, s.client.closed, pause) {
			s.end()
			return
		}
	}
}

// broken decides what follows after the end of a stream.
func (s *subscription) broken(err error) (again bool, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	steadily := s.stream.open && time.Since(s.stream.openedAt) > steady
	s.stream.open = false
	if s.finishing || s.stream.closed {
		return false, 0
	}
	if steadily {
		s.pauses.failures = 0
	}
	e := fromError(err)
	noPlace := e.Reason == "CURSOR_EXPIRED" || e.Reason == "POSITION_AFTER_END"
	recreated := e.Reason == "ROOM_RECREATED" || noPlace && !s.restart
	if !recreated && !s.login.again(e) {
		s.err = e
		if s.track.durable {
			s.queue = nil // for the next subscription of this name
		}
		return false, 0
	}
	pause = s.pauses.next(e.RetryAfter)
	s.push(item{event: Disconnected{e, pause}})
	if recreated { // U26
		s.drop()
		s.track = tracker{durable: s.track.durable}
		s.start, s.restart = FromAll(), true
		s.client.forget(s.room.id)
		s.push(item{event: Recreated{}})
	}
	return true, pause
}

// end says that nothing follows after the queue.
func (s *subscription) end() {
	s.mu.Lock()
	if s.err == nil {
		s.err = errStopped
	}
	s.mu.Unlock()
	wake(s.queued)
}

// attempt opens one stream and receives its frames until it ends.
func (s *subscription) attempt() error {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	dog := newWatchdog(time.Now())
	go s.watch(ctx, cancel, dog)
	return because(ctx, s.consume(ctx, dog))
}

func (s *subscription) consume(ctx context.Context, dog *watchdog) error {
	ctx, err := s.login.context(ctx)
	if err != nil {
		return err
	}
	open := s.opening()
	if err := unsendable(open); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.service.Consume(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(open); err != nil && err != io.EOF {
		return err
	}
	var sender sync.WaitGroup
	sender.Go(func() { s.send(ctx, stream) })
	defer sender.Wait() // else it could take commands of the next stream
	defer cancel()
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return failure(codes.Unavailable, "the service ended the stream")
		}
		if err != nil {
			return err
		}
		dog.frame(time.Now())
		if err := s.frame(response, dog); err != nil {
			return err
		}
	}
}

// watch ends a stream on which nothing comes (U16), and asks for a sign of life after a pause of this process (U17).
func (s *subscription) watch(ctx context.Context, cancel context.CancelCauseFunc, dog *watchdog) {
	began := time.Now()
	for sleep(ctx, s.client.closed, dog.interval()) {
		switch dog.tick(time.Now()) {
		case silent:
			cancel(failure(codes.DeadlineExceeded, "no frame came in time on a stream of %v", time.Since(began).Round(time.Millisecond)))
		case frozen:
			s.mu.Lock()
			s.stream.ping = s.stream.open
			s.mu.Unlock()
			wake(s.commands)
		}
	}
}

// opening is the first command of a stream. It gives credit for what is read ahead (U24).
func (s *subscription) opening() *unibusv1.ConsumeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = streamState{number: s.stream.number + 1, generation: s.stream.generation}
	start := s.start
	if !s.restart && !s.ephemeral {
		start = s.track.resume()
	}
	open := &unibusv1.ConsumeOpen{CreditMessages: s.readMessages, CreditBytes: s.readBytes}
	if s.ephemeral {
		s.keepQueue(open)
	}
	open.Subscribe = &unibusv1.SubscribeRequest{
		RoomId: s.room.id, Subscriber: s.name, AckMode: unibusv1.AckMode_ACK_MODE_EXPLICIT,
		Start: start.at, UntilCaughtUp: s.untilCaughtUp,
	}
	return &unibusv1.ConsumeRequest{Command: &unibusv1.ConsumeRequest_Open{Open: open}}
}

// keepQueue charges the messages in the queue to a new stream of an ephemeral room, since they do not come again.
func (s *subscription) keepQueue(open *unibusv1.ConsumeOpen) {
	for i, it := range s.queue {
		if it.message != nil {
			s.queue[i].stream = s.stream.number
			open.CreditMessages -= min(open.CreditMessages-1, 1)
			open.CreditBytes -= min(open.CreditBytes-1, uint64(len(it.message.Payload)))
		}
	}
}

// frame takes one frame. An error ends the stream.
func (s *subscription) frame(response *unibusv1.ConsumeResponse, dog *watchdog) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch frame := response.GetFrame().(type) {
	case *unibusv1.ConsumeResponse_Opened:
		dog.expect(time.Now(), 2*min(frame.Opened.GetHeartbeatInterval().AsDuration(), math.MaxInt64/2))
		s.opened(frame.Opened)
	case *unibusv1.ConsumeResponse_Message:
		s.pauses.failures = 0
		s.push(item{message: newMessage(frame.Message), stream: s.stream.number})
	case *unibusv1.ConsumeResponse_CaughtUp:
		s.push(item{event: CaughtUp{frame.CaughtUp.GetPosition()}})
	case *unibusv1.ConsumeResponse_Gap:
		g := frame.Gap
		s.push(item{event: Gap{g.GetFromSequence(), g.GetToSequence(), g.GetReason(), g.GetDropped()}})
	case *unibusv1.ConsumeResponse_Acked:
		s.track.acked(frame.Acked.GetPosition())
	case *unibusv1.ConsumeResponse_Rejected:
		return s.rejected(frame.Rejected)
	case *unibusv1.ConsumeResponse_Closed:
		switch {
		case s.finishing:
		case frame.Closed.GetCode() != int32(codes.OK):
			return fromStatus(frame.Closed)
		case !s.untilCaughtUp:
			return failure(codes.Unavailable, "the service closed the subscription")
		default: // the stream stays open for acknowledgements
			s.stream.closed, s.err = true, errStopped
			dog.expect(time.Now(), 0)
			wake(s.queued)
		}
	}
	return nil
}

// opened takes the first frame of a subscription, or a later one that says that the subscriber was moved (U22).
func (s *subscription) opened(frame *unibusv1.Opened) {
	position := frame.GetPosition()
	if s.stream.open {
		s.drop()
		s.track.moved(position, frame.GetCursor())
		s.push(item{event: Moved{position}})
		return
	}
	again := !s.restart
	s.ephemeral = frame.GetFirstSequence() == 0
	s.stream.open, s.stream.openedAt, s.stream.generation, s.restart = true, time.Now(), frame.GetGeneration(), false
	s.push(item{event: Opened{position, frame.GetResumed()}})
	switch {
	case s.ephemeral && again:
		s.push(item{event: Gap{Reason: GapDisconnected}}) // U18
	case s.ephemeral:
	default:
		s.drop() // it comes again
		if s.track.opened(position, frame.GetCursor()) {
			s.push(item{event: Moved{position}})
		}
	}
	wake(s.commands)
}

// rejected takes the refusal of a command. An acknowledgement of the class again is repeated (U20).
func (s *subscription) rejected(r *unibusv1.ConsumeRejected) error {
	e := fromStatus(r.GetError())
	switch {
	case e.Reason == "SUBSCRIPTION_NOT_OPEN":
		return nil // a `closed` frame says why
	case r.GetCommand() == unibusv1.ConsumeCommand_CONSUME_COMMAND_ACK && e.Class == Again:
		s.track.rejected()
		s.stream.ackAfter = time.Now().Add(max(e.RetryAfter, firstPause))
		wake(s.commands)
		return nil
	}
	return e
}

// push puts an item into the queue.
func (s *subscription) push(it item) {
	if s.finishing {
		return
	}
	s.queue = append(s.queue, it)
	wake(s.queued)
}

// drop takes out of the queue what the service sends again.
func (s *subscription) drop() {
	s.queue = slices.DeleteFunc(s.queue, func(it item) bool {
		switch it.event.(type) {
		case Gap, CaughtUp:
			return true
		}
		if it.message != nil {
			s.giveBack(it)
		}
		return it.message != nil
	})
}

// giveBack returns the credit of a message to the stream that brought it.
func (s *subscription) giveBack(it item) {
	if it.stream == s.stream.number {
		s.stream.backMessages++
		s.stream.backBytes += uint64(len(it.message.Payload))
		wake(s.commands)
	}
}

// send sends the commands that are due, and ends the stream when the subscription is finished.
func (s *subscription) send(ctx context.Context, stream unibusv1.RoomService_ConsumeClient) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		commands, wait, last := s.due(time.Now())
		for _, command := range commands {
			if stream.Send(command) != nil {
				return // Recv has the reason
			}
		}
		if last {
			stream.CloseSend()
			return
		}
		timer.Reset(wait)
		select {
		case <-s.commands:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// due returns the commands that are due now, and the time until the next one could be.
func (s *subscription) due(now time.Time) (commands []*unibusv1.ConsumeRequest, wait time.Duration, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait, st := time.Hour, &s.stream
	if !st.open {
		return nil, wait, false
	}
	if s.track.due() {
		if st.ackSince.IsZero() {
			st.ackSince = now
		}
		at := st.ackSince.Add(s.ackInterval)
		if s.finishing || s.track.processed >= s.ackCount {
			at = now
		}
		if st.ackAfter.After(at) {
			at = st.ackAfter
		}
		if wait = at.Sub(now); wait <= 0 {
			st.ackSince, wait = time.Time{}, time.Hour
			ack := s.acknowledgement(s.track.acknowledge())
			commands = append(commands, &unibusv1.ConsumeRequest{Command: &unibusv1.ConsumeRequest_Ack{Ack: ack}})
		}
	}
	if st.backMessages >= max(s.readMessages/4, 1) || st.backBytes >= max(s.readBytes/4, 1) {
		credit := &unibusv1.ConsumeCredit{RoomId: s.room.id, Messages: st.backMessages, Bytes: st.backBytes}
		commands = append(commands, &unibusv1.ConsumeRequest{Command: &unibusv1.ConsumeRequest_Credit{Credit: credit}})
		st.backMessages, st.backBytes = 0, 0
	}
	if st.ping {
		st.ping = false
		commands = append(commands, &unibusv1.ConsumeRequest{Command: &unibusv1.ConsumeRequest_Ping{Ping: &unibusv1.ConsumePing{}}})
	}
	last = s.finishing && !s.track.due()
	if last && !st.closed {
		end := &unibusv1.ConsumeClose{RoomId: s.room.id}
		commands = append(commands, &unibusv1.ConsumeRequest{Command: &unibusv1.ConsumeRequest_Close{Close: end}})
	}
	return commands, wait, last
}
