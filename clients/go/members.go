package unibus

import (
	"context"
	"iter"
	"time"

	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// Role says what a member may do. Each role may do what the roles before it may do.
type Role = unibusv1.Role

// The roles: a reader reads, a writer also publishes, an owner also changes the room, its members and its messages.
const (
	RoleReader = unibusv1.Role_ROLE_READER
	RoleWriter = unibusv1.Role_ROLE_WRITER
	RoleOwner  = unibusv1.Role_ROLE_OWNER
)

// Member is a member of a room.
type Member struct {
	ID   string
	Role Role
	// VisibleFrom is the sequence of the first message that the member may read. 0 means all messages.
	VisibleFrom uint64
}

func newMember(m *unibusv1.Member) Member {
	return Member{m.GetMemberId(), m.GetRole(), m.GetVisibleFrom()}
}

// Members yields the members of the room, by ascending id.
func (r *Room) Members(ctx context.Context) iter.Seq2[Member, error] {
	return pages(func(token string) ([]Member, string, error) {
		answer, err := call(ctx, r.client, repeat{}, r.client.service.ListMembers,
			&unibusv1.ListMembersRequest{RoomId: r.id, PageToken: token})
		return convert(answer.GetMembers(), newMember), answer.GetNextPageToken(), err
	})
}

// AddMember adds a member, or changes it.
func (r *Room) AddMember(ctx context.Context, member Member) error {
	_, err := call(ctx, r.client, repeat{}, r.client.service.AddMember, &unibusv1.AddMemberRequest{
		RoomId: r.id, MemberId: member.ID, Role: member.Role, VisibleFrom: member.VisibleFrom,
	})
	return err
}

// RemoveMember removes a member. Its open subscriptions end.
func (r *Room) RemoveMember(ctx context.Context, id string) error {
	_, err := call(ctx, r.client, repeat{done: "MEMBER_NOT_FOUND"}, r.client.service.RemoveMember,
		&unibusv1.RemoveMemberRequest{RoomId: r.id, MemberId: id})
	return err
}

// Subscriber is a durable subscriber of a room.
type Subscriber struct {
	Name string
	// Position is the sequence up to which all messages are processed.
	Position uint64
	// Lag is the number of stored messages after the position.
	Lag uint64
	// LastActiveAt is the zero time if it is unknown.
	LastActiveAt time.Time
	// Open says whether a subscription is open.
	Open bool
	// Consumer is the name of the NATS consumer.
	Consumer string
}

func newSubscriber(s *unibusv1.Subscriber) Subscriber {
	subscriber := Subscriber{s.GetSubscriber(), s.GetPosition(), s.GetLag(), time.Time{}, s.GetOpen(), s.GetConsumer()}
	if at := s.GetLastActiveAt(); at != nil {
		subscriber.LastActiveAt = at.AsTime()
	}
	return subscriber
}

// Subscribers yields the durable subscribers of the room that the caller may see.
func (r *Room) Subscribers(ctx context.Context) iter.Seq2[Subscriber, error] {
	return pages(func(token string) ([]Subscriber, string, error) {
		answer, err := call(ctx, r.client, repeat{}, r.client.service.ListSubscribers,
			&unibusv1.ListSubscribersRequest{RoomId: r.id, PageToken: token})
		return convert(answer.GetSubscribers(), newSubscriber), answer.GetNextPageToken(), err
	})
}

// SeekSubscriber moves a durable subscriber, forwards or back, and returns its new position. Its open subscription
// follows (U22).
func (r *Room) SeekSubscriber(ctx context.Context, name string, to Start) (uint64, error) {
	answer, err := call(ctx, r.client, repeat{}, r.client.service.SeekSubscriber,
		&unibusv1.SeekSubscriberRequest{RoomId: r.id, Subscriber: name, Position: to.at})
	return answer.GetPosition(), err
}

// DeleteSubscriber deletes a durable subscriber with its position.
func (r *Room) DeleteSubscriber(ctx context.Context, name string) error {
	_, err := call(ctx, r.client, repeat{done: "SUBSCRIBER_NOT_FOUND"}, r.client.service.DeleteSubscriber,
		&unibusv1.DeleteSubscriberRequest{RoomId: r.id, Subscriber: name})
	return err
}
