package unibus

import (
	"fmt"
	"testing"
)

func message(sequence uint64) *Message {
	return &Message{Sequence: sequence, Cursor: fmt.Sprint("c", sequence)}
}

// begin begins messages, and fails if one of them was given to a handler before.
func begin(t *testing.T, track *tracker, sequences ...uint64) (deliveries []*delivery) {
	t.Helper()
	for _, sequence := range sequences {
		d := track.begin(message(sequence))
		if d == nil {
			t.Fatalf("the message %d is not new", sequence)
		}
		deliveries = append(deliveries, d)
	}
	return deliveries
}

// U19: the watermark is the highest sequence up to which every message is processed.
func TestWatermark(t *testing.T) {
	tests := []struct {
		done []int // the order in which handlers return; the messages are 11 to 15
		want []uint64
	}{
		{[]int{0, 1, 2, 3, 4}, []uint64{11, 12, 13, 14, 15}},
		{[]int{4, 3, 2, 1, 0}, []uint64{10, 10, 10, 10, 15}},
		{[]int{1, 0, 3, 2, 4}, []uint64{10, 12, 12, 14, 15}},
		{[]int{0, 2, 3, 4}, []uint64{11, 11, 11, 11}},
	}
	for _, test := range tests {
		track := tracker{durable: true}
		track.opened(10, "opened")
		deliveries := begin(t, &track, 11, 12, 13, 14, 15)
		for i, d := range test.done {
			track.done(deliveries[d])
			if track.watermark != test.want[i] {
				t.Errorf("%v: after %d the watermark is %d, not %d", test.done, i, track.watermark, test.want[i])
			}
		}
	}
}

// U20: an acknowledgement covers the watermark, and is due again after a rejection or a reconnection.
func TestAcknowledgements(t *testing.T) {
	track := tracker{durable: true}
	track.opened(0, "opened")
	for _, d := range begin(t, &track, 1, 2, 3) {
		track.done(d)
	}
	if !track.due() || track.processed != 3 || track.acknowledge() != 3 || track.due() {
		t.Fatalf("%+v", track)
	}
	track.rejected()
	if !track.due() || track.acknowledge() != 3 {
		t.Fatalf("after a rejection: %+v", track)
	}
	track.acked(3)
	if track.confirmed != 3 || track.due() {
		t.Fatalf("after the confirmation: %+v", track)
	}
	track.done(begin(t, &track, 4)[0])
	track.acknowledge()
	if track.opened(3, "opened") || !track.due() || track.acknowledge() != 4 {
		t.Fatalf("after a reconnection: %+v", track)
	}
	if other := (tracker{}); other.begin(message(1)) == nil || other.due() {
		t.Fatal("a subscription without a name acknowledges")
	}
}

// U22: after a reconnection only what was not given to a handler is new.
func TestEachMessageOnce(t *testing.T) {
	track := tracker{durable: true}
	track.opened(0, "opened")
	deliveries := begin(t, &track, 1, 2, 3)
	track.done(deliveries[0])
	if track.opened(0, "opened") {
		t.Fatal("moved")
	}
	for sequence := range uint64(3) {
		if track.begin(message(sequence+1)) != nil {
			t.Errorf("%d is given twice", sequence+1)
		}
	}
	begin(t, &track, 4)
	track.done(deliveries[1])
	if track.watermark != 2 {
		t.Errorf("the watermark is %d", track.watermark)
	}
}

// U22: a position before the last confirmed acknowledgement means that the subscriber was moved, and running handlers
// have no effect any more.
func TestMoved(t *testing.T) {
	track := tracker{durable: true}
	track.opened(0, "opened")
	deliveries := begin(t, &track, 1, 2, 3, 4)
	track.done(deliveries[0])
	track.done(deliveries[1])
	track.acknowledge()
	track.acked(2)
	if track.opened(2, "opened") {
		t.Fatal("the confirmed position is no move")
	}
	if !track.opened(1, "opened") {
		t.Fatal("a position before the confirmed one is a move")
	}
	track.done(deliveries[2])
	track.done(deliveries[3])
	if track.due() || track.watermark != 1 {
		t.Errorf("old handlers acknowledge: %+v", track)
	}
	track.done(begin(t, &track, 2)[0])
	if !track.due() || track.acknowledge() != 2 {
		t.Errorf("%+v", track)
	}
}

// U18: a gap is reported once, and where the subscription resumes.
func TestGapsAndPlaces(t *testing.T) {
	at := func(track *tracker) string { return track.resume().at.GetAfterCursor() }
	var track tracker
	track.opened(5, "opened")
	if at(&track) != "opened" {
		t.Errorf("after `opened`: %s", at(&track))
	}
	if g, ok := track.gap(Gap{From: 6, To: 9}); !ok || g.From != 6 || at(&track) != "opened" {
		t.Errorf("a new gap: %+v %v, %s", g, ok, at(&track))
	}
	if _, ok := track.gap(Gap{From: 6, To: 9}); ok {
		t.Error("the same gap again")
	}
	if g, ok := track.gap(Gap{From: 8, To: 14}); !ok || g.From != 10 || g.To != 14 {
		t.Errorf("a gap that has grown: %+v %v", g, ok)
	}
	begin(t, &track, 15)
	if at(&track) != "c15" {
		t.Errorf("after a message: %s", at(&track))
	}
	durable := tracker{durable: true}
	durable.opened(0, "opened")
	deliveries := begin(t, &durable, 1, 2)
	durable.done(deliveries[0])
	if at(&durable) != "c1" {
		t.Errorf("a durable subscriber begins anew at %s", at(&durable))
	}
	if g, ok := track.gap(Gap{Dropped: 3}); !ok || g.Dropped != 3 {
		t.Error("a gap of an ephemeral room is not reported")
	}
	begin(t, &track, 0, 0) // messages of ephemeral rooms have no sequence
}

// U29: sequences beyond 2^53 and 2^63 are exact.
func TestLargeSequences(t *testing.T) {
	track := tracker{durable: true}
	track.opened(1<<63+1, "opened")
	track.done(begin(t, &track, 1<<63+2)[0])
	if track.acknowledge() != 1<<63+2 {
		t.Errorf("%+v", track)
	}
}
