//! The client, and how it is made.

use std::{error::Error as StdError, fmt, future, sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use unibus::v1::{self, ListRoomsRequest};

use crate::{
    connection::{Connection, TokenSupplier, bearer},
    error::Result,
    ids::random_id,
    retry::{Times, call, list},
    room::{NewRoom, Room},
    subscription::is_in_handler_of,
};

/// One service, and everything that the program has open there. Cheap to clone.
///
/// Nothing is sent before the first call, and the connection is made again whenever it is lost. The client belongs to the
/// runtime of tokio in which it was made.
#[derive(Clone)]
pub struct Client {
    pub(crate) connection: Arc<Connection>,
    pub(crate) times: Times,
}

impl Client {
    /// A client without credentials: `https://host:port`, or `http://host:port` for plaintext (U5).
    pub fn new(address: impl Into<String>) -> Result<Self> {
        Self::builder(address).build()
    }

    /// Begins a client with options.
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            address: address.into(),
            ca: None,
            identity: None,
            token: None,
            has_wrong_token: false,
            allows_plaintext_token: false,
            receive_limit: 16 * 1024 * 1024,
            times: Times { attempt: Duration::from_secs(10), total: Duration::from_secs(60) },
        }
    }

    /// The same client, whose calls take less or more time: `attempt` for one attempt, `total` for all attempts together
    /// (U9).
    #[must_use]
    pub fn with_times(&self, attempt: Duration, total: Duration) -> Self {
        Self { connection: self.connection.clone(), times: Times { attempt, total } }
    }

    /// A room. Nothing is sent. Calls fail with `ROOM_NOT_FOUND` until [`create_room`](Self::create_room) has made it.
    pub fn room(&self, id: impl Into<Arc<str>>) -> Room {
        Room { client: self.clone(), id: id.into() }
    }

    /// Creates a room, or finds the same room that exists already. If it has no id, the client makes one, so that a repeated
    /// call makes no second room (U10).
    pub async fn create_room(&self, NewRoom(mut request): NewRoom) -> Result<Room> {
        if request.room_id.is_empty() {
            request.room_id = random_id()?;
        }
        let room = self.room(request.room_id.clone());
        call!(self, Always, create_room, request)?;
        self.connection.forget_facts(room.id());
        Ok(room)
    }

    /// The rooms of which the caller is a member, by ascending id, without their state.
    pub async fn rooms(&self) -> Result<Vec<v1::Room>> {
        list!(self, list_rooms, rooms, ListRoomsRequest::default())
    }

    /// Closes all subscriptions and publishers in an orderly way, then the client (U27). Later calls fail.
    ///
    /// Waits for running handlers, which can still publish. In a handler of this client it only begins, since it cannot wait
    /// for the handler that waits for it.
    pub async fn close(&self) {
        let connection = self.connection.clone();
        let close = async move { connection.close().await };
        if is_in_handler_of(&self.connection) {
            // nobody need wait for it: it ends with the handlers
            TaskTracker::new().spawn_on(close, &self.connection.subscriptions.runtime);
        } else {
            close.await;
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("times", &self.times).finish_non_exhaustive()
    }
}

/// The options of a client.
#[must_use]
pub struct ClientBuilder {
    pub(crate) address: String,
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) token: Option<TokenSupplier>,
    /// The fixed token is one that no header can carry.
    pub(crate) has_wrong_token: bool,
    pub(crate) allows_plaintext_token: bool,
    pub(crate) receive_limit: usize,
    pub(crate) times: Times,
}

impl ClientBuilder {
    /// Trusts this certificate authority (PEM) in place of those of the system (U5).
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Shows the service a client certificate (PEM).
    pub fn client_certificate(mut self, certificate_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// Sends this token with each call. When it expires, calls fail and subscriptions end.
    pub fn token(self, token: impl Into<String>) -> Self {
        let token = token.into();
        let has_wrong_token = bearer(&token).is_none();
        let fixed = self.token_from(move || future::ready(Ok::<_, std::convert::Infallible>(token.clone())));
        Self { has_wrong_token, ..fixed }
    }

    /// Asks this function for a token for each attempt of each call, and again after a token was refused (U8).
    ///
    /// Let it return a token from memory or a file, and renew that token some time before it expires: if the function returns
    /// the token that was just refused, the call fails, and a subscription ends.
    pub fn token_from<F, E>(mut self, supplier: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.has_wrong_token = false;
        self.token = Some(Box::new(move || {
            let token = supplier();
            Box::pin(async move { token.await.map_err(Into::into) })
        }));
        self
    }

    /// Allows a token without TLS, if the address is one of this machine (U5).
    pub fn allow_plaintext_token(mut self) -> Self {
        self.allows_plaintext_token = true;
        self
    }

    /// The largest message that the client reads, 16 MiB by default (U7).
    pub fn receive_limit(mut self, bytes: usize) -> Self {
        self.receive_limit = bytes;
        self
    }

    /// The time of one attempt of a call, 10 s by default (U9).
    pub fn attempt_time(mut self, time: Duration) -> Self {
        self.times.attempt = time;
        self
    }

    /// The time of all attempts of a call together, 60 s by default (U9).
    pub fn total_time(mut self, time: Duration) -> Self {
        self.times.total = time;
        self
    }

    /// Makes the client. Nothing is sent.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the address, a certificate or a fixed token cannot be used, if a token would go over plaintext
    /// (U5), and outside of tokio's runtime.
    pub fn build(self) -> Result<Client> {
        let times = self.times;
        Ok(Client { connection: Arc::new(Connection::new(self)?), times })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_publisher_takes_messages_until_the_last_handler_has_returned() -> Result<()> {
        let client = Client::new("http://127.0.0.1:1")?;
        let publisher = client.room("room").publisher().close_time(Duration::ZERO).start();
        let (connection, (report, sent)) = (client.connection.clone(), oneshot::channel());
        client.connection.subscriptions.spawn(async move {
            connection.subscriptions.closing.cancelled().await;
            let _ = report.send(publisher.send("text").await.is_ok());
        });
        client.close().await;
        assert_eq!(sent.await, Ok(true));
        Ok(())
    }
}
