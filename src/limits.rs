//! Every bound of the service, with its unit in its name.

use std::time::Duration;

/// Characters of a room id. Its stream name, which has a prefix, stays below [`NATS_NAME_CHARS_MAX`].
pub const ROOM_ID_CHARS_MAX: usize = 128;
/// Characters of a subscriber id. A consumer name fits it beside the longest room id.
pub const SUBSCRIBER_ID_CHARS_MAX: usize = 126;
/// Characters of a member id. A subscriber id begins with a member id.
pub const MEMBER_ID_CHARS_MAX: usize = 126;
/// Members of a room, without its owners. Every instance keeps all members in memory.
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
/// Bytes of the names and values of all labels of a room.
pub const LABELS_BYTES_MAX: usize = 4096;

/// Characters of a header name.
pub const HEADER_NAME_CHARS_MAX: usize = 128;
/// Headers of a message.
pub const HEADERS_MAX: usize = 1000;
/// Bytes of the names and values of all headers of a message.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// Characters of a message id.
pub const MESSAGE_ID_CHARS_MAX: usize = 255;
/// Bytes that the service puts before a message id in NATS, so that ids of different senders differ.
pub const MESSAGE_ID_SCOPE_BYTES: usize = 23;
/// Bytes that NATS adds to each header.
pub const HEADER_FRAMING_BYTES: usize = 4;
/// Bytes of the headers that name and sign the sender of a message. A character of a member id may have four bytes,
/// and each byte is written as three.
pub const SENDER_HEADERS_BYTES_MAX: usize = 12 * MEMBER_ID_CHARS_MAX + 256;
/// Bytes of the headers that JetStream reads, without the message id, and of the beginning and end of all headers.
pub const JETSTREAM_HEADERS_BYTES_MAX: usize = 1024;
/// Bytes of the NATS server's `max_payload` that are not available to payloads: the headers, their framing, and the
/// headers of the service.
pub const HEADROOM_BYTES: usize = 64 * 1024;
/// Bytes that NATS adds to the subject, headers and payload of a stored message when it checks `max_bytes` of a room.
pub const STORED_OVERHEAD_BYTES: usize = 34;
/// Messages of one `PublishBatch`. JetStream allows this number in one atomic batch.
pub const PUBLISH_BATCH_MESSAGES_MAX: usize = 1000;
/// Bytes of the payloads, headers and message ids of one `PublishBatch`.
pub const PUBLISH_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Messages of one `PublishStream` whose results the client has not read. At this number the service reads no further
/// message.
pub const PUBLISH_STREAM_MESSAGES_MAX: usize = 1024;
/// Bytes of the messages of one `PublishStream` whose results the client has not read. One message may exceed this
/// bound.
pub const PUBLISH_STREAM_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Messages that one cumulative response of a `PublishStream` acknowledges.
pub const PUBLISH_ACK_MESSAGES_MAX: u32 = 256;
/// How long a cumulative response of a `PublishStream` waits for further messages after the first that it acknowledges.
pub const PUBLISH_ACK_INTERVAL: Duration = Duration::from_millis(100);
/// Publishes that wait in the queue of a room of an instance. Further publishes wait for space in the queue.
pub const ROOM_QUEUE_MESSAGES_MAX: usize = 8192;
/// Bytes of the publishes that wait in the queue of a room of an instance.
pub const ROOM_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest payload with the embedded nats-server.
pub const EMBEDDED_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// `max_payload` of the embedded nats-server.
pub const EMBEDDED_NATS_PAYLOAD_BYTES_MAX: usize = EMBEDDED_PAYLOAD_BYTES_MAX + HEADROOM_BYTES;
/// Default of `--payload-max`: the largest payload with an external NATS server. A message of this size and its
/// headers fit into the 4 MiB that default gRPC clients read.
pub const PAYLOAD_BYTES_MAX: u32 = 3 * 1024 * 1024;
/// Bytes by which a request message may exceed the largest payload and the largest batch before gRPC refuses to
/// decode it. The service refuses such a message with an error that names the field.
pub const REQUEST_SLACK_BYTES: usize = 1024 * 1024;

