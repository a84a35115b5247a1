//! Every bound of the service, with its unit in its name.

use std::time::Duration;

/// Characters of a room id. With the stream prefix its mapped name stays far below [`NATS_NAME_CHARS_MAX`].
pub const ROOM_ID_CHARS_MAX: usize = 128;
/// Characters of a subscriber id: what is left of a consumer name beside the longest room id.
pub const SUBSCRIBER_ID_CHARS_MAX: usize = 126;
/// Characters of a member's id: a subscriber id begins with it.
pub const MEMBER_ID_CHARS_MAX: usize = 126;
/// Members of a room beside its owners; every instance knows them all.
pub const MEMBERS_PER_ROOM_MAX: usize = 10_000;
/// Owners of a room.
pub const OWNERS_PER_ROOM_MAX: usize = 100;
/// Characters of a stream or consumer name (nats-server: `JSMaxNameLen`).
pub const NATS_NAME_CHARS_MAX: usize = 255;
/// Characters of a subject given by the creator.
pub const SUBJECT_CHARS_MAX: usize = 200;

/// Labels of a room.
pub const LABELS_MAX: usize = 32;
/// Characters of a label's name.
pub const LABEL_NAME_CHARS_MAX: usize = 64;
/// Bytes of all labels of a room, names and values.
pub const LABELS_BYTES_MAX: usize = 4096;

/// Characters of a header name.
pub const HEADER_NAME_CHARS_MAX: usize = 128;
/// Headers of a message.
pub const HEADERS_MAX: usize = 1000;
/// Bytes of all headers of a message, names and values.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// Characters of a message id.
pub const MESSAGE_ID_CHARS_MAX: usize = 255;
/// What NATS gets before a message id so that it is its sender's alone.
pub const MESSAGE_ID_SCOPE_BYTES: usize = 23;
/// Bytes that NATS adds to each header.
pub const HEADER_FRAMING_BYTES: usize = 4;
/// Bytes of the headers that say who published a message: each character of a member's id may take four bytes, each of them
/// written as three.
pub const SENDER_HEADERS_BYTES_MAX: usize = 12 * MEMBER_ID_CHARS_MAX + 256;
/// Bytes of the headers that JetStream reads, the message id aside, and of what begins and ends all headers.
pub const JETSTREAM_HEADERS_BYTES_MAX: usize = 1024;
/// What the NATS server's `max_payload` holds beside a payload: the headers, their framing, and the service's own.
pub const HEADROOM_BYTES: usize = 64 * 1024;
/// What NATS counts for a stored message beside its subject, headers and payload, against a room's `max_bytes`.
pub const STORED_OVERHEAD_BYTES: usize = 34;
/// Messages of one `PublishBatch`: what JetStream takes in one atomic batch.
pub const PUBLISH_BATCH_MESSAGES_MAX: usize = 1000;
/// Bytes of one `PublishBatch`: payloads, headers and message ids of all its messages.
pub const PUBLISH_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Messages of one `PublishStream` whose results the client has not taken; then no more are read.
pub const PUBLISH_STREAM_MESSAGES_MAX: usize = 1024;
/// Their bytes, beyond one message.
pub const PUBLISH_STREAM_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Publishes of one room that wait in an instance; further ones wait for a place.
pub const ROOM_QUEUE_MESSAGES_MAX: usize = 8192;
/// Their bytes.
pub const ROOM_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest payload with the embedded NATS server.
pub const EMBEDDED_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// `max_payload` of the embedded NATS server.
pub const EMBEDDED_NATS_PAYLOAD_BYTES_MAX: usize = EMBEDDED_PAYLOAD_BYTES_MAX + HEADROOM_BYTES;
/// Largest payload with another NATS server, unless `--payload-max` says otherwise: with the headers of a message it fits the
/// 4 MiB that default gRPC clients read.
pub const PAYLOAD_BYTES_MAX: u32 = 3 * 1024 * 1024;
/// What a request message may exceed the largest payload and the largest batch by before gRPC itself refuses to decode
/// it, so that what is slightly too large is refused by name.
pub const REQUEST_SLACK_BYTES: usize = 1024 * 1024;

/// Wrong fields that an error names; it counts the others.
pub const VIOLATIONS_MAX: usize = 32;
/// Bytes of their names and descriptions, beyond the last one.
pub const VIOLATIONS_BYTES_MAX: usize = 1024;
/// Bytes of an error's message.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 512;
/// Bytes of one value in an error's details.
pub const ERROR_VALUE_BYTES_MAX: usize = 256;

