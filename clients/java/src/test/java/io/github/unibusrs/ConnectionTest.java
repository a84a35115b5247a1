package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.unibusrs.UnibusException.Outcome;
import io.grpc.Status;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class ConnectionTest {
  private static final ExecutorService THREADS = Executors.newCachedThreadPool();

  @TempDir Path folder;

  private static final UnibusException REFUSED =
      UnibusException.of(Status.Code.UNAUTHENTICATED, "refused");

  @ParameterizedTest
  @CsvSource({"0, 50, 100", "1, 100, 200", "4, 800, 1600", "5, 1000, 2000", "63, 1000, 2000"})
  void pausesGrowAndAreCapped(int attempt, long least, long most) {
    assertEquals(Duration.ofMillis(least), Backoff.pause(attempt, 0));
    assertEquals(Duration.ofMillis(most), Backoff.pause(attempt, 1));
  }

  @Test
  void aPauseIsNeverShorterThanTheServiceAsks() {
    var wait =
        com.google.rpc.RetryInfo.newBuilder().setRetryDelay(Wire.duration(Duration.ofSeconds(7)));
    var info =
        com.google.rpc.ErrorInfo.newBuilder().setDomain("unibus.v1").setReason("RATE_LIMITED");
    var error =
        UnibusException.of(
            com.google.rpc.Status.newBuilder()
                .setCode(Status.Code.RESOURCE_EXHAUSTED.value())
                .addDetails(com.google.protobuf.Any.pack(wait.build()))
                .addDetails(com.google.protobuf.Any.pack(info.build()))
                .build());
    assertEquals(Duration.ofSeconds(7), new Backoff().next(error));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {"http://10.0.0.1:1", "http://localhost.example:1", "http://127.1.example:1"})
  void aTokenIsNeverSentOverPlaintextToAnotherMachine(String address) {
    var builder = UnibusClient.builder(address).token("secret").allowPlaintextToken();
    assertEquals(Outcome.FINAL, assertThrows(UnibusException.class, builder::build).getOutcome());
  }

  @ParameterizedTest
  @ValueSource(strings = {"http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"})
  void aTokenIsSentOverPlaintextOnlyIfTheProgramAllowsIt(String address) {
    var builder = UnibusClient.builder(address).token("secret");
    assertThrows(UnibusException.class, builder::build);
    assertDoesNotThrow(() -> builder.allowPlaintextToken().build().close());
  }

  @ParameterizedTest
  @ValueSource(strings = {"", "127.0.0.1:50051", "ftp://host:1", "https://", "http://a b"})
  void aWrongAddressIsRefused(String address) {
    assertThrows(UnibusException.class, () -> UnibusClient.connect(address));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"
      })
  void aWrongPemFileIsReportedAtOnce(String text) throws Exception {
    var file = Files.writeString(folder.resolve("wrong.pem"), text);
    var authorities = UnibusClient.builder("https://127.0.0.1:1").trustedAuthorities(file);
    var own = UnibusClient.builder("https://127.0.0.1:1").clientCertificate(file, file);
    for (var builder : List.of(authorities, own)) {
      var error = assertThrows(UnibusException.class, builder::build);
      assertEquals(Outcome.FINAL, error.getOutcome());
    }
  }

  @Test
  void aFixedTokenThatIsRefusedIsFinal() {
    var credentials = new Credentials(new Credentials.Source(null, "t"), THREADS);
    assertEquals("t", credentials.next(Duration.ofSeconds(1)).join());
    assertEquals(Outcome.FINAL, credentials.judge(REFUSED).getOutcome());
  }

  @Test
  void theSameTokenAgainIsFinalAndAnotherOneIsTried() {
    var tokens = List.of("a", "b", "b").iterator();
    var credentials = supplied(tokens::next);
    credentials.next(Duration.ofSeconds(1)).join();
    assertEquals(Outcome.NEW_TOKEN, credentials.judge(REFUSED).getOutcome());
    assertEquals("b", credentials.next(Duration.ofSeconds(1)).join());
    credentials.judge(REFUSED);
    var same = credentials.next(Duration.ofSeconds(1)).handle((v, e) -> Futures.error(e)).join();
    assertEquals(Outcome.FINAL, same.getOutcome());
  }

  @Test
  void anOlderTokenIsTriedAgainOnceAnotherOneWasUsed() {
    var tokens = List.of("a", "b", "a").iterator();
    var credentials = supplied(tokens::next);
    credentials.next(Duration.ofSeconds(1)).join();
    credentials.judge(REFUSED);
    credentials.next(Duration.ofSeconds(1)).join();
    assertEquals("a", credentials.next(Duration.ofSeconds(1)).join());
  }

  @Test
  void aSupplierThatFailsOrHangsIsAskedAgain() {
    Iterator<Callable<String>> ways =
        List.<Callable<String>>of(
                () -> {
                  throw new StackOverflowError("down");
                },
                () -> {
                  throw new CancellationException("down");
                },
                () -> new CompletableFuture<String>().get())
            .iterator();
    var credentials = supplied(() -> ways.next().call());
    while (ways.hasNext()) {
      var error =
          credentials.next(Duration.ofMillis(200)).handle((v, e) -> Futures.error(e)).join();
      assertEquals(Outcome.AGAIN, error.getOutcome());
      assertTrue(!error.isOutcomeUnknown());
    }
  }

  @Test
  void timesKeepTheirNanoseconds() {
    var time = Instant.ofEpochSecond(1_700_000_000L, 123_456_789);
    assertEquals(time, Wire.instant(Wire.timestamp(time)));
    var duration = Duration.ofSeconds(3, 7);
    assertEquals(duration, Wire.duration(Wire.duration(duration)));
  }

  private static Credentials supplied(Callable<String> supplier) {
    return new Credentials(new Credentials.Source(supplier, null), THREADS);
  }
}
