package io.github.unibusrs;

import java.util.concurrent.CompletableFuture;

/** A part of the client that is closed before its connection. */
interface AsyncCloseable {
  /** Begins to close; the future completes when that is done. */
  CompletableFuture<Void> closeAsync();
}