/// Wrong fields that an error names. The error counts the other wrong fields.
pub const VIOLATIONS_MAX: usize = 32;
/// Bytes of the names and descriptions of the wrong fields of an error. The last one may exceed this bound.
pub const VIOLATIONS_BYTES_MAX: usize = 1024;
/// Bytes of an error's message.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 512;
/// Bytes of one value in an error's details.
pub const ERROR_VALUE_BYTES_MAX: usize = 256;

/// Bytes of the configuration file.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest duration in a request: 100 years. NATS counts nanoseconds in 64 bits.
pub const DURATION_MAX: Duration = Duration::from_secs(3_153_600_000);
/// Shortest `max_age` that the NATS server accepts.
pub const MAX_AGE_MIN: Duration = Duration::from_millis(100);
/// Time for which a room remembers a message id by default. A shorter `max_age` of the room shortens it.
pub const DEDUPE_WINDOW_DEFAULT: Duration = Duration::from_secs(120);
/// Shortest such time that a creator or an owner can choose.
pub const DEDUPE_WINDOW_MIN: Duration = DEDUPE_WINDOW_DEFAULT;
/// Longest such time that a creator or an owner can choose. The NATS server keeps the ids in memory.
pub const DEDUPE_WINDOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest difference between the time at which the service signed a message and the time at which NATS stored it. It
/// is half of [`DEDUPE_WINDOW_MIN`], so a message with an id is not stored a second time while its signature is valid.
pub const SIGNATURE_TIME_TOLERANCE: Duration = Duration::from_secs(60);
/// Consumers of the stream of a room. The service sets it, since the default of the NATS server is 1000.
pub const CONSUMERS_PER_ROOM_MAX: i32 = 100_000;

/// Default number of rooms, members or subscribers on a page.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// Largest number of rooms, members or subscribers on a page.
pub const PAGE_SIZE_MAX: usize = 1000;

/// Largest time by which a start `since` may be ahead of the clock of the NATS server. The call waits until that
/// time.
pub const SINCE_AHEAD_MAX: Duration = Duration::from_secs(5);

/// Default number of messages on a history page.
pub const HISTORY_LIMIT_DEFAULT: usize = 200;
/// Largest number of messages on a history page.
pub const HISTORY_LIMIT_MAX: usize = 1000;
/// Bytes of a page over gRPC. A default gRPC client decodes at most 4 MiB.
pub const HISTORY_PAGE_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Bytes of all history pages that NATS is sending to an instance. Further pages wait. The NATS server drops a
/// connection for which more than `max_pending` bytes wait, 64 MiB by default.
pub const PAGES_UNDER_WAY_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Bytes of all backlogs that NATS is sending to an instance, or that the instance has read ahead of its
/// subscriptions. Further backlogs wait for their turn. Together with [`PAGES_UNDER_WAY_BYTES_MAX`] it is less than
/// `max_pending` of the NATS server.
pub const BACKLOGS_BYTES_MAX: usize = 24 * 1024 * 1024;
/// How long a backlog is read at a time while other backlogs wait. Also how long a client that reads none of its
/// messages may keep the other backlogs waiting.
pub const BACKLOG_TURN_TIME: Duration = Duration::from_secs(1);
/// History pages of one caller that are read at the same time if `--limit-reads` bounds them, and also backlogs of
/// one caller. Further reads wait.
pub const READS_AT_ONCE_MAX: usize = 8;
/// Bytes of the batches larger than [`BATCH_BYTES_MAX`] that wait for the clients of one caller if `--limit-reads`
/// bounds its reads. [`BATCH_BYTES_MAX`] of each batch is not counted.
pub const LARGE_BATCHES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a page waits for the other reads of its caller.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of the payloads in a response of the HTTP history endpoint, before base64.
pub const HISTORY_HTTP_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Messages that an instance reads ahead for each reader of the log of a room.
pub const READ_AHEAD_MESSAGES_MAX: usize = 256;
/// Bytes that an instance reads ahead for each reader of the log of a room. One message may exceed this bound.
pub const READ_AHEAD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Messages that are handed to a subscription at once. This number of messages waits in the service for one
/// subscription, beside the messages that it shares with the other subscriptions of its room.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Encoded bytes that are handed to a subscription at once. One message may exceed this bound.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Messages in the ring of an active room. All subscriptions of the instance to that room share the ring.
pub const FANOUT_MESSAGES_MAX: usize = 16 * 1024;
/// Bytes in the ring of an active room.
pub const FANOUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes in the rings of all active rooms of an instance. Beyond it each ring keeps only its newest batch.
pub const FANOUT_BYTES_TOTAL_MAX: usize = 256 * 1024 * 1024;
/// Newest deletions of single messages of a room that an instance remembers. A lagging replica, or memory, may still
/// deliver these messages, so the instance leaves them out.
pub const DELETIONS_REMEMBERED_MAX: usize = 1024;
/// How often the ring of an active room is compared with its log. A message that another program removed leaves the
/// ring at the second comparison after the removal.
pub const RING_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Rooms that are open on a Consume stream at the same time.
pub const CONSUME_ROOMS_MAX: usize = 1000;
/// Commands of one call of `OpenSession` or `SessionCommand`.
pub const SESSION_COMMANDS_MAX: usize = 256;
/// Commands of a session that wait until the session takes them.
pub const SESSION_QUEUE_COMMANDS_MAX: usize = 1024;
/// How long a call of `SessionCommand` waits for space in the queue of its session.
pub const SESSION_QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Acknowledgements of a Consume stream that are not finished, and also answers that wait until the client reads
/// them. At either bound no further command is read.
pub const CONSUME_ANSWERS_MAX: usize = 1024;

