package unibus

import (
	"testing"
	"time"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// U28: where the reading begins, and which messages it covers.
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
			if in != (sequence >= test.in[0] && sequence <= test.in[1]) || over && in {
				t.Errorf("%s: message %d: %v, %v", test.name, sequence, in, over)
			}
			if last := test.in[1]; !h.backwards && over != (sequence > last) {
				t.Errorf("%s: over at %d: %v", test.name, sequence, over)
			}
		}
	}
}
