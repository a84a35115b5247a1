package unibus

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// service is a service whose calls are functions. A call without a function is UNIMPLEMENTED.
type service struct {
	unibusv1.UnimplementedRoomServiceServer
	getRoom func(context.Context) (*unibusv1.GetRoomResponse, error)
	publish func(context.Context, *unibusv1.PublishRequest) (*unibusv1.PublishResponse, error)
	stream  func(unibusv1.RoomService_PublishStreamServer) error
	consume func(unibusv1.RoomService_ConsumeServer) error
}

func (s *service) GetRoom(ctx context.Context, _ *unibusv1.GetRoomRequest) (*unibusv1.GetRoomResponse, error) {
	return s.getRoom(ctx)
}

func (s *service) Publish(ctx context.Context, r *unibusv1.PublishRequest) (*unibusv1.PublishResponse, error) {
	return s.publish(ctx, r)
}

func (s *service) PublishStream(stream unibusv1.RoomService_PublishStreamServer) error {
	return s.stream(stream)
}

func (s *service) Consume(stream unibusv1.RoomService_ConsumeServer) error { return s.consume(stream) }

// persisted answers GetRoom with a persisted room.
func persisted(context.Context) (*unibusv1.GetRoomResponse, error) {
	return &unibusv1.GetRoomResponse{Room: &unibusv1.Room{RoomId: "r", Persist: true}}, nil
}

// serve starts the service, and returns the room "r" of a client of it.
func serve(t *testing.T, s *service, opts ...Option) *Room {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	unibusv1.RegisterRoomServiceServer(server, s)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	c, err := Dial("http://"+listener.Addr().String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { within(t, 5*time.Second, func() { c.Close() }) })
	return c.Room("r")
}