/// Default of `--limit-calls` with `--auth enforce`.
pub const CALLS_PER_CALLER: u32 = 4000;
/// Calls of one caller that ask NATS at the same time where `--limit-calls` is in force, those that publish and pages of history
/// aside; further ones wait.
pub const CALLS_AT_ONCE_PER_CALLER_MAX: usize = 64;
/// Open calls of `PublishStream`, `Consume` and `OpenSession` of one caller if `--limit-calls` bounds its calls. For
/// each of them the HTTP/2 library may hold [`STREAM_WINDOW_BYTES`], or the service a queue of commands.
pub const REQUEST_STREAMS_PER_CALLER_MAX: u32 = 128;
/// Default of `--limit-subscriptions` with `--auth enforce`.
pub const SUBSCRIPTIONS_PER_CALLER: u32 = 1000;
/// Default of `--limit-durable-subscribers` with `--auth enforce`.
pub const DURABLE_SUBSCRIBERS_PER_CALLER: u32 = 10_000;
/// Default of `--limit-rooms` with `--auth enforce`.
pub const ROOMS_PER_CALLER: u32 = 100;
/// Default of `--limit-stored-bytes` with `--auth enforce`.
pub const STORED_BYTES_PER_CALLER: u64 = 1024 * 1024 * 1024;
/// How often an instance asks NATS for the stored bytes of the rooms of a creator, while it publishes to one of these
/// rooms.
pub const STORED_BYTES_INTERVAL: Duration = Duration::from_secs(5);
/// Default of `--limit-reads` with `--auth enforce`.
pub const READS_PER_CALLER: u32 = 64;
/// Default of `--limit-read-bytes` with `--auth enforce`, per second.
pub const READ_BYTES_PER_CALLER: u32 = 32 * 1024 * 1024;

