//! What most tests begin with.

use super::{Client, Nats, Unibus, create_room};

/// A nats-server, one instance of the service in front of it, and a client of that instance.
///
/// A test keeps it to its end, under a name: the fields are dropped in their order, and take down what they started.
pub(crate) struct Lobby {
    pub(crate) unibus: Unibus,
    pub(crate) nats: Nats,
}

impl Lobby {
    /// With the persisted room `lobby`, which the client created.
    pub(crate) async fn open() -> (Self, Client) {
        let (lobby, client) = Self::without_room().await;
        create_room(&client, "lobby").await;
        (lobby, client)
    }

    /// With no room.
    pub(crate) async fn without_room() -> (Self, Client) {
        let nats = Nats::start().await;
        let unibus = Unibus::start(&nats).await;
        let client = unibus.client().await;
        (Self { unibus, nats }, client)
    }
}