// answerAll answers each message of a stream in the same way.
func answerAll(with func(*unibusv1.PublishStreamResponse)) func(unibusv1.RoomService_PublishStreamServer) error {
	return func(stream unibusv1.RoomService_PublishStreamServer) error {
		for {
			request, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			answer := &unibusv1.PublishStreamResponse{CorrelationId: request.GetCorrelationId()}
			with(answer)
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
}

// stored answers that the message is stored.
func stored(answer *unibusv1.PublishStreamResponse) {
	answer.Outcome = &unibusv1.PublishStreamResponse_Result{Result: &unibusv1.PublishResponse{Sequence: 1}}
}

// send publishes a message over a publisher, and waits for its answer.
func send(t *testing.T, p *Publisher, opts ...PublishOption) error {
	t.Helper()
	m, err := p.Send(t.Context(), nil, opts...)
	if err != nil {
		return err
	}
	within(t, 2*time.Second, func() { _, err = m.Wait(t.Context()) })
	return err
}

func publisher(t *testing.T, room *Room) *Publisher {
	t.Helper()
	p, err := room.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// within fails the test if something takes longer.
func within(t *testing.T, limit time.Duration, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("not done within %v", limit)
	}
}

// U2, U9, U11: a deadline of the program is visible, and no message is in doubt before one is sent.
func TestDeadlineOfTheProgram(t *testing.T) {
	room := serve(t, &service{getRoom: func(ctx context.Context) (*unibusv1.GetRoomResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, info := room.Info(ctx)
	_, publish := room.Publish(ctx, nil)
	for _, err := range []error{info, publish} {
		var e *Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &e) || e.Class != Again {
			t.Errorf("%v", err)
		}
	}
	if e := publish.(*Error); e.OutcomeUnknown {
		t.Error("the outcome of a message that was not sent is unknown")
	}
}

// U8, U9: a token function that ignores its context, or whose tokens no header can carry, counts as one that fails.
func TestTokenFunctions(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for what, supply := range map[string]func(context.Context) (string, error){
		"hangs":     func(context.Context) (string, error) { <-hang; return "t", nil },
		"no token":  func(context.Context) (string, error) { return "", nil },
		"line feed": func(context.Context) (string, error) { return "t\n", nil },
	} {
		room := serve(t, &service{getRoom: persisted}, WithTokenFunc(supply), WithPlaintextToken(),
			WithAttemptTimeout(50*time.Millisecond), WithCallTimeout(200*time.Millisecond))
		within(t, time.Second, func() {
			var e *Error
			if _, err := room.Info(t.Context()); !errors.As(err, &e) || e.Class != Again || !strings.Contains(e.Message, "no token") {
				t.Errorf("%s: %v", what, err)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		within(t, time.Second, func() {
			if err := room.Subscribe(ctx, "d", nil); err != context.DeadlineExceeded {
				t.Errorf("%s: %v", what, err)
			}
		})
		cancel()
	}
}

// U1: what cannot be encoded fails at once, and holds up nothing else.
func TestUnsendable(t *testing.T) {
	room := serve(t, &service{getRoom: persisted, stream: answerAll(stored)})
	const text = "\xff is not UTF-8"
	p := publisher(t, room)
	wrong := room.client.Room(text)
	_, info := wrong.Info(t.Context())
	_, publish := room.Publish(t.Context(), nil, WithMessageID(text))
	for what, err := range map[string]error{
		"call": info, "publish": publish, "send": send(t, p, WithHeaders(map[string]string{"a": text})),
		"subscribe": wrong.Subscribe(t.Context(), "", nil),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Class != Final || e.Code != codes.InvalidArgument || e.OutcomeUnknown {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := send(t, p); err != nil {
		t.Error(err)
	}
}

// U11, U14: when the service asks for a pause that is longer than the room's window, messages fail at once, also those that
// are sent during the pause, and the publisher can be closed.
func TestLongRetryInfo(t *testing.T) {
	room := serve(t, &service{getRoom: persisted, stream: answerAll(func(answer *unibusv1.PublishStreamResponse) {
		limited := statusWith(codes.ResourceExhausted, domain, "RATE_LIMITED", time.Hour)
		answer.Outcome = &unibusv1.PublishStreamResponse_Error{Error: limited.Proto()}
	})})
	p := publisher(t, room)
	for range 2 {
		var e *Error
		if err := send(t, p); !errors.As(err, &e) || e.Reason != "RATE_LIMITED" || e.OutcomeUnknown {
			t.Error(err)
		}
	}
	within(t, time.Second, func() { p.Close(t.Context()) })
}

// U11: in a room with a window that is shorter than an attempt, a message has one whole attempt, and further ones as long as
// it is certainly not stored.
func TestShortWindow(t *testing.T) {
	var calls, streams atomic.Int32
	draining := statusWith(codes.Unavailable, domain, "DRAINING", 0).Err()
	room := serve(t, &service{
		getRoom: func(context.Context) (*unibusv1.GetRoomResponse, error) {
			window := durationpb.New(100 * time.Millisecond)
			return &unibusv1.GetRoomResponse{Room: &unibusv1.Room{RoomId: "r", Persist: true, DedupeWindow: window}}, nil
		},
		publish: func(context.Context, *unibusv1.PublishRequest) (*unibusv1.PublishResponse, error) {
			if calls.Add(1) == 1 {
				return nil, draining
			}
			time.Sleep(300 * time.Millisecond)
			return &unibusv1.PublishResponse{Sequence: 1}, nil
		},
		stream: func(stream unibusv1.RoomService_PublishStreamServer) error {
			if streams.Add(1) == 1 {
				return draining
			}
			return answerAll(stored)(stream)
		},
	})
	if _, err := room.Publish(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := send(t, publisher(t, room)); err != nil {
		t.Error(err)
	}
}

// U11: the outcome INTERNAL is unknown, also as the end of a stream, and is repeated.
func TestStreamEndsWithInternal(t *testing.T) {
	var streams atomic.Int32
	room := serve(t, &service{getRoom: persisted, stream: func(stream unibusv1.RoomService_PublishStreamServer) error {
		if streams.Add(1) == 1 {
			stream.Recv()
			return statusWith(codes.Internal, domain, "INTERNAL", -1).Err()
		}
		return answerAll(stored)(stream)
	}})
	if err := send(t, publisher(t, room)); err != nil {
		t.Error(err)
	}
}

// U14: Close does not wait for the end of a stream whose messages are all answered.
func TestCloseWithoutEndOfStream(t *testing.T) {
	room := serve(t, &service{getRoom: persisted, stream: func(stream unibusv1.RoomService_PublishStreamServer) error {
		answerAll(stored)(stream)
		<-stream.Context().Done()
		return nil
	}}, WithAttemptTimeout(200*time.Millisecond))
	p := publisher(t, room)
	if err := send(t, p); err != nil {
		t.Error(err)
	}
	within(t, time.Second, func() {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// U14: the outcome of a message that was sent is unknown after Close, and a message that never was is not in doubt.
func TestCloseInTime(t *testing.T) {
	silent := func(stream unibusv1.RoomService_PublishStreamServer) error { <-stream.Context().Done(); return nil }
	for _, persist := range []bool{true, false} {
		for _, known := range []bool{true, false} {
			getRoom := func(ctx context.Context) (*unibusv1.GetRoomResponse, error) {
				if !known {
					<-ctx.Done()
				}
				return &unibusv1.GetRoomResponse{Room: &unibusv1.Room{RoomId: "r", Persist: persist}}, nil
			}
			p := publisher(t, serve(t, &service{getRoom: getRoom, stream: silent}))
			m, err := p.Send(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			p.Close(ctx)
			cancel()
			var e *Error
			_, err = m.Wait(t.Context())
			if !errors.As(err, &e) || e.OutcomeUnknown != known || e.Code != codes.DeadlineExceeded || e.Class != Again {
				t.Errorf("persist %v, room known %v: %+v", persist, known, err)
			}
		}
	}
}

// U9: a message fails when its time is up, also if the settings of the room do not come.
func TestRoomIsNeverKnown(t *testing.T) {
	room := serve(t, &service{getRoom: func(ctx context.Context) (*unibusv1.GetRoomResponse, error) {
		return nil, statusWith(codes.Unavailable, domain, "NATS_UNAVAILABLE", 300*time.Millisecond).Err()
	}}, WithAttemptTimeout(50*time.Millisecond), WithCallTimeout(time.Second))
	p := publisher(t, room)
	if _, err := p.Send(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	m, err := p.Send(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	within(t, 1300*time.Millisecond, func() {
		var e *Error
		if _, err := m.Wait(t.Context()); !errors.As(err, &e) || e.OutcomeUnknown || e.Reason != "NATS_UNAVAILABLE" {
			t.Error(err)
		}
	})
}

// U12: after ROOM_NOT_FOUND a publisher asks for the room again. Messages of the new room have ids if it is persisted.
func TestRoomOfAPublisherIsAnotherOne(t *testing.T) {
	var rooms, messages atomic.Int32
	room := serve(t, &service{
		getRoom: func(context.Context) (*unibusv1.GetRoomResponse, error) {
			return &unibusv1.GetRoomResponse{Room: &unibusv1.Room{RoomId: "r", Persist: rooms.Add(1) > 1}}, nil
		},
		stream: answerAll(func(answer *unibusv1.PublishStreamResponse) {
			if stored(answer); messages.Add(1) == 1 {
				gone := statusWith(codes.NotFound, domain, "ROOM_NOT_FOUND", -1)
				answer.Outcome = &unibusv1.PublishStreamResponse_Error{Error: gone.Proto()}
			}
		}),
	})
	p := publisher(t, room)
	var e *Error
	if err := send(t, p); !errors.As(err, &e) || e.Class != Final || e.Reason != "ROOM_NOT_FOUND" {
		t.Error(err)
	}
	m, err := p.Send(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if published, err := m.Wait(t.Context()); err != nil || published.MessageID == "" {
		t.Errorf("%+v, %v", published, err)
	}
}

// U12: a message that was not given to the stream was not sent.
func TestWhatWasNotSent(t *testing.T) {
	b := newBench(t, false, 2)
	b.begin(b.policy, time.NewTimer(time.Hour))
	b.write(t.Context(), &brokenWire{})
	if b.end(errBroken); b.results() != "- -" {
		t.Error(b.results())
	}
}

type brokenWire struct{ wire }

func (*brokenWire) Send(*unibusv1.PublishStreamRequest) error { return io.EOF }

// U24: in an ephemeral room the queue survives a reconnection. Its messages count as read ahead, and give their credit back.
func TestQueueOfAnEphemeralRoom(t *testing.T) {
	s := newSubscription(t.Context(), testClient(t).Room("r"), "", subscribeOptions{concurrency: 1, readMessages: 8, readBytes: 100})
	ephemeral := &unibusv1.ConsumeResponse{Frame: &unibusv1.ConsumeResponse_Opened{Opened: &unibusv1.Opened{}}}
	s.opening()
	receive(t, s, ephemeral)
	receiveMessages(t, s, 0, 0, 0, 0, 0, 0, 0)
	s.broken(errBroken)
	if open := s.opening().GetOpen(); open.GetCreditMessages() != 1 || open.GetCreditBytes() != 30 {
		t.Error(open)
	}
	receive(t, s, ephemeral)
	handled(t, s)
	same(t, "afterwards", commands(s, time.Now()), "credit 7, 70")
}

// U6: what a watchdog reports tells what is wrong with the connection.
func TestReasonOfSilence(t *testing.T) {
	c := testClient(t, WithAttemptTimeout(300*time.Millisecond), WithCallTimeout(time.Second))
	c.policies["r"] = publishPolicy{true, time.Second}
	if err := send(t, publisher(t, c.Room("r"))); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

// U27: Close may be called again, and a closed client refuses everything.
func TestClosedClient(t *testing.T) {
	room := serve(t, &service{getRoom: persisted, stream: answerAll(stored)})
	p := publisher(t, room)
	m, err := p.Send(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := room.client.Close(); err != nil {
			t.Error(err)
		}
	}
	if !isClosed(m.Done()) {
		t.Error("a message is not answered after Close")
	}
	_, send := p.Send(t.Context(), nil)
	_, open := room.Publisher()
	_, info := room.Info(t.Context())
	for _, err := range []error{send, open, info, room.Subscribe(t.Context(), "", nil)} {
		if err != ErrClosed {
			t.Error(err)
		}
	}
}

// U4: a name is resolved again for each connection, at the pace of the connections.
func TestNamesAreResolvedAgain(t *testing.T) {
	var mu sync.Mutex
	var last time.Time
	lookups := 0
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) > 30*time.Millisecond {
			lookups++
		}
		last = time.Now()
		return nil, errors.New("down")
	}}
	c, err := Dial("http://unibus.example.com:50051", WithCallTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	c.Room("r").Info(t.Context())
	c.Close()
	if mu.Lock(); lookups < 4 {
		t.Errorf("%d lookups in 2 s", lookups)
	}
	mu.Unlock()
}