/// Bytes of a bearer token.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Public keys in one file or key set.
pub const AUTH_KEYS_MAX: usize = 64;
/// Keys that are tried for one token. So there may be no more keys without an id for one algorithm.
pub const AUTH_KEYS_TRIED_MAX: usize = 4;
/// Bytes of a file of keys, and of a key set.
pub const AUTH_KEYS_BYTES_MAX: usize = 256 * 1024;
/// How often the service checks files of keys for changes.
pub const AUTH_FILES_INTERVAL: Duration = Duration::from_secs(1);
/// How long a server may take to send a key set.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between two fetches of a key set at a URL, after a failure and when a token names an unknown key.
pub const JWKS_FETCH_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Verified tokens that an instance remembers, so that it verifies the signature of a token once and not for each
/// call.
pub const AUTH_TOKENS_MAX: usize = 10_000;
/// Largest `--auth-leeway`.
pub const AUTH_LEEWAY_MAX: Duration = Duration::from_secs(300);
/// Fewest bits of an RSA key (RFC 7518, 3.3).
pub const RSA_KEY_BITS_MIN: usize = 2048;
/// Most bits of an RSA key.
pub const RSA_KEY_BITS_MAX: usize = 8192;

/// Rooms that are read over a separate NATS connection, since they hold a message that the NATS client cannot parse.
pub const SUSPECT_ROOMS_MAX: usize = 10_000;
/// How long a replica may not answer before the leader is asked.
pub const REPLICA_SILENCE_MAX: Duration = Duration::from_secs(1);
/// High-water marks that an instance keeps before it looks for marks of deleted rooms to remove.
pub const HIGH_WATER_MARKS_UNPRUNED: usize = 10_000;
/// How long a call asks again while NATS gives stale answers, which know less than this instance.
pub const STALE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// After this time with only stale answers the instance concludes that NATS has lost acknowledged messages.
pub const ROLLED_BACK_AFTER: Duration = Duration::from_secs(60);
/// How long a call about a position in a replicated room waits for an answer that knows the position.
pub const POSITION_WAIT: Duration = Duration::from_secs(1);

