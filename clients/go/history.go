package unibus

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// HistoryOption is an option of History.
type HistoryOption func(*history)

// history is the part of a log that History yields. Unset bounds are zero.
type history struct {
	backwards                 bool
	after, before             uint64
	afterCursor, beforeCursor string
	since, until              time.Time
	limit                     int32
}

// Backwards yields the newest messages first.
func Backwards() HistoryOption { return func(h *history) { h.backwards = true } }

// After yields only messages after a sequence.
func After(sequence uint64) HistoryOption { return func(h *history) { h.after = sequence } }

// AfterCursor begins after the message with this cursor. It is not for Backwards.
func AfterCursor(cursor string) HistoryOption { return func(h *history) { h.afterCursor = cursor } }

// Before yields only messages before a sequence.
func Before(sequence uint64) HistoryOption { return func(h *history) { h.before = sequence } }

// BeforeCursor begins before the message with this cursor. It is for Backwards only.
func BeforeCursor(cursor string) HistoryOption { return func(h *history) { h.beforeCursor = cursor } }

// Since yields only messages that were stored at this time or later.
func Since(t time.Time) HistoryOption { return func(h *history) { h.since = t } }

// Until yields only messages that were stored before this time.
func Until(t time.Time) HistoryOption { return func(h *history) { h.until = t } }

// WithPageSize sets how many messages are fetched at once: 200 unless it is set, at most 1000.
func WithPageSize(messages int) HistoryOption {
	return func(h *history) { h.limit = int32(min(messages, 1000)) }
}

// History yields the stored messages of the room: all of them from the oldest to the newest, unless options say
// otherwise. It yields each message once, and skips nothing that is stored, whatever is published or removed
// meanwhile (U28). The last pair has the error, if there is one.
func (r *Room) History(ctx context.Context, opts ...HistoryOption) iter.Seq2[*Message, error] {
	var h history
	for _, opt := range opts {
		opt(&h)
	}
	return func(yield func(*Message, error) bool) {
		request := h.first(r.id)
		if h.afterCursor != "" && h.backwards || h.beforeCursor != "" && !h.backwards {
			yield(nil, invalid(errors.New("AfterCursor is not for Backwards, BeforeCursor is")))
			return
		}
		for request != nil {
			page, err := call(ctx, r.client, repeat{}, r.client.service.History, request)
			if err != nil {
				yield(nil, err)
				return
			}
			if h.backwards {
				slices.Reverse(page.Messages)
			}
			for _, m := range page.GetMessages() {
				message := newMessage(m)
				in, over := h.covers(message)
				if in && !yield(message, nil) || over {
					return
				}
			}
			request = h.next(r.id, page)
		}
	}
}

// first returns the request for the first page. Backwards from a time, it asks for the message at that time: the page before
// it is the first that is covered.
func (h *history) first(room string) *unibusv1.HistoryRequest {
	request := &unibusv1.HistoryRequest{RoomId: room, Limit: h.limit}
	switch {
	case h.backwards && h.beforeCursor != "":
		request.Anchor = &unibusv1.HistoryRequest_BeforeCursor{BeforeCursor: h.beforeCursor}
	case h.backwards && h.before != 0:
		request.Anchor = &unibusv1.HistoryRequest_BeforeSequence{BeforeSequence: h.before}
	case h.backwards && !h.until.IsZero():
		request.Anchor, request.Limit = timeRange(h.until), 1
	case h.backwards: // without an anchor: the newest
	case h.afterCursor != "":
		request.Anchor = &unibusv1.HistoryRequest_AfterCursor{AfterCursor: h.afterCursor}
	case h.after == 0 && !h.since.IsZero():
		request.Anchor = timeRange(h.since)
	default:
		request.Anchor = &unibusv1.HistoryRequest_AfterSequence{AfterSequence: h.after}
	}
	return request
}

func timeRange(start time.Time) *unibusv1.HistoryRequest_TimeRange {
	return &unibusv1.HistoryRequest_TimeRange{TimeRange: &unibusv1.TimeRange{Start: timestamppb.New(start)}}
}

// covers says whether a message lies in the bounds, and whether none after it can.
func (h *history) covers(m *Message) (in, over bool) {
	early := m.Sequence <= h.after || m.PublishedAt.Before(h.since)
	late := h.before != 0 && m.Sequence >= h.before || !h.until.IsZero() && !m.PublishedAt.Before(h.until)
	in = !early && !late
	if h.backwards {
		return in, early || m.Sequence-1 <= h.after
	}
	return in, late || h.before != 0 && m.Sequence+1 >= h.before
}

// next returns the request for the next page, or nil.
func (h *history) next(room string, page *unibusv1.HistoryResponse) *unibusv1.HistoryRequest {
	next := &unibusv1.HistoryRequest{RoomId: room, Limit: h.limit}
	switch {
	case h.backwards && page.GetHasOlder():
		next.Anchor = &unibusv1.HistoryRequest_BeforeCursor{BeforeCursor: page.GetOlderCursor()}
	case !h.backwards && page.GetHasNewer():
		next.Anchor = &unibusv1.HistoryRequest_AfterCursor{AfterCursor: page.GetNewerCursor()}
	default:
		return nil
	}
	return next
}
