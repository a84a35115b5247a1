package unibus

import (
	"time"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Event is what a subscription tells beside messages (U25): one of Opened, CaughtUp, Gap, Moved, Recreated and
// Disconnected.
type Event interface{ isEvent() }

// Opened says that the subscription is open. It comes again after each reconnection.
type Opened struct {
	// Position is the sequence after which messages follow. It is 0 in an ephemeral room.
	Position uint64
	// Resumed is true if the service had a position for the name. The start position was then ignored.
	Resumed bool
}

// CaughtUp says that all messages that were stored when the subscription was opened have come.
type CaughtUp struct {
	// Position is the sequence up to which messages have come.
	Position uint64
}

// Gap says that messages will not come. Each is reported once (U18).
type Gap struct {
	// From and To are the first and the last missing sequence. They are 0 in an ephemeral room.
	From, To uint64
	Reason   GapReason
	// Dropped is the number of messages that an ephemeral room did not send to this reader, if it is known.
	Dropped uint64
}

// GapReason says why messages are missing.
type GapReason = unibusv1.GapReason

// The reasons of gaps.
const (
	GapExpired      = unibusv1.GapReason_GAP_REASON_EXPIRED
	GapPurged       = unibusv1.GapReason_GAP_REASON_PURGED
	GapDeleted      = unibusv1.GapReason_GAP_REASON_DELETED
	GapSlowReader   = unibusv1.GapReason_GAP_REASON_SLOW_READER
	GapDisconnected = unibusv1.GapReason_GAP_REASON_DISCONNECTED
)

// Moved says that somebody moved the subscriber (U22). Messages follow after the new position, also those that came
// before.
type Moved struct{ Position uint64 }

// Recreated says that the room was deleted and created again (U26). Its messages follow from the beginning of the new
// log.
type Recreated struct{}

// Disconnected says that the subscription was interrupted, or that an attempt to open it again failed (U15).
type Disconnected struct {
	Err *Error
	// Pause is the time before the next attempt.
	Pause time.Duration
}

func (Opened) isEvent()       {}
func (CaughtUp) isEvent()     {}
func (Gap) isEvent()          {}
func (Moved) isEvent()        {}
func (Recreated) isEvent()    {}
func (Disconnected) isEvent() {}