/// Longest duration that a request may give; NATS counts nanoseconds in 64 bits.
pub const DURATION_MAX: Duration = Duration::from_secs(3_153_600_000);
/// Shortest `max_age` that the NATS server takes.
pub const MAX_AGE_MIN: Duration = Duration::from_millis(100);
/// Window within which a message id is remembered, unless the room keeps messages for less.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How far the time at which a message is stored may be from the time at which the service signed it for its sender. Half of
/// the window of message ids: so what has an id is never stored again while its signature counts.
pub const SIGNATURE_TIME_TOLERANCE: Duration = Duration::from_secs(60);
/// Consumers that a room's stream may have; given explicitly, since the server's default is 1000.
pub const CONSUMERS_PER_ROOM_MAX: i32 = 100_000;

/// Rooms, members or subscribers on a page when the caller does not say.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// Rooms, members or subscribers on a page at most.
pub const PAGE_SIZE_MAX: usize = 1000;

/// How far a start `since` a time may lie ahead of the NATS server's clock; the call waits for the time to come.
pub const SINCE_AHEAD_MAX: Duration = Duration::from_secs(5);

/// Messages on a history page when the caller does not say.
pub const HISTORY_LIMIT_DEFAULT: usize = 200;
/// Messages on a history page at most.
pub const HISTORY_LIMIT_MAX: usize = 1000;
/// Bytes of a history page over gRPC: a default client decodes 4 MiB.
pub const HISTORY_PAGE_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Bytes of all history pages that are on their way from NATS to an instance; further pages wait. The NATS server drops a
/// connection for which more than its `max_pending` waits, 64 MiB by default.
pub const PAGES_UNDER_WAY_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Bytes of all backlogs that are on their way from NATS to an instance or read ahead of their subscriptions; further backlogs
/// wait for their turn. Together with the pages less than the NATS server's `max_pending`.
pub const BACKLOGS_BYTES_MAX: usize = 24 * 1024 * 1024;
/// How long a backlog is read at a time while others wait, and how long a client that takes none of the messages that are read
/// ahead for it may keep the others waiting.
pub const BACKLOG_TURN_TIME: Duration = Duration::from_secs(1);
/// Pages of one caller that are read at the same time where `--limit-reads` bounds them, and backlogs likewise; further ones wait.
pub const READS_AT_ONCE_MAX: usize = 8;
/// Bytes of the batches of more than [`BATCH_BYTES_MAX`] that wait for the clients of one caller, beyond that of each, where
/// `--limit-reads` is in force.
pub const LARGE_BATCHES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a page waits for the caller's other reads.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of payload in an answer of the HTTP history endpoint, before base64.
pub const HISTORY_HTTP_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Messages that are read ahead of whoever reads a room's log.
pub const READ_AHEAD_MESSAGES_MAX: usize = 256;
/// Bytes that are read ahead of whoever reads a room's log, beyond one largest message.
pub const READ_AHEAD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Messages handed to subscribers at once. So many wait in the service for one subscriber of its own; what it shares with
/// the others of its room comes on top.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Encoded bytes handed to subscribers at once, beyond one largest message.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Newest messages of an active room that are kept for all its subscribers of this instance.
pub const FANOUT_MESSAGES_MAX: usize = 16 * 1024;
/// Bytes of the newest messages of an active room that are kept for all its subscribers of this instance.
pub const FANOUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of the newest messages of all active rooms of this instance; beyond it each room keeps its newest batch alone.
pub const FANOUT_BYTES_TOTAL_MAX: usize = 256 * 1024 * 1024;
/// Newest deletions of single messages of a room that an instance remembers: what a lagging replica, or memory, still delivers
/// of these is left out.
pub const DELETIONS_REMEMBERED_MAX: usize = 1024;
/// How often the newest messages of an active room are compared with what its log still holds: what another program removed is
/// forgotten the second time after that.
pub const RING_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Rooms that are open on a Consume stream at the same time.
pub const CONSUME_ROOMS_MAX: usize = 1000;
/// Acknowledgements of a Consume stream that are under way or wait for one of the same subscriber that is, and answers that
/// wait for the client to read them; beyond either no further command is read.
pub const CONSUME_ANSWERS_MAX: usize = 1024;