/// How long a call waits for a lost NATS connection before it ends with `NATS_UNAVAILABLE`.
pub const NATS_GRACE: Duration = Duration::from_millis(1500);
/// How long one JetStream request may take.
pub const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one server may take to answer a read or write of the registry before the service asks again. A server
/// that hangs keeps its connections open.
pub const REGISTRY_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a read of the registry continues until a server answers that knows as much as this instance.
pub const REGISTRY_READ_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a new watch of the registry may be silent before it starts again, perhaps on another server.
pub const REGISTRY_WATCH_PATIENCE: Duration = Duration::from_secs(3);
/// Changes of a bucket that wait for its watch where there is no JetStream. With more the watch begins again.
pub const BUCKET_CHANGES_WAITING_MAX: usize = 256;
/// Bytes of storage that the service reserves for the registry, for the time when the NATS server or account has none
/// left.
pub const RESERVE_BYTES: usize = 1024 * 1024;
/// Bytes of the reserve that are freed at once. A value of the registry is far smaller.
pub const RESERVE_PIECE_BYTES: usize = 64 * 1024;
/// How long after a piece of the reserve was freed the service fills the reserve again, and how often it tries.
pub const RESERVE_REFILL_DELAY: Duration = Duration::from_secs(2);
/// How long an instance refuses publishes itself after the NATS server refused one for lack of storage.
pub const STORAGE_FULL_INTERVAL: Duration = Duration::from_secs(1);
/// Share of the disk of the data directory that stays free: one byte of this many. Below it publishes are refused.
pub const DISK_RESERVE_SHARE: u64 = 20;
/// Fewest bytes that stay free on the disk of the data directory.
pub const DISK_RESERVE_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Most bytes that stay free on the disk of the data directory.
pub const DISK_RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long a reading of the free space of the disk is used before the next reading.
pub const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a publish may take, from the call to the acknowledgement.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Part of [`PUBLISH_TIMEOUT`] that is kept for the acknowledgement. A message that has waited for the rest is not
/// sent, so it is certainly not stored.
pub const ACK_TIME_MIN: Duration = Duration::from_secs(1);
/// Shortest `--heartbeat-interval`.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Shortest time between two writes of the position of an AUTO subscriber.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(1);
/// Positions of AUTO subscribers that an instance writes per second. With more subscribers each position is written
/// less often.
pub const BOOKMARKS_PER_SECOND: usize = 100;
/// Longest time for which a position of an AUTO subscriber is not written, whatever the number of subscribers.
pub const BOOKMARK_AGE_MAX: Duration = Duration::from_secs(10);
/// How long a call that takes a right from a member waits for the other instances to confirm the change.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);
/// After this part of [`CHANGE_TIMEOUT`] the call asks an instance that has not confirmed whether it is running.
pub const CHANGE_ASK_AFTER: Duration = Duration::from_millis(100);
/// How often an instance tells the others that it is running.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(2);
/// Other instances for which an instance waits.
pub const INSTANCES_MAX: usize = 1000;
/// How long a newer subscription waits for the older one to write its last position.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the drain waits for a connection that has no open call and takes nothing.
pub const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the drain waits for a connection that has no call whose request has come.
pub const DRAIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections beyond `--max-connections` whose calls are answered with `LIMIT_REACHED`. Further connections are
/// closed.
pub const EXCESS_CONNECTIONS_MAX: usize = 256;
/// HTTP/2 streams of a connection beyond `--max-streams-per-connection` whose calls are answered with
/// `LIMIT_REACHED`. Clients wait silently for streams that HTTP/2 itself does not grant.
pub const EXCESS_STREAMS_MAX: u32 = 1024;
/// HTTP/2 streams of a connection beyond those of its open calls: calls that the service has not begun with, and answers that
/// were not written because the client does not read; beyond it the service does not read from the connection. Those of a
/// caller's other connections count too.
pub const STREAMS_AHEAD_MAX: usize = 64;
/// The same for a connection whose caller has more on other connections, and for calls that have not begun on a connection
/// without an identified caller.
pub const STREAMS_AHEAD_MIN: usize = 2;
/// HTTP/2 streams of a connection that its client reset before the service had started their calls. Beyond it the
/// connection is closed.
pub const RESET_STREAMS_MAX: usize = 1024;
/// HTTP/2 streams of a connection that the service reset for a fault of the client. Beyond it the connection is
/// closed.
pub const FAULTY_STREAMS_MAX: usize = 1024;
/// Bytes of the header fields of a call, and of the head of an HTTP/1.1 request.
pub const CALL_HEADERS_BYTES_MAX: usize = 24 * 1024;
/// Header fields of a call from which on the service keeps only the fields that it reads.
pub const HEADER_FIELDS_MAX: usize = 32;
/// How long a stream may wait for calls that the service was given and has not begun. Streams that the HTTP library refused
/// by itself look like such calls.
pub const STREAM_WAIT_MAX: Duration = Duration::from_secs(1);
/// TLS handshakes at the same time. A further handshake ends the oldest.
pub const TLS_HANDSHAKES_MAX: usize = 1024;
/// How long a TLS handshake may take.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// File descriptors that the process needs beside those of client connections.
pub const OTHER_DESCRIPTORS: u64 = 64;
/// Bytes of a page that are handed to the HTTP/2 library at once. The bytes that the client has not read yet stay
/// charged to the caller.
pub const RESPONSE_PIECE_BYTES: usize = 16 * 1024;
/// Bytes from which a message of an answer is compressed, for clients of the Connect protocol that take it.
pub const COMPRESSED_BYTES_MIN: usize = 1024;
/// Bytes up to which a message of a stream is compressed, because its compressed form is held for each subscription. A
/// larger message is sent as it is.
pub const COMPRESSED_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Default of `--max-connections-per-address` with `--auth enforce`.
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 256;
/// Connections of one source address beyond `--max-connections-per-address` whose calls are answered with
/// `LIMIT_REACHED`. Further connections are closed.
pub const EXCESS_CONNECTIONS_PER_ADDRESS_MAX: u32 = 8;
/// Connections of one source address without an identified caller, with `--auth enforce`. A further connection ends
/// the oldest.
pub const UNIDENTIFIED_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// Open calls of health and reflection on a connection without an identified caller.
pub const UNIDENTIFIED_CALLS_MAX: u32 = 6;
/// HTTP/2 streams that are open on such a connection: calls, refused ones included, and answers that were not written yet;
/// beyond it the service does not read from the connection.
pub const UNIDENTIFIED_STREAMS_MAX: usize = 8;
/// Open calls of reflection on all connections without an identified caller.
pub const UNIDENTIFIED_REFLECTIONS_MAX: usize = 32;
/// Bytes that a connection without an identified caller has sent and that its calls have not read. Each data frame
/// counts [`FRAME_OVERHEAD_BYTES`] more. Beyond this bound the service stops reading from the connection, and closes
/// it after [`REQUEST_TIMEOUT`].
pub const UNIDENTIFIED_BYTES_MAX: usize = 16 * 1024;
/// Bytes that the service reads from a connection before it takes up the calls that have come.
pub const READ_IN_A_ROW_BYTES_MAX: usize = 64 * 1024;
/// The same, for a connection without an identified caller.
pub const UNIDENTIFIED_READ_IN_A_ROW_BYTES_MAX: usize = 8 * 1024;
/// Bytes that the service reads at once from a connection without an identified caller.
pub const UNIDENTIFIED_READ_BYTES_MAX: usize = 2048;
/// Bytes of memory that an HTTP/2 data frame needs beside its payload.
pub const FRAME_OVERHEAD_BYTES: usize = 256;
/// How long a connection without an identified caller may have no complete request. Then it is closed.
pub const UNIDENTIFIED_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a request message of every RPC except `Publish`, `PublishBatch` and `PublishStream`.
pub const SMALL_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request message of health and reflection.
pub const OPEN_REQUEST_BYTES_MAX: usize = 1024;
/// Bytes of a `PublishStream` message that the service reads and drops, to answer that the message is too large. A
/// larger message ends the stream.
pub const SKIPPED_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the request messages that the service is receiving from all callers.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the request messages that the service is receiving from one caller; with `--auth off` on one connection.
/// A larger message is received alone.
pub const REQUEST_BYTES_PER_CALLER_MAX: usize = 16 * 1024 * 1024;
/// Compressed request messages that are inflated at the same time. Each caller inflates one; with `--auth off` each
/// connection does. The others wait.
pub const INFLATIONS_MAX: usize = 4;
/// Request messages of all callers that wait for a share of [`REQUEST_BYTES_MAX`]. Further ones are refused.
pub const REQUESTS_WAITING_MAX: usize = 256;
/// Request messages of one caller that wait for a share of [`REQUEST_BYTES_MAX`]. Further ones are refused.
pub const REQUESTS_WAITING_PER_CALLER_MAX: usize = 64;
/// How long a request message may take to arrive. It gets one more second for each [`REQUEST_BYTES_PER_SECOND_MIN`]
/// of its size.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Lowest rate at which a request message may arrive.
pub const REQUEST_BYTES_PER_SECOND_MIN: usize = 64 * 1024;
/// Requests that are read and dropped after their calls were answered, on all connections; the streams of further ones are
/// reset.
pub const REFUSED_REQUESTS_MAX: usize = 4096;
/// The same on one connection.
pub const REFUSED_REQUESTS_PER_CONNECTION_MAX: usize = 256;
/// How long the rest of such a request may take over HTTP/1.1. Over HTTP/2 it is [`REQUEST_TIMEOUT`].
pub const HTTP1_REST_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a request that are read and dropped after its call was answered; then its stream is reset.
pub const REFUSED_REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Size from which a request message is decoded in a place where it does not delay other calls.
pub const LARGE_REQUEST_BYTES: usize = 256 * 1024;
/// Headers of all messages of one `PublishBatch`.
pub const PUBLISH_BATCH_HEADERS_MAX: usize = 65_536;
/// Entries of every other list or map of a request. A request with more entries is not decoded.
pub const REQUEST_ENTRIES_MAX: usize = 1000;
/// Levels of nesting of a request in JSON. The contract needs fewer than 10.
pub const JSON_DEPTH_MAX: usize = 32;
/// Objects of a request in JSON. A `PublishBatch` of [`PUBLISH_BATCH_MESSAGES_MAX`] messages with headers has about half.
pub const JSON_OBJECTS_MAX: usize = 4096;
/// Values of a request in JSON. A `PublishBatch` of [`PUBLISH_BATCH_HEADERS_MAX`] headers fits.
pub const JSON_VALUES_MAX: usize = 80 * 1024;
/// Bytes of memory that one value of a request in JSON takes when it is parsed, beside its text. They are charged like the
/// bytes of the request.
pub const JSON_VALUE_BYTES: usize = 256;
/// The same, for each object, because the fields of a message are allocated together.
pub const JSON_OBJECT_BYTES: usize = 1024;
/// Bytes of such memory that are charged for each request in JSON before it is received. A request that needs more is
/// refused when they are not free.
pub const JSON_BASE_BYTES: usize = 16 * 1024;
/// Bytes of an `x-request-id` of a client. The service replaces a longer one.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Lines of the log that wait to be read. Further lines are lost.
pub const LOG_LINES_MAX: usize = 8192;

