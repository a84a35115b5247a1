package unibus

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// world is a model of the service with one durable subscriber, and the subscription under test.
type world struct {
	t   *testing.T
	r   *rand.Rand
	s   *subscription
	now time.Time
	due time.Time // when the sender's timer wakes it

	last, position  uint64 // of the log and of the subscriber
	sent            uint64 // the newest message on the stream
	credit          int
	acks            []uint64        // on their way
	given           map[uint64]bool // since the last move
	processed       uint64          // everything up to it is processed, since the last move
	waiting         map[uint64]bool // processed, but not everything before it
	running         []item
	deliveries, era int
	eras            map[*delivery]int
}

func (w *world) open() {
	open := w.s.opening().GetOpen()
	w.credit, w.sent = int(open.GetCreditMessages()), w.position
	receive(w.t, w.s, &unibusv1.ConsumeResponse{Frame: opened(w.position)})
}

func (w *world) breaks(seek bool) {
	for n := w.r.IntN(len(w.acks) + 1); n > 0; n-- { // some arrive, and their confirmations do not
		w.position, w.acks = max(w.position, w.acks[0]), w.acks[1:]
	}
	w.acks = nil
	if again, _ := w.s.broken(errBroken); !again {
		w.t.Fatal("the subscription ended")
	}
	if confirmed := w.s.track.confirmed; seek && confirmed > 0 {
		w.moved(w.r.Uint64N(confirmed))
	}
	w.open()
}

// moved says that messages after the position are expected again.
func (w *world) moved(position uint64) {
	w.position, w.sent, w.processed = position, position, position
	w.given, w.waiting, w.acks = map[uint64]bool{}, map[uint64]bool{}, nil
	w.era++
}

func (w *world) send() {
	if w.sent < w.last && w.credit > 0 {
		w.sent++
		w.credit--
		receiveMessages(w.t, w.s, w.sent)
	}
}

func (w *world) take() {
	it, ready, err := w.s.take(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if !ready || it.message == nil {
		return
	}
	sequence := it.message.Sequence
	if w.given[sequence] {
		w.t.Fatalf("%d is given twice", sequence)
	}
	w.given[sequence] = true
	w.eras[it.running] = w.era
	w.running = append(w.running, it)
	w.deliveries++
}

func (w *world) finish() {
	if len(w.running) == 0 {
		return
	}
	i := w.r.IntN(len(w.running))
	it := w.running[i]
	w.running = append(w.running[:i], w.running[i+1:]...)
	w.s.track.done(it.running)
	w.s.giveBack(it)
	wake(w.s.commands)
	if w.eras[it.running] == w.era {
		w.waiting[it.message.Sequence] = true
		for w.waiting[w.processed+1] {
			w.processed++
		}
	}
}

// sender does what the goroutine that sends does, if something wakes it.
func (w *world) sender() {
	if len(w.s.commands) == 0 && w.now.Before(w.due) {
		return
	}
	for len(w.s.commands) > 0 {
		<-w.s.commands
	}
	commands, wait, _ := w.s.due(w.now)
	w.due = w.now.Add(wait)
	for _, command := range commands {
		switch c := command.Command.(type) {
		case *unibusv1.ConsumeRequest_Ack:
			if c.Ack.Sequence > w.processed {
				w.t.Fatalf("%d is acknowledged, %d is processed", c.Ack.Sequence, w.processed)
			}
			w.acks = append(w.acks, c.Ack.Sequence)
		case *unibusv1.ConsumeRequest_Credit:
			w.credit += int(c.Credit.Messages)
		}
	}
}

func (w *world) confirm() {
	if len(w.acks) > 0 {
		w.position, w.acks = max(w.position, w.acks[0]), w.acks[1:]
		receive(w.t, w.s, &unibusv1.ConsumeResponse{Frame: &unibusv1.ConsumeResponse_Acked{
			Acked: &unibusv1.AcknowledgeResponse{Position: w.position},
		}})
	}
}

// readAhead is the number of messages of the open stream that are not processed.
func (w *world) readAhead() (n int) {
	for _, it := range append(w.running[:len(w.running):len(w.running)], w.s.queue...) {
		if it.message != nil && it.stream == w.s.stream.number {
			n++
		}
	}
	return n
}

// settle lets all happen that can happen, with or without confirmations.
func (w *world) settle(confirm bool) {
	for range 20 + 10*w.last {
		w.send()
		w.take()
		w.take()
		w.finish()
		w.sender()
		if confirm {
			w.confirm()
		}
		w.now = w.now.Add(50 * time.Millisecond)
	}
}

// U19, U20, U22, U24: whatever the order of events, no message is given twice between two moves, nothing is acknowledged that
// is not processed, the read-ahead is bounded, and in the end all messages are processed and acknowledged.
func TestAnyOrderOfEvents(t *testing.T) {
	for seed := range uint64(60) {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 1)), s: open(t, "d", 0), now: time.Now(), eras: map[*delivery]int{}}
		w.moved(0)
		w.breaks(false)
		for range 600 {
			switch n := w.r.IntN(100); {
			case n < 10:
				w.last++
			case n < 35:
				w.send()
			case n < 55:
				w.take()
			case n < 75:
				w.finish()
			case n < 85:
				w.sender()
			case n < 90:
				w.confirm()
			case n < 97:
				w.now = w.now.Add(50 * time.Millisecond)
			case n < 98:
				w.breaks(w.r.IntN(4) == 0)
			case n < 99 && w.position > 0:
				w.moved(w.r.Uint64N(w.position))
				receive(t, w.s, &unibusv1.ConsumeResponse{Frame: opened(w.position)})
			}
			if n := w.readAhead(); n > 8 {
				t.Fatalf("%d: %d messages are read ahead", seed, n)
			}
		}
		w.settle(false)
		w.breaks(false)
		w.settle(true)
		if w.processed != w.last || w.position != w.last || w.s.track.confirmed != w.last {
			t.Fatalf("%d: %d of %d are processed, the position is %d, confirmed is %d", seed, w.processed, w.last, w.position, w.s.track.confirmed)
		}
	}
}