/// `--limit-calls` with `--auth enforce`.
pub const CALLS_PER_CALLER: u32 = 4000;
/// Calls of one caller that ask NATS at the same time where `--limit-calls` is in force, those that publish and pages of history
/// aside; further ones wait.
pub const CALLS_AT_ONCE_PER_CALLER_MAX: usize = 64;
/// Open calls of `PublishStream` and `Consume` of one caller where `--limit-calls` is in force: as much as a window of each may wait
/// in the HTTP/2 library.
pub const REQUEST_STREAMS_PER_CALLER_MAX: u32 = 128;
/// `--limit-subscriptions` with `--auth enforce`.
pub const SUBSCRIPTIONS_PER_CALLER: u32 = 1000;
/// `--limit-durable-subscribers` with `--auth enforce`.
pub const DURABLE_SUBSCRIBERS_PER_CALLER: u32 = 10_000;
/// `--limit-rooms` with `--auth enforce`.
pub const ROOMS_PER_CALLER: u32 = 100;
/// `--limit-stored-bytes` with `--auth enforce`.
pub const STORED_BYTES_PER_CALLER: u64 = 1024 * 1024 * 1024;
/// How often an instance asks NATS how much the rooms of a creator hold, while it publishes to one of them.
pub const STORED_BYTES_INTERVAL: Duration = Duration::from_secs(5);
/// `--limit-reads` with `--auth enforce`.
pub const READS_PER_CALLER: u32 = 64;
/// `--limit-read-bytes` with `--auth enforce`, in a second.
pub const READ_BYTES_PER_CALLER: u32 = 32 * 1024 * 1024;

/// Bytes of a bearer token.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Public keys in one file or key set.
pub const AUTH_KEYS_MAX: usize = 64;
/// Keys that one token is verified with at most; of those without an id there may be no more of one algorithm.
pub const AUTH_KEYS_TRIED_MAX: usize = 4;
/// Bytes of a file of keys, and of a key set.
pub const AUTH_KEYS_BYTES_MAX: usize = 256 * 1024;
/// How often files of keys are looked at for changes.
pub const AUTH_FILES_INTERVAL: Duration = Duration::from_secs(1);
/// How long the host of a key set may take for it.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a key set at a URL is fetched again at the soonest: after a failure, and when a token names an unknown key.
pub const JWKS_FETCH_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Verified tokens that an instance remembers, so that a token's signature is verified once and not with every call.
pub const AUTH_TOKENS_MAX: usize = 10_000;
/// Largest `--auth-leeway`.
pub const AUTH_LEEWAY_MAX: Duration = Duration::from_secs(300);
/// Bits of an RSA key at least (RFC 7518, 3.3).
pub const RSA_KEY_BITS_MIN: usize = 2048;
/// Bits of an RSA key at most.
pub const RSA_KEY_BITS_MAX: usize = 8192;

/// Rooms that are read over a connection of their own because a message was found in them that the NATS client cannot parse.
pub const SUSPECT_ROOMS_MAX: usize = 10_000;
/// How long a replica may be silent before the leader is asked.
pub const REPLICA_SILENCE_MAX: Duration = Duration::from_secs(1);
/// High-water marks that are kept before those of rooms that are gone are looked for.
pub const HIGH_WATER_MARKS_UNPRUNED: usize = 10_000;
/// How long a call asks again when NATS answers less than this instance knows.
pub const STALE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// After so long in which NATS only answered less than this instance knows, it has lost what it had acknowledged.
pub const ROLLED_BACK_AFTER: Duration = Duration::from_secs(60);
/// How long a call about a position in a replicated room waits for an answer that knows this position.
pub const POSITION_WAIT: Duration = Duration::from_secs(1);

