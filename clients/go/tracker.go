package unibus

// tracker knows where a subscription is: what was given to handlers, what they have processed, and what the service
// has confirmed. It does no I/O and has no clock.
type tracker struct {
	seen     uint64 // every message up to this sequence was given to a handler or reported as missing (U22)
	position uint64 // where to resume before the first message (U18)
	cursor   string // of the message after which to resume
	durable  bool

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
// (U22). `replaced` says that the service had no position for a subscriber that it had one for.
func (t *tracker) opened(position uint64, replaced bool) (moved bool) {
	if position < t.confirmed || replaced && t.cursor == "" {
		t.moved(position)
		return true
	}
	if t.cursor == "" {
		t.position = position
	}
	t.seen = max(t.seen, position)
	t.watermark = max(t.watermark, position)
	t.sent, t.confirmed = position, position
	return false
}

// moved goes on at another position. Messages that are with handlers have no effect on it any more.
func (t *tracker) moved(position uint64) {
	*t = tracker{durable: t.durable, seen: position, position: position, watermark: position, sent: position, confirmed: position}
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
	t.seen, t.position = g.To, g.To
	return g, true
}

// passed notes the position of a frame that has no message before it that is still to come.
func (t *tracker) passed(position uint64) {
	t.position = max(t.position, position)
}

// resume returns the start position after a reconnection (U18). A durable subscriber resumes at the position that the
// service keeps. For it this one counts only if it was deleted. The cursor then also shows whether the log is the same;
// without one, the subscriber begins again where the program wants new ones to begin.
func (t *tracker) resume(first Start) Start {
	switch {
	case t.cursor != "":
		return FromAfterCursor(t.cursor)
	case t.durable:
		return first
	}
	return FromAfter(t.position)
}

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