/// Ended spans that wait for their export. Further spans are lost.
pub const OTLP_SPANS_WAITING_MAX: usize = 8192;
/// Spans that are exported together.
pub const OTLP_BATCH_SPANS_MAX: usize = 512;
/// How long an ended span waits for others before it is exported.
pub const OTLP_INTERVAL: Duration = Duration::from_secs(1);
/// How long the collector may take for the spans of one export.
pub const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take when the service stops.
pub const OTLP_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a `tracestate`. A longer one is ignored. W3C Trace Context asks for at least this number.
pub const TRACESTATE_BYTES_MAX: usize = 512;

/// Connections of the admin port.
pub const ADMIN_CONNECTIONS_MAX: u32 = 64;
/// How long a client of the admin port may take to send the head of a request, and how long its connection may be
/// idle.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the answer of `/readyz` that `unibus healthcheck` reads.
pub const HEALTHCHECK_ANSWER_BYTES_MAX: usize = 4096;

/// Bytes that a client may send on one HTTP/2 stream before the service has read them.
pub const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Bytes that a client may send on one connection before the service has read them. The HTTP/2 library closes a
/// connection when the overhead of small waiting frames exceeds half of this window. Many gRPC clients send each
/// message in a frame of its own, so this window is far larger than that of a stream.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

