//! The closed set of limits that an error can name.

macro_rules! limits {
    ($($variant:ident = $name:literal;)+) => {
        /// A limit that an error can name, as `limit` in the metadata of [`Reason::LimitReached`](super::Reason::LimitReached)
        /// and [`Reason::RateLimited`](super::Reason::RateLimited). A limit that a flag sets has the name of the flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Limit { $($variant),+ }

        impl Limit {
            /// The value of `limit`.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

limits! {
    Connections = "--max-connections";
    ConnectionsPerAddress = "--max-connections-per-address";
    StreamsPerConnection = "--max-streams-per-connection";
    UnidentifiedCalls = "unidentified_calls";
    RequestBytes = "request_bytes";
    Subscriptions = "--max-subscriptions";
    PublishesOfCaller = "--limit-publishes";
    PublishBytesOfCaller = "--limit-publish-bytes";
    DurableSubscribersOfCaller = "--limit-durable-subscribers";
    CallsOfCaller = "--limit-calls";
    RequestStreamsOfCaller = "request_streams";
    SubscriptionsOfCaller = "--limit-subscriptions";
    RoomsOfCaller = "--limit-rooms";
    StoredBytesOfCaller = "--limit-stored-bytes";
    ReadsOfCaller = "--limit-reads";
    ReadBytesOfCaller = "--limit-read-bytes";
    ConsumeRooms = "consume_rooms";
    RoomMembers = "room_members";
    RoomOwners = "room_owners";
    ListedConsumers = "listed_consumers";
    NatsConsumers = "max_consumers";
    NatsStreams = "max_streams";
}
