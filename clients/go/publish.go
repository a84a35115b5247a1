package unibus

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// PublishOption is an option of one message.
type PublishOption func(*unibusv1.PublishRequest)

// WithHeaders gives the message headers.
func WithHeaders(headers map[string]string) PublishOption {
	return func(r *unibusv1.PublishRequest) { r.Headers = maps.Clone(headers) }
}

// WithMessageID gives the message an id. Without it the client makes one. A second message of the same sender with
// the same id is not stored within the room's window.
func WithMessageID(id string) PublishOption {
	return func(r *unibusv1.PublishRequest) { r.MessageId = id }
}

// WithExpectedLastSequence stores the message only if the last sequence of the room is this one.
func WithExpectedLastSequence(sequence uint64) PublishOption {
	return func(r *unibusv1.PublishRequest) { r.ExpectedLastSequence = &sequence }
}

// WithTTL gives the message a lifetime. The room must have been created with WithMessageTTL.
func WithTTL(ttl time.Duration) PublishOption {
	return func(r *unibusv1.PublishRequest) { r.Ttl = durationpb.New(ttl) }
}

// Durability says what a stored message survives.
type Durability = unibusv1.Durability

// Published is the answer to a message that is stored, or in an ephemeral room sent.
type Published struct {
	// Sequence is the place of the message in the log. It is 0 in an ephemeral room.
	Sequence uint64
	// Duplicate is true if the message was stored earlier under its id: by another call, or by an attempt of this one
	// whose answer was lost.
	Duplicate   bool
	MessageID   string
	PublishedAt time.Time
	Durability  Durability
}

func newPublished(r *unibusv1.PublishResponse, id string) Published {
	return Published{r.GetSequence(), r.GetDuplicate(), id, r.GetPublishedAt().AsTime(), r.GetDurability()}
}

// Publish publishes a message and waits until it is stored. It repeats a message whose outcome is unknown with the
// same id, as long as the room remembers ids (U11). In an ephemeral room it repeats only what was certainly not sent
// (U12).
//
// If ctx ends first, the message may be stored.
func (r *Room) Publish(ctx context.Context, payload []byte, opts ...PublishOption) (Published, error) {
	c := r.client
	request := r.message(payload, opts)
	own := request.MessageId == ""
	policy, err := r.policy(ctx)
	if err != nil {
		return Published{}, err
	}
	if own {
		request.MessageId = policy.newID()
	}
	all, last := policy.times(&c.options)
	latest := time.Now().Add(last)
	limited, cancel := context.WithTimeout(ctx, all)
	defer cancel()
	a := newAttempts(limited, c)
	for {
		answer, e := attempt(a, c.service.Publish, request)
		if e == nil {
			if !policy.persist && answer.GetSequence() != 0 {
				c.forget(r.id) // the room was created again
			}
			return newPublished(answer, request.MessageId), nil
		}
		if isOutdated(e) {
			c.forget(r.id)
			if now, err := r.policy(ctx); err == nil && own && policy.persist && !now.persist {
				return r.Publish(ctx, payload, opts...) // nothing was done, since the room is ephemeral now
			}
		}
		if !policy.repeats(&a.login, e) || !a.pause(e, latest) {
			return Published{}, withID(a.failed(e), request.MessageId)
		}
	}
}

// message makes the request for a message. The payload is copied by grpc-go when it is sent, so it must not change
// before.
func (r *Room) message(payload []byte, opts []PublishOption) *unibusv1.PublishRequest {
	request := &unibusv1.PublishRequest{RoomId: r.id, Payload: payload}
	for _, opt := range opts {
		opt(request)
	}
	return request
}

func withID(err error, id string) error {
	if e, ok := err.(*Error); ok {
		e.MessageID = id
	}
	return err
}

// publishPolicy is what a room allows a client to repeat.
type publishPolicy struct {
	persist bool
	window  time.Duration
}

// policy asks for the room's settings once (U12).
func (r *Room) policy(ctx context.Context) (publishPolicy, error) {
	r.client.mu.Lock()
	policy, known := r.client.policies[r.id]
	r.client.mu.Unlock()
	if known {
		return policy, nil
	}
	info, err := r.Info(ctx)
	if err != nil {
		return policy, err
	}
	policy = publishPolicy{info.Persist, info.DedupeWindow}
	if policy.persist && policy.window == 0 {
		policy.window = 2 * time.Minute // of a service that does not tell its window
	}
	r.client.mu.Lock()
	r.client.policies[r.id] = policy
	r.client.mu.Unlock()
	return policy, nil
}

func (c *Client) forget(room string) {
	c.mu.Lock()
	delete(c.policies, room)
	c.mu.Unlock()
}

// isOutdated says whether an outcome shows that the room is not the one that the client asked for.
func isOutdated(e *Error) bool {
	return e.Reason == "ROOM_NOT_FOUND" || e.Reason == "ROOM_NOT_PERSISTED" ||
		e.Reason == "INVALID_FIELD" && slices.ContainsFunc(e.Fields, func(f FieldViolation) bool {
			return f.Field == "message_id" || f.Field == "publish.message_id"
		})
}

func (p publishPolicy) newID() string {
	if p.persist {
		return randomID()
	}
	return ""
}

// repeats says whether a message may be published again after an outcome: after every unknown outcome in a persisted
// room (U11), and in an ephemeral room only if nothing was done (U12).
func (p publishPolicy) repeats(l *login, e *Error) bool {
	if e.OutcomeUnknown {
		return p.persist
	}
	return l.again(e)
}

// times returns the time of all attempts, and the time after which no further one begins: it must end within the
// room's window (U11). The program can make both shorter.
func (p publishPolicy) times(o *clientOptions) (all, last time.Duration) {
	if !p.persist {
		return o.total, o.total
	}
	all = p.window
	if o.publish != 0 {
		all = min(all, o.publish)
	}
	return all, min(all, p.window-o.attempt)
}
