/**
 * A client of unibus: rooms with resumable subscriptions, publishing and history.
 *
 * <p>Begin with {@link io.github.unibusrs.UnibusClient}. The comments cite points like U8; {@code
 * docs/clients.md} in the repository has their text. Sequences and positions are unsigned 64-bit
 * numbers in a {@code long}: compare them with {@link Long#compareUnsigned} and print them with
 * {@link Long#toUnsignedString(long)} (U29).
 */
@NullMarked
package io.github.unibusrs;

import org.jspecify.annotations.NullMarked;
