package unibus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Room is a handle of a room.
type Room struct {
	client *Client
	id     string
}

// Room returns a handle of a room. It does no I/O: the room need not exist.
func (c *Client) Room(id string) *Room { return &Room{c, id} }

// ID returns the id of the room.
func (r *Room) ID() string { return r.id }

// RoomInfo describes a room.
type RoomInfo struct {
	ID              string
	Persist         bool
	Subject         string
	Retention       Retention
	Replicas        uint32
	AllowMessageTTL bool
	Labels          map[string]string
	CreatedAt       time.Time
	Creator         string
	// Stream is the name of the NATS stream of the log.
	Stream string
	// DedupeWindow is how long the room remembers the ids of messages.
	DedupeWindow time.Duration
	// State is what the log holds. It is nil in an ephemeral room, and in Rooms.
	State *RoomState
}

// Retention has the bounds on the stored messages of a room. 0 means no bound.
type Retention struct {
	MaxAge          time.Duration
	MaxBytes        int64
	MaxMessages     int64
	MaxMessageBytes int32
}

// RoomState says what the log of a room holds.
type RoomState struct {
	FirstSequence, LastSequence, Messages, Bytes uint64
}

func newRoomInfo(r *unibusv1.Room) *RoomInfo {
	info := &RoomInfo{
		ID: r.GetRoomId(), Persist: r.GetPersist(), Subject: r.GetSubject(), Replicas: r.GetReplicas(),
		AllowMessageTTL: r.GetAllowMessageTtl(), Labels: r.GetLabels(), CreatedAt: r.GetCreatedAt().AsTime(), Creator: r.GetCreator(),
		Stream: r.GetStream(), DedupeWindow: r.GetDedupeWindow().AsDuration(),
	}
	if b := r.GetRetention(); b != nil {
		info.Retention = Retention{b.GetMaxAge().AsDuration(), b.GetMaxBytes(), b.GetMaxMessages(), b.GetMaxMessageBytes()}
	}
	if s := r.GetState(); s != nil {
		info.State = &RoomState{s.GetFirstSequence(), s.GetLastSequence(), s.GetMessages(), s.GetBytes()}
	}
	return info
}

// RoomOption is a setting of a room for CreateRoom and Update.
type RoomOption func(*roomSettings)

type roomSettings struct {
	room *unibusv1.Room
	mask []string
}

