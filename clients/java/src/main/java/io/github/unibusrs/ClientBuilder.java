package io.github.unibusrs;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/** Configures a {@link UnibusClient}. */
public final class ClientBuilder {
  private static final int MAX_MESSAGE_BYTES = 16 << 20;

  /** Errors may name many wrong fields, in the trailers. */
  private static final int MAX_DETAILS_BYTES = 64 << 10;

  private static final AtomicLong THREADS = new AtomicLong();

  private final String address;
  private @Nullable String token;
  private @Nullable Callable<String> tokens;
  private boolean plaintextToken;
  private @Nullable Path authorities;
  private @Nullable Path certificate;
  private @Nullable Path key;
  private Settings settings = Settings.DEFAULT;
  private int maxMessageBytes = MAX_MESSAGE_BYTES;
  private @Nullable Executor handlerExecutor;

  ClientBuilder(String address) {
    this.address = address;
  }

  /** A token that never changes. When the service refuses it, the error is final (U8). */
  public ClientBuilder token(String value) {
    if (!Credentials.isValid(value)) {
      throw wrong("the token has other characters than visible ASCII", null);
    }
    token = value;
    return this;
  }

  /**
   * Called for the token of each attempt of each call, on a thread of the client; may block (U8).
   * The thread is interrupted when the time of the attempt is up.
   */
  public ClientBuilder tokenSupplier(Callable<String> supplier) {
    tokens = supplier;
    return this;
  }

  /** Allows a token over plaintext, to a loopback address only (U5). */
  public ClientBuilder allowPlaintextToken() {
    plaintextToken = true;
    return this;
  }

  /** Trusts the authorities in this PEM file, in place of those of the Java runtime (U5). */
  public ClientBuilder trustedAuthorities(Path pem) {
    authorities = pem;
    return this;
  }

  /** The client's own certificate chain and its key, in PEM files; the key as PKCS #8 (U5). */
  public ClientBuilder clientCertificate(Path chain, Path privateKey) {
    certificate = chain;
    key = privateKey;
    return this;
  }

  /** The time of one attempt of a call (U9). Default: 10 s. */
  public ClientBuilder attemptTimeout(Duration time) {
    settings = new Settings(time, settings.total(), settings.publish());
    return this;
  }

  /** The time of all attempts of a call (U9). Default: 60 s. */
  public ClientBuilder callTimeout(Duration time) {
    settings = new Settings(settings.attempt(), time, settings.publish());
    return this;
  }

  /** The time of all attempts of a publish (U11). Default: the room's window less one attempt. */
  public ClientBuilder publishTimeout(Duration time) {
    settings = new Settings(settings.attempt(), settings.total(), time);
    return this;
  }

  /** The largest message that the client receives (U7). Default: 16 MiB. */
  public ClientBuilder maxMessageBytes(int bytes) {
    maxMessageBytes = bytes;
    return this;
  }

  /**
   * Where handlers, callbacks and the completion of a publisher's futures run. Default: threads of
   * the client, as many as are needed.
   */
  public ClientBuilder handlerExecutor(Executor executor) {
    handlerExecutor = executor;
    return this;
  }

  /**
   * The client. Does no I/O, except that it reads the PEM files.
   *
   * @throws UnibusException if the address is wrong, a file cannot be read, or a token would be
   *     sent over plaintext to another machine (U5)
   */
  public UnibusClient build() {
    var uri = parse(address);
    var isTls = "https".equals(uri.getScheme());
    var hasToken = token != null || tokens != null;
    if (!isTls && hasToken && !(plaintextToken && isLoopback(uri.getHost()))) {
      throw wrong(
          "a token is sent over plaintext only to a loopback address, and only with"
              + " allowPlaintextToken",
          null);
    }
    var threads =
        new ThreadPoolExecutor(
            0, Integer.MAX_VALUE, 5, TimeUnit.SECONDS, new SynchronousQueue<>(), daemons());
    var timer = Executors.newSingleThreadScheduledExecutor(daemons());
    var port = uri.getPort() >= 0 ? uri.getPort() : isTls ? 443 : 80;
    var channel =
        channel(uri.getHost(), port, isTls)
            .executor(threads)
            .userAgent("unibus-java/0.1.0")
            .maxInboundMessageSize(maxMessageBytes)
            .maxInboundMetadataSize(MAX_DETAILS_BYTES)
            .keepAliveTime(20, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, 10_000)
            .disableRetry()
            .build();
    var handlers = handlerExecutor == null ? threads : handlerExecutor;
    var source = new Credentials.Source(tokens, token);
    return new UnibusClient(
        new Calls(new Connection(channel, source, threads, handlers, timer), settings));
  }

  private static ThreadFactory daemons() {
    return task -> {
      var thread = new Thread(task, "unibus-" + THREADS.incrementAndGet());
      thread.setDaemon(true);
      return thread;
    };
  }

  private static URI parse(String address) {
    URI uri;
    try {
      uri = URI.create(address);
    } catch (IllegalArgumentException e) {
      throw wrong("the address is no URI", e);
    }
    if (uri.getHost() == null || !String.valueOf(uri.getScheme()).matches("https?")) {
      throw wrong("the address is not https://host:port or http://host:port", null);
    }
    return uri;
  }

  private static UnibusException wrong(String message, @Nullable Exception cause) {
    return UnibusException.of(
        Status.INVALID_ARGUMENT.withDescription(message).withCause(cause), null);
  }

  static boolean isLoopback(String host) {
    return host.equals("localhost") || host.equals("[::1]") || host.matches("127(\\.\\d{1,3}){3}");
  }

  private NettyChannelBuilder channel(String host, int port, boolean isTls) {
    try {
      var credentials = isTls ? tls() : InsecureChannelCredentials.create();
      return NettyChannelBuilder.forAddress(host, port, credentials);
    } catch (IOException | GeneralSecurityException | IllegalArgumentException e) {
      throw wrong("a certificate or key cannot be read", e);
    }
  }

  private ChannelCredentials tls() throws IOException, GeneralSecurityException {
    var tls = TlsChannelCredentials.newBuilder();
    if (authorities != null) {
      try (var pem = Files.newInputStream(authorities)) {
        if (CertificateFactory.getInstance("X.509").generateCertificates(pem).isEmpty()) {
          // The library itself would fail with each connection.
          throw new IOException("no certificate in " + authorities);
        }
      }
      tls.trustManager(authorities.toFile());
    }
    if (certificate != null && key != null) {
      tls.keyManager(certificate.toFile(), key.toFile());
    }
    return tls.build();
  }
}