/// How long a call waits for a lost NATS connection to come back before it answers that NATS is unavailable.
pub const NATS_GRACE: Duration = Duration::from_millis(1500);
/// Limit of one JetStream request.
pub const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one server may take to answer a read of the registry or a write to it, before it is asked again: a server that
/// hangs keeps its connections open.
pub const REGISTRY_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a read of the registry goes on until a server answers that knows as much as this instance has seen.
pub const REGISTRY_READ_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a watch of the registry that begins may be silent before it begins again, perhaps on another server.
pub const REGISTRY_WATCH_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of storage that are kept for the registry, for when the NATS server or account has none left.
pub const RESERVE_BYTES: usize = 1024 * 1024;
/// Bytes of them that are freed at once: far more than a value of the registry has.
pub const RESERVE_PIECE_BYTES: usize = 64 * 1024;
/// How long after a piece was freed the reserve is filled again, and how often that is tried.
pub const RESERVE_REFILL_DELAY: Duration = Duration::from_secs(2);
/// How long an instance refuses publishes by itself after the NATS server refused one for want of storage.
pub const STORAGE_FULL_INTERVAL: Duration = Duration::from_secs(1);
/// Part of the disk of the data directory that is kept free: publishes are refused below it. One in this many bytes.
pub const DISK_RESERVE_SHARE: u64 = 20;
/// Bytes that are kept free of a small disk.
pub const DISK_RESERVE_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Bytes that are kept free of a large disk.
pub const DISK_RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long the free space of the disk is believed before it is read again.
pub const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Limit of a publish, from the call to the acknowledgement.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of that is kept for the acknowledgement: what waited for the rest is not sent any more, and surely not stored.
pub const ACK_TIME_MIN: Duration = Duration::from_secs(1);
/// Shortest `--heartbeat-interval`.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often the position of an AUTO subscriber is written back at most.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(1);
/// Positions of AUTO subscribers that an instance writes back each second: beyond, each is written less often.
pub const BOOKMARKS_PER_SECOND: usize = 100;
/// How old an unwritten position of an AUTO subscriber gets, however many there are.
pub const BOOKMARK_AGE_MAX: Duration = Duration::from_secs(10);
/// How long one that takes something away from a member waits for the other instances to confirm that they know.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);
/// After how much of that an instance that has not confirmed is asked whether it is there.
pub const CHANGE_ASK_AFTER: Duration = Duration::from_millis(100);
/// How often an instance says that it is there.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(2);
/// Other instances that an instance waits for.
pub const INSTANCES_MAX: usize = 1000;
/// How long a newer subscription waits for the older one to write its last position.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the drain waits for a connection that has no open call and takes nothing.
pub const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the drain waits for a connection that has no call whose request has come.
pub const DRAIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections beyond `--max-connections` whose calls are answered that there are too many; further ones are closed.
pub const EXCESS_CONNECTIONS_MAX: usize = 256;
/// HTTP/2 streams of a connection beyond `--max-streams-per-connection`, on which calls are answered that there are too many:
/// clients wait without a word for streams that HTTP/2 itself does not grant.
pub const EXCESS_STREAMS_MAX: u32 = 1024;
/// HTTP/2 streams of a connection beyond those of its open calls: calls that the service has not begun with, and answers that
/// were not written because the client does not read; beyond it the service does not read from the connection. Those of a
/// caller's other connections count too.
pub const STREAMS_AHEAD_MAX: usize = 64;
/// The same for a connection whose caller has more on other connections.
pub const STREAMS_AHEAD_MIN: usize = 4;
/// HTTP/2 streams of a connection that its client reset before the service had begun with their calls; beyond it the
/// connection is closed.
pub const RESET_STREAMS_MAX: usize = 1024;
/// HTTP/2 streams of a connection that the service reset for a fault of its client; beyond it the connection is closed.
pub const FAULTY_STREAMS_MAX: usize = 1024;
/// Bytes of the header fields of a call, or of the head of an HTTP/1.1 request.
pub const CALL_HEADERS_BYTES_MAX: usize = 64 * 1024;
/// TLS handshakes under way; a further one ends the oldest.
pub const TLS_HANDSHAKES_MAX: usize = 1024;
/// Limit of a TLS handshake.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// File descriptors that the process needs beside those of its clients' connections.
pub const OTHER_DESCRIPTORS: u64 = 64;
/// Bytes of a page that are handed to the HTTP/2 library at once; what the client has not asked for stays charged to the caller.
pub const RESPONSE_PIECE_BYTES: usize = 16 * 1024;
/// Connections of one source address under `--auth enforce`, unless `--max-connections-per-address` says otherwise.
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 256;
/// Connections of one source address beyond that number that are still answered; further ones are closed.
pub const EXCESS_CONNECTIONS_PER_ADDRESS_MAX: u32 = 8;
/// Connections of one source address without an identified caller, under `--auth enforce`; a further one ends the oldest.
pub const UNIDENTIFIED_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// Health and reflection calls that are open on a connection without an identified caller.
pub const UNIDENTIFIED_CALLS_MAX: u32 = 6;
/// HTTP/2 streams that are open on such a connection: calls, refused ones included, and answers that were not written yet;
/// beyond it the service does not read from the connection.
pub const UNIDENTIFIED_STREAMS_MAX: usize = 8;
/// Reflection calls that are open on all connections without an identified caller.
pub const UNIDENTIFIED_REFLECTIONS_MAX: usize = 32;
/// Bytes of requests, each data frame counted with [`FRAME_OVERHEAD_BYTES`] more, that a connection without an identified
/// caller has sent and that its calls have not read. Beyond it the service does not read from the connection, and closes it
/// after [`REQUEST_TIMEOUT`].
pub const UNIDENTIFIED_BYTES_MAX: usize = 16 * 1024;
/// What an HTTP/2 data frame costs in memory beside its payload.
pub const FRAME_OVERHEAD_BYTES: usize = 256;
/// How long a connection without an identified caller may be without a complete request; then it is closed.
pub const UNIDENTIFIED_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a request message of any RPC but `Publish`, `PublishBatch` and `PublishStream`.
pub const SMALL_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request message of health and reflection.
pub const OPEN_REQUEST_BYTES_MAX: usize = 1024;
/// Bytes of a `PublishStream` message that the service reads and drops in order to answer that the message is too large.
/// A larger one ends the stream.
pub const SKIPPED_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the request messages that are being received, of all callers.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the request messages that are being received, of one caller; with `--auth off` of one connection. A larger
/// message is received alone.
pub const REQUEST_BYTES_PER_CALLER_MAX: usize = 16 * 1024 * 1024;
/// Request messages that wait for a share of these bytes, of all callers; further ones are refused.
pub const REQUESTS_WAITING_MAX: usize = 256;
/// Request messages that wait for a share of these bytes, of one caller; further ones are refused.
pub const REQUESTS_WAITING_PER_CALLER_MAX: usize = 64;
/// How long a request message may take to come, and for each [`REQUEST_BYTES_PER_SECOND_MIN`] of it a second more.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest rate at which a request message may come.
pub const REQUEST_BYTES_PER_SECOND_MIN: usize = 64 * 1024;
/// Requests that are read and dropped after their calls were answered, on all connections; the streams of further ones are
/// reset.
pub const REFUSED_REQUESTS_MAX: usize = 4096;
/// The same on one connection.
pub const REFUSED_REQUESTS_PER_CONNECTION_MAX: usize = 256;
/// Bytes of a request that are read and dropped after its call was answered; then its stream is reset.
pub const REFUSED_REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a request message from which on it is decoded where it keeps no other call from running.
pub const LARGE_REQUEST_BYTES: usize = 256 * 1024;
/// Headers of all messages of one `PublishBatch`.
pub const PUBLISH_BATCH_HEADERS_MAX: usize = 65_536;
/// Entries of any other list or map of a request, beyond which it is not decoded.
pub const REQUEST_ENTRIES_MAX: usize = 1000;
/// Bytes of an `x-request-id` that a client gives; another one takes the place of a longer one.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Connections of the admin port.
pub const ADMIN_CONNECTIONS_MAX: u32 = 64;
/// How long a client of the admin port may take for the head of a request, and how long its connection may be idle.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that a client may send on one HTTP/2 stream before the service has read them.
pub const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Bytes that a client may send on one connection before the service has read them. The HTTP/2 library closes a connection
/// on which so many small frames wait that their overhead is half of this; many gRPC clients send each message as a frame of
/// its own, so it is far larger than the window of a stream.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