func settings(room *unibusv1.Room, opts []RoomOption) *roomSettings {
	s := &roomSettings{room: room}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// setting is an option that sets one field.
func setting(path string, set func(*unibusv1.Room)) RoomOption {
	return func(s *roomSettings) {
		set(s.room)
		s.mask = append(s.mask, path)
	}
}

// Ephemeral makes a room that stores nothing: a message reaches only the subscriptions that are open. It is for
// CreateRoom only.
func Ephemeral() RoomOption { return setting("persist", func(r *unibusv1.Room) { r.Persist = false }) }

// WithRetention bounds the stored messages.
func WithRetention(b Retention) RoomOption {
	retention := &unibusv1.Retention{MaxBytes: b.MaxBytes, MaxMessages: b.MaxMessages, MaxMessageBytes: b.MaxMessageBytes}
	if b.MaxAge != 0 {
		retention.MaxAge = durationpb.New(b.MaxAge)
	}
	return setting("retention", func(r *unibusv1.Room) { r.Retention = retention })
}

// WithDedupeWindow sets how long the room remembers the ids of messages: from 2 minutes, the default, to 24 hours.
// For so long a message with an unknown outcome can be repeated (U11).
func WithDedupeWindow(window time.Duration) RoomOption {
	return setting("dedupe_window", func(r *unibusv1.Room) { r.DedupeWindow = durationpb.New(window) })
}

// WithReplicas sets the number of copies of the log in a NATS cluster: 1, 3 or 5.
func WithReplicas(copies uint32) RoomOption {
	return setting("replicas", func(r *unibusv1.Room) { r.Replicas = copies })
}

// WithLabels sets all labels of the room.
func WithLabels(labels map[string]string) RoomOption {
	return setting("labels", func(r *unibusv1.Room) { r.Labels = labels })
}

// WithMessageTTL allows WithTTL in the room. It is for CreateRoom only.
func WithMessageTTL() RoomOption {
	return setting("allow_message_ttl", func(r *unibusv1.Room) { r.AllowMessageTtl = true })
}

// WithSubject chooses the NATS subject of the room. It is for CreateRoom only.
func WithSubject(subject string) RoomOption {
	return setting("subject", func(r *unibusv1.Room) { r.Subject = subject })
}

// CreateRoom creates a room, or returns the one that exists with these settings. The room is persisted, unless
// Ephemeral is given. An empty id gives the room an id that the client makes (U10).
func (c *Client) CreateRoom(ctx context.Context, id string, opts ...RoomOption) (*Room, error) {
	if id == "" {
		id = randomID()
	}
	room := settings(&unibusv1.Room{Persist: true}, opts).room
	_, err := call(ctx, c, repeat{}, c.service.CreateRoom, &unibusv1.CreateRoomRequest{
		RoomId: id, Persist: room.Persist, Subject: room.Subject, Retention: room.Retention, Replicas: room.Replicas,
		AllowMessageTtl: room.AllowMessageTtl, Labels: room.Labels, DedupeWindow: room.DedupeWindow,
	})
	if err != nil {
		return nil, err
	}
	return c.Room(id), nil
}

// Rooms yields the rooms of which the caller is a member, by ascending id, without their states.
func (c *Client) Rooms(ctx context.Context) iter.Seq2[*RoomInfo, error] {
	return pages(func(token string) ([]*RoomInfo, string, error) {
		answer, err := call(ctx, c, repeat{}, c.service.ListRooms, &unibusv1.ListRoomsRequest{PageToken: token})
		return convert(answer.GetRooms(), newRoomInfo), answer.GetNextPageToken(), err
	})
}

// Info returns the room with its state.
func (r *Room) Info(ctx context.Context) (*RoomInfo, error) {
	answer, err := call(ctx, r.client, repeat{}, r.client.service.GetRoom, &unibusv1.GetRoomRequest{RoomId: r.id})
	if err != nil {
		return nil, err
	}
	return newRoomInfo(answer.GetRoom()), nil
}

// Update changes the given settings of the room.
func (r *Room) Update(ctx context.Context, opts ...RoomOption) (*RoomInfo, error) {
	s := settings(&unibusv1.Room{RoomId: r.id}, opts)
	answer, err := call(ctx, r.client, repeat{}, r.client.service.UpdateRoom, &unibusv1.UpdateRoomRequest{
		Room: s.room, UpdateMask: &fieldmaskpb.FieldMask{Paths: s.mask},
	})
	if err != nil {
		return nil, err
	}
	r.client.forget(r.id)
	return newRoomInfo(answer.GetRoom()), nil
}

// Delete deletes the room with its messages, subscribers and members.
func (r *Room) Delete(ctx context.Context) error {
	_, err := call(ctx, r.client, repeat{done: "ROOM_NOT_FOUND"}, r.client.service.DeleteRoom,
		&unibusv1.DeleteRoomRequest{RoomId: r.id})
	if err == nil {
		r.client.forget(r.id)
	}
	return err
}

// Purge removes all messages. It is not repeated after an unknown outcome, since it would remove later messages too
// (U10).
func (r *Room) Purge(ctx context.Context) error {
	_, err := call(ctx, r.client, repeat{never: true}, r.client.service.PurgeRoom,
		&unibusv1.PurgeRoomRequest{RoomId: r.id})
	return err
}

// PurgeUpTo removes all messages up to and including a sequence.
func (r *Room) PurgeUpTo(ctx context.Context, sequence uint64) error {
	_, err := call(ctx, r.client, repeat{}, r.client.service.PurgeRoom,
		&unibusv1.PurgeRoomRequest{RoomId: r.id, UpToSequence: &sequence})
	return err
}

// DeleteMessage erases one stored message.
func (r *Room) DeleteMessage(ctx context.Context, sequence uint64) error {
	_, err := call(ctx, r.client, repeat{done: "MESSAGE_NOT_FOUND"}, r.client.service.DeleteMessage,
		&unibusv1.DeleteMessageRequest{RoomId: r.id, Sequence: sequence})
	return err
}

// randomID makes an id of 128 random bits.
func randomID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// pages yields the elements of all pages of a list.
func pages[T any](page func(token string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			elements, next, err := page(token)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, element := range elements {
				if !yield(element, nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}

func convert[A, B any](from []A, one func(A) B) []B {
	to := make([]B, len(from))
	for i, a := range from {
		to[i] = one(a)
	}
	return to
}
