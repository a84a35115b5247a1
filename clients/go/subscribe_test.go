package unibus

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// open makes a subscription with an open stream and no connection.
func open(t *testing.T, name string, position uint64) *subscription {
	s := newSubscription(t.Context(), testClient(t).Room("r"), name, subscribeOptions{
		concurrency: 1, readMessages: 8, readBytes: 100, ackCount: 3, ackInterval: 200 * time.Millisecond,
	})
	s.opening()
	receive(t, s, &unibusv1.ConsumeResponse{Frame: opened(position)})
	return s
}

func opened(position uint64) *unibusv1.ConsumeResponse_Opened {
	return &unibusv1.ConsumeResponse_Opened{Opened: &unibusv1.Opened{
		Position: position, FirstSequence: 1, HeartbeatInterval: durationpb.New(time.Second), Generation: 7, Resumed: true,
		Cursor: fmt.Sprint("o", position),
	}}
}

func receive(t *testing.T, s *subscription, frame *unibusv1.ConsumeResponse) {
	t.Helper()
	if err := s.frame(frame, newWatchdog(time.Now())); err != nil {
		t.Fatal(err)
	}
}

func receiveMessages(t *testing.T, s *subscription, sequences ...uint64) {
	t.Helper()
	for _, sequence := range sequences {
		receive(t, s, &unibusv1.ConsumeResponse{Frame: &unibusv1.ConsumeResponse_Message{
			Message: &unibusv1.Message{Sequence: sequence, Payload: make([]byte, 10), Cursor: fmt.Sprint("c", sequence)},
		}})
	}
}

// handled takes what is in the queue, handles it, and tells it.
func handled(t *testing.T, s *subscription) (all []string) {
	t.Helper()
	for {
		it, ready, err := s.take(t.Context())
		switch {
		case !ready || err != nil:
			return all
		case it.event != nil:
			all = append(all, fmt.Sprintf("%T", it.event)[len("unibus."):])
			continue
		}
		all = append(all, fmt.Sprint(it.message.Sequence))
		s.track.done(it.running)
		s.giveBack(it)
	}
}

func commands(s *subscription, at time.Time) (all []string) {
	list, _, _ := s.due(at)
	for _, c := range list {
		switch c := c.Command.(type) {
		case *unibusv1.ConsumeRequest_Ack:
			all = append(all, fmt.Sprintf("ack %d of %d", c.Ack.Sequence, c.Ack.GetGeneration()))
		case *unibusv1.ConsumeRequest_Credit:
			all = append(all, fmt.Sprintf("credit %d, %d", c.Credit.Messages, c.Credit.Bytes))
		case *unibusv1.ConsumeRequest_Ping:
			all = append(all, "ping")
		case *unibusv1.ConsumeRequest_Close:
			all = append(all, "close")
		}
	}
	return all
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, not %q", what, got, want)
	}
}

// U20, U24: acknowledgements are batched by count and by time, and carry the generation. Credit is given back in
// batches.
func TestCommands(t *testing.T) {
	s, now := open(t, "d", 0), time.Now()
	receiveMessages(t, s, 1)
	same(t, "delivered", handled(t, s), "Opened", "1")
	same(t, "at once", commands(s, now))
	same(t, "before 200 ms", commands(s, now.Add(199*time.Millisecond)))
	same(t, "after 200 ms", commands(s, now.Add(200*time.Millisecond)), "ack 1 of 7")
	receiveMessages(t, s, 2, 3, 4)
	handled(t, s)
	same(t, "three messages", commands(s, now.Add(time.Second)), "ack 4 of 7", "credit 4, 40")
	receive(t, s, &unibusv1.ConsumeResponse{Frame: &unibusv1.ConsumeResponse_Rejected{Rejected: &unibusv1.ConsumeRejected{
		Command: unibusv1.ConsumeCommand_CONSUME_COMMAND_ACK, Error: statusWith(codes.Aborted, domain, "CONFLICT", time.Hour).Proto(),
	}}})
	same(t, "rejected", commands(s, now.Add(2*time.Second)))
	same(t, "later", commands(s, time.Now().Add(2*time.Hour)), "ack 4 of 7")
	s.stream.ping = true
	same(t, "after a pause of the process", commands(s, now), "ping")
	receiveMessages(t, s, 5)
	handled(t, s)
	s.finishing = true
	same(t, "at the end", commands(s, time.Now().Add(3*time.Hour)), "ack 5 of 7", "close")
}