const _: () = {
    // stream prefix; room, separator and subscriber of a consumer name
    assert!("UNIBUS_".len() + ROOM_ID_CHARS_MAX <= NATS_NAME_CHARS_MAX);
    assert!(ROOM_ID_CHARS_MAX + 1 + SUBSCRIBER_ID_CHARS_MAX <= NATS_NAME_CHARS_MAX);
    let headers =
        HEADERS_BYTES_MAX + HEADERS_MAX * HEADER_FRAMING_BYTES + MESSAGE_ID_SCOPE_BYTES + MESSAGE_ID_CHARS_MAX;
    assert!(headers + SENDER_HEADERS_BYTES_MAX + JETSTREAM_HEADERS_BYTES_MAX <= HEADROOM_BYTES);
    assert!(2 * SIGNATURE_TIME_TOLERANCE.as_secs() <= DUPLICATE_WINDOW.as_secs());
    assert!(HISTORY_LIMIT_DEFAULT <= HISTORY_LIMIT_MAX);
    assert!(PAGE_SIZE_DEFAULT <= PAGE_SIZE_MAX);
    assert!(PUBLISH_BATCH_MESSAGES_MAX <= ROOM_QUEUE_MESSAGES_MAX && PUBLISH_BATCH_BYTES_MAX <= ROOM_QUEUE_BYTES_MAX);
    // a client that reads nothing can still acknowledge in all its rooms
    assert!(CONSUME_ROOMS_MAX < CONSUME_ANSWERS_MAX);
    // one message always fits a page
    assert!(EMBEDDED_NATS_PAYLOAD_BYTES_MAX < HISTORY_PAGE_BYTES_MAX);
};
