package io.github.unibusrs;

import io.github.unibusrs.v1.ListMembersRequest;
import io.github.unibusrs.v1.ListMembersResponse;
import io.github.unibusrs.v1.ListSubscribersRequest;
import io.github.unibusrs.v1.ListSubscribersResponse;
import io.github.unibusrs.v1.Member;
import io.github.unibusrs.v1.Role;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.github.unibusrs.v1.Subscriber;
import io.github.unibusrs.v1.UpdateRoomRequest;
import java.time.Duration;
import java.util.Objects;

/**
 * A room. The handle does no I/O when it is made, and may be used by many threads.
 *
 * <p>The calls block until they succeed, fail finally, or their time is up (U9), and throw {@link
 * UnibusException}. An interrupt of the thread cancels the call, which then throws {@link
 * java.util.concurrent.CancellationException} (U3). {@link #async} has the same calls as futures.
 */
public final class Room {
  private final Calls calls;
  private final String id;
  private final AsyncRoom async;

  Room(Calls calls, String id) {
    this.calls = calls;
    this.id = Objects.requireNonNull(id);
    this.async = new AsyncRoom(calls, id);
  }

  /** The id of the room. */
  public String id() {
    return id;
  }

  /** The calls of this room as futures. */
  public AsyncRoom async() {
    return async;
  }

  /** The same room with a shorter time for all attempts of a call, publishes included (U9, U11). */
  public Room withTimeout(Duration time) {
    return new Room(calls.within(time), id);
  }

  /** The settings of the room and what it holds. */
  public io.github.unibusrs.v1.Room info() {
    return Futures.await(async.info());
  }

  /**
   * Changes labels, retention, window or replicas.
   *
   * @param changes the changed fields and their mask; the client sets the id of the room
   */
  public io.github.unibusrs.v1.Room update(UpdateRoomRequest changes) {
    return Futures.await(async.update(changes));
  }

  /** Deletes the room with its messages, subscribers and members. */
  public void delete() {
    Futures.await(async.delete());
  }

  /**
   * Removes all messages. Not repeated after an unknown outcome (U10).
   *
   * @return the number of removed messages, unsigned
   */
  public long purge() {
    return Futures.await(async.purge());
  }

  /**
   * Removes the messages up to this sequence.
   *
   * @return the number of messages that the last attempt removed, unsigned
   */
  public long purgeUpTo(long sequence) {
    return Futures.await(async.purgeUpTo(sequence));
  }

  /** Erases one stored message. */
  public void deleteMessage(long sequence) {
    Futures.await(async.deleteMessage(sequence));
  }

  /** Publishes a message and waits until it is stored. See {@link #publish(Outgoing)}. */
  public PublishResult publish(byte[] payload) {
    return publish(Outgoing.of(payload));
  }

  /**
   * Publishes a message and waits until it is stored, or in an ephemeral room sent.
   *
   * <p>An unknown outcome is repeated with the same id as long as the room remembers it (U11). If
   * the outcome stays unknown, {@link UnibusException#isOutcomeUnknown} is true and {@link
   * UnibusException#getMessageId} tells the id. To publish many messages use {@link #publisher}.
   */
  public PublishResult publish(Outgoing message) {
    return Futures.await(async.publish(message));
  }

  /** A publisher that pipelines messages to this room, with default limits (U13). */
  public Publisher publisher() {
    return publisher(Publisher.Options.DEFAULT);
  }

  /** A publisher that pipelines messages to this room (U13). */
  public Publisher publisher(Publisher.Options options) {
    var publisher = new Publisher(calls, id, options);
    calls.connection().add(publisher);
    return publisher;
  }

  /** A subscription to configure and start. */
  public SubscriptionBuilder subscription() {
    return new SubscriptionBuilder(calls, id);
  }

  /**
   * Subscribes as a durable subscriber: the service keeps the position, and each message is
   * acknowledged when the handler has returned (U19).
   *
   * @param subscriber the name of the subscriber
   * @param handler called for one message after the other, on a thread of the client
   */
  public Subscription subscribe(String subscriber, MessageHandler handler) {
    return subscription().durable(subscriber).start(handler);
  }

  /**
   * Subscribes as a durable subscriber, to take the messages in a loop. A message is acknowledged
   * when the loop asks for the next one (U19).
   */
  public Messages messages(String subscriber) {
    return subscription().durable(subscriber).iterate();
  }

  /** The stored messages (U28). */
  public History history() {
    return new History(calls, id);
  }

  /** Adds a member that may read all messages, or changes its role. */
  public Member addMember(String memberId, Role role) {
    return addMember(Member.newBuilder().setMemberId(memberId).setRole(role).build());
  }

  /** Adds a member, or changes its role and the first sequence that it may read. */
  public Member addMember(Member member) {
    return Futures.await(async.addMember(member));
  }

  /** Removes a member. */
  public void removeMember(String memberId) {
    Futures.await(async.removeMember(memberId));
  }

  /** The members, by ascending id; one call for each page of an iteration. */
  public Iterable<Member> members() {
    return calls.pages(
        RoomServiceGrpc.getListMembersMethod(),
        page -> ListMembersRequest.newBuilder().setRoomId(id).setPageToken(page).build(),
        response -> response.getMembersList().stream(),
        ListMembersResponse::getNextPageToken);
  }

  /** The durable subscribers; one call for each page of an iteration. */
  public Iterable<Subscriber> subscribers() {
    return calls.pages(
        RoomServiceGrpc.getListSubscribersMethod(),
        page -> ListSubscribersRequest.newBuilder().setRoomId(id).setPageToken(page).build(),
        response -> response.getSubscribersList().stream(),
        ListSubscribersResponse::getNextPageToken);
  }

  /**
   * Moves a durable subscriber; an open subscription follows.
   *
   * @return the new position, unsigned
   */
  public long seek(String subscriber, Start position) {
    return Futures.await(async.seek(subscriber, position));
  }

  /** Deletes a durable subscriber with its position. */
  public void deleteSubscriber(String subscriber) {
    Futures.await(async.deleteSubscriber(subscriber));
  }
}
