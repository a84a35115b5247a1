package io.github.unibusrs;

import io.github.unibusrs.v1.ConsumeRequest;
import io.github.unibusrs.v1.ConsumeResponse;
import io.github.unibusrs.v1.GetRoomRequest;
import io.github.unibusrs.v1.GetRoomResponse;
import io.github.unibusrs.v1.Opened;
import io.github.unibusrs.v1.PublishRequest;
import io.github.unibusrs.v1.PublishResponse;
import io.github.unibusrs.v1.PublishStreamRequest;
import io.github.unibusrs.v1.PublishStreamResponse;
import io.github.unibusrs.v1.Room;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.grpc.Server;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** A service on loopback. A test decides what it answers; by default everything succeeds. */
final class FakeService extends RoomServiceGrpc.RoomServiceImplBase implements AutoCloseable {
  final List<PublishRequest> published = new CopyOnWriteArrayList<>();
  final List<ConsumeRequest> commands = new CopyOnWriteArrayList<>();
  volatile Room room = room(true, Duration.ofMinutes(2));

  volatile Consumer<StreamObserver<GetRoomResponse>> getRoom =
      answer -> succeed(answer, GetRoomResponse.newBuilder().setRoom(room).build());

  volatile Consumer<StreamObserver<PublishResponse>> publish =
      answer -> succeed(answer, PublishResponse.getDefaultInstance());

  volatile BiConsumer<PublishStreamRequest, StreamObserver<PublishStreamResponse>> publishStream =
      (request, answers) -> answers.onNext(stored(request));

  volatile BiConsumer<ConsumeRequest, StreamObserver<ConsumeResponse>> consume =
      (request, frames) -> {
        if (request.hasOpen()) {
          frames.onNext(opened(0, Duration.ofSeconds(5)));
        }
      };

  private final Server server;

  FakeService() throws IOException {
    var any = new InetSocketAddress("127.0.0.1", 0);
    server = NettyServerBuilder.forAddress(any).addService(this).build().start();
  }

  String address() {
    return "http://127.0.0.1:" + server.getPort();
  }

  static Room room(boolean persist, Duration window) {
    var room = Room.newBuilder().setRoomId("r").setPersist(persist);
    return persist ? room.setDedupeWindow(Wire.duration(window)).build() : room.build();
  }

  static PublishStreamResponse stored(PublishStreamRequest request) {
    return PublishStreamResponse.newBuilder()
        .setCorrelationId(request.getCorrelationId())
        .setResult(PublishResponse.newBuilder().setSequence(request.getCorrelationId()))
        .build();
  }

  static ConsumeResponse opened(long position, Duration heartbeat) {
    return ConsumeResponse.newBuilder()
        .setRoomId("r")
        .setOpened(
            Opened.newBuilder()
                .setPosition(position)
                .setFirstSequence(1)
                .setLastSequence(99)
                .setGeneration(1)
                .setCursor("opened " + position)
                .setHeartbeatInterval(Wire.duration(heartbeat)))
        .build();
  }

  static ConsumeResponse message(long sequence) {
    return ConsumeResponse.newBuilder()
        .setRoomId("r")
        .setMessage(
            io.github.unibusrs.v1.Message.newBuilder()
                .setSequence(sequence)
                .setCursor("c" + sequence))
        .build();
  }

  static <T> void succeed(StreamObserver<T> answer, T value) {
    answer.onNext(value);
    answer.onCompleted();
  }

  static StatusRuntimeException failure(com.google.rpc.Status status) {
    return StatusProto.toStatusRuntimeException(status);
  }

  @Override
  public void getRoom(GetRoomRequest request, StreamObserver<GetRoomResponse> answer) {
    getRoom.accept(answer);
  }

  @Override
  public void publish(PublishRequest request, StreamObserver<PublishResponse> answer) {
    published.add(request);
    publish.accept(answer);
  }

  @Override
  public StreamObserver<PublishStreamRequest> publishStream(
      StreamObserver<PublishStreamResponse> answers) {
    return requests(
        request -> {
          published.add(request.getPublish());
          publishStream.accept(request, answers);
        },
        answers);
  }

  @Override
  public StreamObserver<ConsumeRequest> consume(StreamObserver<ConsumeResponse> frames) {
    return requests(
        request -> {
          commands.add(request);
          consume.accept(request, frames);
        },
        frames);
  }

  private static <Q, R> StreamObserver<Q> requests(Consumer<Q> each, StreamObserver<R> answers) {
    return new StreamObserver<>() {
      private @Nullable Throwable failed;

      @Override
      public void onNext(Q request) {
        if (failed == null) {
          try {
            each.accept(request);
          } catch (StatusRuntimeException e) {
            failed = e;
            answers.onError(e);
          }
        }
      }

      @Override
      public void onError(Throwable e) {
        failed = e;
      }

      @Override
      public void onCompleted() {
        if (failed == null) {
          answers.onCompleted();
        }
      }
    };
  }

  @Override
  public void close() {
    server.shutdownNow();
  }
}
