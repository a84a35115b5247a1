package unibus

import (
	"context"
	"maps"
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

// published reads the answer to a message.
func (r *Room) published(request *unibusv1.PublishRequest, policy publishPolicy, answer *unibusv1.PublishResponse) Published {
	if !policy.persist && answer.GetSequence() != 0 {
		r.client.forget(r.id) // the room was created again
	}
	return Published{
		answer.GetSequence(), answer.GetDuplicate(), request.MessageId, answer.GetPublishedAt().AsTime(), answer.GetDurability(),
	}
}

// Publish publishes a message and waits until it is stored. It repeats a message whose outcome is unknown with the
// same id, as long as the room remembers ids (U11). In an ephemeral room it repeats only what was certainly not sent
// (U12).
//
// If ctx ends first, the message may be stored.
func (r *Room) Publish(ctx context.Context, payload []byte, opts ...PublishOption) (Published, error) {
	c := r.client
	request, err := r.message(payload, opts)
	if err != nil {
		return Published{}, err
	}
	own := request.MessageId == ""
	policy, err := r.policy(ctx)
	if err != nil {
		return Published{}, err
	}
	if own && policy.persist {
		request.MessageId = randomID()
	}
	all, last := policy.times(&c.options)
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, all)
	defer cancel()
	a := newAttempts(limited, c)
	for {
		answer, e := attempt(a, c.service.Publish, request)
		if e == nil {
			return r.published(request, policy, answer), nil
		}
		if r.outdated(e) && own && policy.persist {
			if now, err := r.policy(ctx); err == nil && !now.persist {
				return r.Publish(ctx, payload, opts...) // nothing was done, since the room is ephemeral now
			}
		}
		limit := all
		if a.unknown {
			limit = last
		}
		if !policy.repeats(&a.login, e) || !a.pause(e, began.Add(limit)) {
			return Published{}, withID(a.failed(e), request.MessageId)
		}
	}
}

// message makes the request for a message. The payload is copied by grpc-go when it is sent, so it must not change
// before.
func (r *Room) message(payload []byte, opts []PublishOption) (*unibusv1.PublishRequest, error) {
	request := &unibusv1.PublishRequest{RoomId: r.id}
	for _, opt := range opts {
		opt(request)
	}
	err := unsendable(request) // without the payload, which always can be sent
	request.Payload = payload
	return request, err
}

func withID(err error, id string) error {
	if e, ok := err.(*Error); ok {
		e.MessageID = id
	}
	return err
}

// maxPolicies bounds the rooms of which a client keeps the settings.
const maxPolicies = 10_000

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
	if e, ok := err.(*Error); ok {
		e.OutcomeUnknown = false // no message was sent
	}
	if err != nil {
		return policy, err
	}
	policy = publishPolicy{info.Persist, info.DedupeWindow}
	if policy.persist && policy.window == 0 {
		policy.window = 2 * time.Minute // of a service that does not tell its window
	}
	r.client.mu.Lock()
	if len(r.client.policies) >= maxPolicies {
		clear(r.client.policies)
	}
	r.client.policies[r.id] = policy
	r.client.mu.Unlock()
	return policy, nil
}

func (c *Client) forget(room string) {
	c.mu.Lock()
	delete(c.policies, room)
	c.mu.Unlock()
}

// outdated says whether an outcome shows that a persisted room is an ephemeral one now. If the room is another one, the
// client forgets what it knows of it.
func (r *Room) outdated(e *Error) bool {
	if e.Reason == "ROOM_NOT_PERSISTED" || e.Reason == "ROOM_NOT_FOUND" {
		r.client.forget(r.id)
	}
	return e.Reason == "ROOM_NOT_PERSISTED"
}

// repeats says whether a message may be published again after an outcome: after every unknown outcome in a persisted
// room (U11), and in an ephemeral room only if nothing was done (U12).
func (p publishPolicy) repeats(l *login, e *Error) bool {
	if e.OutcomeUnknown {
		return p.persist
	}
	return l.again(e)
}

// times returns the time of all attempts, and the time after which none begins if the message may be stored: it must
// end within the room's window (U11), so with a short window there is none. The program can make both times shorter.
func (p publishPolicy) times(o *clientOptions) (all, last time.Duration) {
	if !p.persist {
		return o.total, o.total
	}
	all = max(p.window, o.attempt)
	if o.publish != 0 {
		all = min(all, o.publish)
	}
	return all, min(all, p.window-o.attempt)
}