// U22, U24: after a reconnection the queue is filled anew, and what was given to a handler is skipped.
func TestReconnection(t *testing.T) {
	s := open(t, "d", 0)
	receiveMessages(t, s, 1, 2, 3, 4)
	same(t, "first", handled(t, s), "Opened", "1", "2", "3", "4")
	receiveMessages(t, s, 5, 6)
	if again, _ := s.broken(failure(codes.Unavailable, "broken")); !again {
		t.Fatal("not again")
	}
	request := s.opening().GetOpen()
	if request.GetCreditMessages() != 8 || request.GetSubscribe().GetStart().GetAfterCursor() != "c4" {
		t.Error(request)
	}
	receive(t, s, &unibusv1.ConsumeResponse{Frame: opened(0)})
	<-s.commands
	receiveMessages(t, s, 1, 2, 3, 4)
	same(t, "skipped", handled(t, s), "Disconnected", "Opened")
	<-s.commands // the credit of skipped messages is given back, although no handler returns
	same(t, "the acknowledgement again", commands(s, time.Now()), "ack 4 of 7", "credit 4, 40")
	receiveMessages(t, s, 5, 6)
	same(t, "second", handled(t, s), "5", "6")
}

// U22: a durable subscriber that comes back without its position belongs to a new log, or was deleted. None of its messages
// are taken for repetitions, whether the client has a cursor or not.
func TestSubscriberIsNew(t *testing.T) {
	s := open(t, "d", 100)
	handled(t, s)
	s.broken(errBroken)
	if start := s.opening().GetOpen().GetSubscribe().GetStart(); start.GetAfterCursor() != "o100" {
		t.Errorf("not the place of `opened`: %v", start)
	}
	expired := fromStatus(statusWith(codes.FailedPrecondition, domain, "CURSOR_EXPIRED", -1).Proto())
	if again, _ := s.broken(expired); !again {
		t.Fatal("a new log is no end")
	}
	if start := s.opening().GetOpen().GetSubscribe().GetStart(); start.GetAll() == nil {
		t.Errorf("not the beginning of the new log: %v", start)
	}
	again := opened(0)
	again.Opened.Resumed = false
	receive(t, s, &unibusv1.ConsumeResponse{Frame: again})
	receiveMessages(t, s, 1, 2)
	same(t, "delivered", handled(t, s), "Disconnected", "Disconnected", "Recreated", "Opened", "1", "2")
}

// U22: a second `opened` on one stream means that the subscriber was moved.
func TestMovedWhileOpen(t *testing.T) {
	s := open(t, "d", 0)
	receiveMessages(t, s, 1, 2)
	handled(t, s)
	receiveMessages(t, s, 3, 4)
	receive(t, s, &unibusv1.ConsumeResponse{Frame: opened(1)})
	receiveMessages(t, s, 2, 3)
	same(t, "delivered", handled(t, s), "Moved", "2", "3")
	same(t, "at once", commands(s, time.Now()), "credit 6, 60")
	same(t, "later", commands(s, time.Now().Add(time.Second)), "ack 3 of 7")
}

// U15, U26: what follows after the end of a stream.
func TestEndsOfStreams(t *testing.T) {
	for _, test := range []struct {
		code             codes.Code
		reason           string
		retry            time.Duration
		again, recreated bool
	}{
		{codes.Unavailable, "DRAINING", 0, true, false},
		{codes.Unavailable, "", -1, true, false},
		{codes.Aborted, "TAKEN_OVER", -1, false, false},
		{codes.NotFound, "ROOM_NOT_FOUND", -1, false, false},
		{codes.Unauthenticated, "CREDENTIALS_EXPIRED", 0, false, false}, // there is no token function
		{codes.Aborted, "ROOM_RECREATED", -1, true, true},
		{codes.FailedPrecondition, "CURSOR_EXPIRED", -1, true, true},
		{codes.OutOfRange, "POSITION_AFTER_END", -1, true, true},
	} {
		s := open(t, "", 5)
		receiveMessages(t, s, 6)
		handled(t, s)
		err := fromStatus(statusWith(test.code, domain, test.reason, test.retry).Proto())
		again, pause := s.broken(err)
		if again != test.again || again && (pause < 50*time.Millisecond || pause > 100*time.Millisecond) {
			t.Errorf("%s: %v, %v", test.reason, again, pause)
		}
		if again {
			if s.broken(failure(codes.Unavailable, "broken")); s.pauses.failures != 2 {
				t.Errorf("%s: %d failures in a row", test.reason, s.pauses.failures)
			}
		}
		start := s.opening().GetOpen().GetSubscribe().GetStart()
		if test.recreated != (start.GetAll() != nil) || test.recreated == (start.GetAfterCursor() == "c6") {
			t.Errorf("%s: %v", test.reason, start)
		}
		if !again {
			s.end()
			if _, _, err := s.take(t.Context()); err == nil {
				t.Errorf("%s: no error", test.reason)
			}
		}
	}
	s := newSubscription(t.Context(), testClient(t).Room("r"), "", subscribeOptions{start: FromAfterCursor("x")})
	if again, _ := s.broken(&Error{Reason: "CURSOR_EXPIRED"}); again {
		t.Error("a cursor of the program that has expired is final")
	}
}
