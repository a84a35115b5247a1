package unibus

// tracker knows where a subscription is: what was given to handlers, what they have processed, and what the service
// has confirmed. It does no I/O and has no clock.
type tracker struct {
	seen    uint64 // every message up to this sequence was given to a handler or reported as missing (U22)
	cursor  string // where to resume: of a message, or of `opened` before the first one (U18)
	durable bool

	running   []*delivery // given to handlers, in order; a processed one stays until all before it are processed
	watermark uint64      // every message up to this sequence is processed (U19)
	processed int         // messages that the next acknowledgement covers
	sent      uint64      // the newest acknowledgement
	confirmed uint64      // the newest confirmation
}

// delivery is a message that was given to a handler.
type delivery struct {
	sequence uint64
	cursor   string
	done     bool
}

// opened begins a subscription, or goes on after a reconnection. It says whether the subscriber was moved meanwhile
// (U22). `cursor` is the place of `position`.
func (t *tracker) opened(position uint64, cursor string) (moved bool) {
	if position < t.confirmed {
		t.moved(position, cursor)
		return true
	}
	if t.cursor == "" || position > t.watermark {
		t.cursor = cursor
	}
	t.seen = max(t.seen, position)
	t.watermark = max(t.watermark, position)
	t.sent, t.confirmed = position, position
	return false
}

// moved goes on at another position. Messages that are with handlers have no effect on it any more.
func (t *tracker) moved(position uint64, cursor string) {
	*t = tracker{durable: t.durable, seen: position, cursor: cursor, watermark: position, sent: position, confirmed: position}
}

// begin notes that a message is given to a handler. It returns nil if that was done before (U22).
func (t *tracker) begin(m *Message) *delivery {
	d := &delivery{sequence: m.Sequence, cursor: m.Cursor}
	if m.Sequence == 0 {
		return d // an ephemeral room
	}
	if m.Sequence <= t.seen {
		return nil
	}
	t.seen = m.Sequence
	if t.durable {
		t.running = append(t.running, d)
	} else {
		t.cursor = m.Cursor
	}
	return d
}

// done notes that a message is processed, and moves the watermark over all messages that are processed without a hole
// (U19).
func (t *tracker) done(d *delivery) {
	d.done = true
	for len(t.running) > 0 && t.running[0].done {
		first := t.running[0]
		t.running = t.running[1:]
		t.watermark = max(t.watermark, first.sequence)
		t.cursor = first.cursor
		t.processed++
	}
}

// gap returns the part of a gap that was not reported yet.
func (t *tracker) gap(g Gap) (Gap, bool) {
	if g.To == 0 {
		return g, true // an ephemeral room
	}
	g.From = max(g.From, t.seen+1)
	if g.From > g.To {
		return g, false
	}
	t.seen = g.To
	return g, true
}

// resume returns the start position after a reconnection (U18). A durable subscriber resumes at the position that the
// service keeps. For it this one counts only if it was deleted. The service refuses the cursor if the log is another one.
func (t *tracker) resume() Start { return FromAfterCursor(t.cursor) }

// due says whether there is something to acknowledge.
func (t *tracker) due() bool { return t.durable && t.watermark > t.sent }

// acknowledge returns the sequence of the next acknowledgement.
func (t *tracker) acknowledge() uint64 {
	t.sent, t.processed = t.watermark, 0
	return t.sent
}

// acked takes a confirmation.
func (t *tracker) acked(position uint64) { t.confirmed = max(t.confirmed, min(position, t.sent)) }

// rejected makes unconfirmed acknowledgements due again.
func (t *tracker) rejected() { t.sent = t.confirmed }
