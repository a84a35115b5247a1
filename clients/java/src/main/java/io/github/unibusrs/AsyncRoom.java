package io.github.unibusrs;

import io.github.unibusrs.v1.AddMemberRequest;
import io.github.unibusrs.v1.AddMemberResponse;
import io.github.unibusrs.v1.DeleteMessageRequest;
import io.github.unibusrs.v1.DeleteRoomRequest;
import io.github.unibusrs.v1.DeleteSubscriberRequest;
import io.github.unibusrs.v1.GetRoomRequest;
import io.github.unibusrs.v1.GetRoomResponse;
import io.github.unibusrs.v1.Member;
import io.github.unibusrs.v1.PurgeRoomRequest;
import io.github.unibusrs.v1.RemoveMemberRequest;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.github.unibusrs.v1.SeekSubscriberRequest;
import io.github.unibusrs.v1.UpdateRoomRequest;
import io.github.unibusrs.v1.UpdateRoomResponse;
import java.util.concurrent.CompletableFuture;

/**
 * The calls of {@link Room} as futures. A future fails with a {@link UnibusException}; to cancel it
 * cancels the call. Code that follows a future runs on a thread of the client, and may block.
 */
public final class AsyncRoom {
  private final Calls calls;
  private final String id;

  AsyncRoom(Calls calls, String id) {
    this.calls = calls;
    this.id = id;
  }

  /** See {@link Room#info}. */
  public CompletableFuture<io.github.unibusrs.v1.Room> info() {
    var request = GetRoomRequest.newBuilder().setRoomId(id).build();
    return calls.call(RoomServiceGrpc.getGetRoomMethod(), request, GetRoomResponse::getRoom);
  }

  /** See {@link Room#update}. */
  public CompletableFuture<io.github.unibusrs.v1.Room> update(UpdateRoomRequest changes) {
    var named = changes.toBuilder();
    named.getRoomBuilder().setRoomId(id);
    return calls.call(
        RoomServiceGrpc.getUpdateRoomMethod(), named.build(), UpdateRoomResponse::getRoom);
  }

  /** See {@link Room#delete}. */
  public CompletableFuture<Boolean> delete() {
    var request = DeleteRoomRequest.newBuilder().setRoomId(id).build();
    return calls.remove(RoomServiceGrpc.getDeleteRoomMethod(), request, "ROOM_NOT_FOUND");
  }

  /** See {@link Room#purge}. */
  public CompletableFuture<Long> purge() {
    // A repeated purge would remove later messages too (U10).
    var request = PurgeRoomRequest.newBuilder().setRoomId(id).build();
    return calls.once(RoomServiceGrpc.getPurgeRoomMethod(), request, r -> r.getPurged());
  }

  /** See {@link Room#purgeUpTo}. */
  public CompletableFuture<Long> purgeUpTo(long sequence) {
    var request = PurgeRoomRequest.newBuilder().setRoomId(id).setUpToSequence(sequence).build();
    return calls.call(RoomServiceGrpc.getPurgeRoomMethod(), request, r -> r.getPurged());
  }

  /** See {@link Room#deleteMessage}. */
  public CompletableFuture<Boolean> deleteMessage(long sequence) {
    var request = DeleteMessageRequest.newBuilder().setRoomId(id).setSequence(sequence).build();
    return calls.remove(RoomServiceGrpc.getDeleteMessageMethod(), request, "MESSAGE_NOT_FOUND");
  }

  /** See {@link Room#publish(Outgoing)}. */
  public CompletableFuture<PublishResult> publish(Outgoing message) {
    return new Publish(calls, id, message).start();
  }

  /** See {@link Room#addMember}. */
  public CompletableFuture<Member> addMember(Member member) {
    var request =
        AddMemberRequest.newBuilder()
            .setRoomId(id)
            .setMemberId(member.getMemberId())
            .setRole(member.getRole())
            .setVisibleFrom(member.getVisibleFrom())
            .build();
    return calls.call(RoomServiceGrpc.getAddMemberMethod(), request, AddMemberResponse::getMember);
  }

  /** See {@link Room#removeMember}. */
  public CompletableFuture<Boolean> removeMember(String memberId) {
    var request = RemoveMemberRequest.newBuilder().setRoomId(id).setMemberId(memberId).build();
    return calls.remove(RoomServiceGrpc.getRemoveMemberMethod(), request, "MEMBER_NOT_FOUND");
  }

  /** See {@link Room#seek}. */
  public CompletableFuture<Long> seek(String subscriber, Start position) {
    var request =
        SeekSubscriberRequest.newBuilder()
            .setRoomId(id)
            .setSubscriber(subscriber)
            .setPosition(position.toWire())
            .build();
    return calls.call(RoomServiceGrpc.getSeekSubscriberMethod(), request, r -> r.getPosition());
  }

  /** See {@link Room#deleteSubscriber}. */
  public CompletableFuture<Boolean> deleteSubscriber(String subscriber) {
    var request =
        DeleteSubscriberRequest.newBuilder().setRoomId(id).setSubscriber(subscriber).build();
    return calls.remove(
        RoomServiceGrpc.getDeleteSubscriberMethod(), request, "SUBSCRIBER_NOT_FOUND");
  }
}
