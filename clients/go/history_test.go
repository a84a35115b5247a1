package unibus

import (
	"testing"
	"time"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// U28: where the reading begins, which messages it covers, and that it asks for no page after the last of them.
func TestHistory(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(1_800_000_000+seconds, 0) }
	tests := []struct {
		name  string
		opts  []HistoryOption
		first func(*unibusv1.HistoryRequest) bool
		in    [2]uint64 // the messages 1 to 9, stored one in a second
	}{
		{"all", nil, func(r *unibusv1.HistoryRequest) bool { return r.GetAfterSequence() == 0 && r.Anchor != nil }, [2]uint64{1, 9}},
		{"backwards", []HistoryOption{Backwards()}, func(r *unibusv1.HistoryRequest) bool { return r.Anchor == nil }, [2]uint64{1, 9}},
		{"between", []HistoryOption{After(3), Before(6)}, func(r *unibusv1.HistoryRequest) bool { return r.GetAfterSequence() == 3 }, [2]uint64{4, 5}},
		{"between, backwards", []HistoryOption{After(3), Before(6), Backwards()},
			func(r *unibusv1.HistoryRequest) bool { return r.GetBeforeSequence() == 6 }, [2]uint64{4, 5}},
		{"times", []HistoryOption{Since(at(3)), Until(at(6))},
			func(r *unibusv1.HistoryRequest) bool { return r.GetTimeRange().GetStart().AsTime().Equal(at(3)) }, [2]uint64{3, 5}},
		{"times, backwards", []HistoryOption{Since(at(3)), Until(at(6)), Backwards()},
			func(r *unibusv1.HistoryRequest) bool { return r.GetTimeRange().GetStart().AsTime().Equal(at(6)) }, [2]uint64{3, 5}},
		{"cursor", []HistoryOption{AfterCursor("c")}, func(r *unibusv1.HistoryRequest) bool { return r.GetAfterCursor() == "c" }, [2]uint64{1, 9}},
	}
	for _, test := range tests {
		var h history
		for _, opt := range test.opts {
			opt(&h)
		}
		if first := h.first("r"); !test.first(first) {
			t.Errorf("%s begins with %v", test.name, first)
		}
		for sequence := uint64(1); sequence <= 9; sequence++ {
			in, over := h.covers(&Message{Sequence: sequence, PublishedAt: at(int64(sequence))})
			first, last := test.in[0], test.in[1]
			if in != (sequence >= first && sequence <= last) {
				t.Errorf("%s: message %d: %v", test.name, sequence, in)
			}
			// the message beside a bound is the last one, and a time has no such message
			want := sequence > last || sequence == last && h.before != 0
			if h.backwards {
				want = sequence < first || sequence == first && h.since.IsZero()
			}
			if over != want && sequence > 1 {
				t.Errorf("%s: over at %d: %v", test.name, sequence, over)
			}
		}
	}
}
