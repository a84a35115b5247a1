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
	deadline time.Time
	ticked   time.Time
}

type verdict int

const (
	alive verdict = iota
	silent
	frozen
)

func newWatchdog(now time.Time) *watchdog {
	return &watchdog{limit: openLimit, deadline: now.Add(openLimit), ticked: now}
}

// frame notes a frame of the service.
func (w *watchdog) frame(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = now.Add(w.limit)
}

// expect sets the longest silence from now on.
func (w *watchdog) expect(now time.Time, limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.deadline = limit, now.Add(limit)
}

// interval is the time between two ticks.
func (w *watchdog) interval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit == 0 {
		return time.Second
	}
	return min(max(w.limit/4, 10*time.Millisecond), time.Second)
}

// tick is called regularly. After a pause of this process the service gets some time: its frames may wait to be read.
func (w *watchdog) tick(now time.Time) verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	// the monotonic clock stands still while the machine sleeps, the other one does not
	pause := max(now.Sub(w.ticked), now.Round(0).Sub(w.ticked.Round(0)))
	w.ticked = now
	switch {
	case pause > frozenTime:
		w.deadline = now.Add(frozenTime)
		return frozen
	case w.limit > 0 && now.After(w.deadline):
		return silent
	}
	return alive
}
