package unibus

import (
	"sync"
	"time"
)

const (
	openLimit  = 15 * time.Second // without an `opened` frame (U16)
	frozenTime = 5 * time.Second  // a pause of this process, and then the time for a sign of life (U17)
)

// watchdog notices that the service is silent (U16), and that this process was frozen (U17).
type watchdog struct {
	mu       sync.Mutex
	limit    time.Duration // longest silence; 0: any
	since    time.Time     // when the silence began
	deadline time.Time
	ticked   time.Time
	pace     time.Duration // between two ticks, if this process runs
}

type verdict int

const (
	alive verdict = iota
	silent
	frozen
)

func newWatchdog(now time.Time) *watchdog {
	return &watchdog{limit: openLimit, since: now, deadline: now.Add(openLimit), ticked: now, pace: time.Second}
}

// frame notes a frame of the service.
func (w *watchdog) frame(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since, w.deadline = now, now.Add(w.limit)
}

// expect sets the longest silence from now on.
func (w *watchdog) expect(now time.Time, limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.since, w.deadline = limit, now, now.Add(limit)
}

// interval is the time between two ticks.
func (w *watchdog) interval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pace = time.Second
	if w.limit > 0 {
		w.pace = min(max(w.limit/4, 10*time.Millisecond), time.Second)
	}
	return w.pace
}

// tick is called regularly. The time for which this process stood still does not count: frames may wait to be read. After a
// long pause the service has to give a sign of life.
func (w *watchdog) tick(now time.Time) verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	// the monotonic clock stands still while the machine sleeps, the other one does not
	pause := max(now.Sub(w.ticked), now.Round(0).Sub(w.ticked.Round(0)))
	w.ticked = now
	if pause > frozenTime {
		w.deadline = now.Add(frozenTime)
		return frozen
	}
	w.deadline = w.deadline.Add(max(min(pause-w.pace, now.Sub(w.since)), 0))
	if w.limit > 0 && now.After(w.deadline) {
		return silent
	}
	return alive
}