const _: () = {
    // stream prefix; room, separator and subscriber of a consumer name
    assert!("UNIBUS_".len() + ROOM_ID_CHARS_MAX <= NATS_NAME_CHARS_MAX);
    assert!(ROOM_ID_CHARS_MAX + 1 + SUBSCRIBER_ID_CHARS_MAX <= NATS_NAME_CHARS_MAX);
    let headers =
        HEADERS_BYTES_MAX + HEADERS_MAX * HEADER_FRAMING_BYTES + MESSAGE_ID_SCOPE_BYTES + MESSAGE_ID_CHARS_MAX;
    assert!(headers + SENDER_HEADERS_BYTES_MAX + JETSTREAM_HEADERS_BYTES_MAX <= HEADROOM_BYTES);
    assert!(2 * SIGNATURE_TIME_TOLERANCE.as_secs() <= DEDUPE_WINDOW_MIN.as_secs());
    assert!(HISTORY_LIMIT_DEFAULT <= HISTORY_LIMIT_MAX);
    assert!(PAGE_SIZE_DEFAULT <= PAGE_SIZE_MAX);
    assert!(PUBLISH_BATCH_MESSAGES_MAX <= ROOM_QUEUE_MESSAGES_MAX && PUBLISH_BATCH_BYTES_MAX <= ROOM_QUEUE_BYTES_MAX);
    // a client that reads nothing can still acknowledge in all its rooms
    assert!(CONSUME_ROOMS_MAX < CONSUME_ANSWERS_MAX);
    assert!(SESSION_COMMANDS_MAX <= SESSION_QUEUE_COMMANDS_MAX);
    // one message always fits a page
    assert!(EMBEDDED_NATS_PAYLOAD_BYTES_MAX < HISTORY_PAGE_BYTES_MAX);
};
