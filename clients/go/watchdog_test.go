package unibus

import (
	"testing"
	"time"
)

// U16, U17: silence ends a stream; a pause of the process only asks for a sign of life.
func TestWatchdog(t *testing.T) {
	begin := time.Now()
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	ticks := func(w *watchdog, from, to float64) verdict {
		for s := from; s <= to; s++ {
			if v := w.tick(at(s)); v != alive {
				return v
			}
		}
		return alive
	}
	w := newWatchdog(begin)
	if ticks(w, 1, 15) != alive || w.tick(at(15.1)) != silent {
		t.Error("before `opened` the limit is 15 s")
	}
	w = newWatchdog(begin)
	w.expect(at(2), 4*time.Second)
	if ticks(w, 2, 6) != alive || w.tick(at(6.1)) != silent {
		t.Error("then twice the heartbeat interval")
	}
	w.frame(at(7))
	if ticks(w, 7, 11) != alive {
		t.Error("a frame begins the limit anew")
	}
	w = newWatchdog(begin)
	w.expect(begin, 100*time.Second)
	w.tick(at(1))
	if w.tick(at(30)) != frozen || ticks(w, 31, 35) != alive || w.tick(at(35.1)) != silent {
		t.Error("after a pause the service has 5 s")
	}
	w.frame(at(36))
	if ticks(w, 36, 130) != alive {
		t.Error("after a sign of life the limit is the old one")
	}
	w.tick(at(131))
	w.expect(at(131), 4*time.Second)
	if w.tick(at(135.9)) != alive || w.tick(at(138)) != alive || w.tick(at(139)) != alive || w.tick(at(140.1)) != alive ||
		ticks(w, 141, 142) != silent {
		t.Error("the time of a short pause does not count")
	}
	w.expect(at(141), 0)
	if ticks(w, 142, 500) != alive {
		t.Error("without a limit")
	}
}
