package unibus

import (
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Message is a message as a reader gets it.
type Message struct {
	// Sequence is the place of the message in the room's log, from 1 (U29). It is 0 in an ephemeral room.
	Sequence uint64
	// Payload has the bytes that the publisher sent.
	Payload []byte
	// Headers are the headers of the publisher.
	Headers map[string]string
	// PublishedAt is when the message was stored, or in an ephemeral room received.
	PublishedAt time.Time
	// MessageID is the id that the publisher gave, or that its client made.
	MessageID string
	// Sender is the id of the sender that the service has verified. It can be empty.
	Sender string
	// Cursor is an opaque place in this log, for AfterCursor and BeforeCursor. It is empty in an ephemeral room.
	Cursor string
}

func newMessage(m *unibusv1.Message) *Message {
	return &Message{
		Sequence: m.GetSequence(), Payload: m.GetPayload(), Headers: m.GetHeaders(), PublishedAt: m.GetPublishedAt().AsTime(),
		MessageID: m.GetMessageId(), Sender: m.GetSender(), Cursor: m.GetCursor(),
	}
}

// Start is a place in a room's log at which a subscription begins. The zero value is FromAll, and in an ephemeral
// room FromNew.
type Start struct{ at *unibusv1.Start }

// FromAll starts with the oldest stored message.
func FromAll() Start {
	return Start{&unibusv1.Start{At: &unibusv1.Start_All{All: &emptypb.Empty{}}}}
}

// FromNew starts with the first message that is stored after the subscription was opened.
func FromNew() Start {
	return Start{&unibusv1.Start{At: &unibusv1.Start_New{New: &emptypb.Empty{}}}}
}

// FromAfter starts after a sequence.
func FromAfter(sequence uint64) Start {
	return Start{&unibusv1.Start{At: &unibusv1.Start_AfterSequence{AfterSequence: sequence}}}
}

// FromAfterCursor starts after the message with this cursor.
func FromAfterCursor(cursor string) Start {
	return Start{&unibusv1.Start{At: &unibusv1.Start_AfterCursor{AfterCursor: cursor}}}
}

// FromTime starts with the first message that was stored at or after a time.
func FromTime(t time.Time) Start {
	return Start{&unibusv1.Start{At: &unibusv1.Start_Since{Since: timestamppb.New(t)}}}
}

// FromLast starts with the newest messages. Their number is at least 1.
func FromLast(messages uint64) Start {
	return Start{&unibusv1.Start{At: &unibusv1.Start_Last{Last: messages}}}
}
