//! Binds an address before the service listens on it.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::error::{Error, Result};

/// An address that is bound and not listened on yet. Until the service can answer, clients are refused at once and can
/// use another instance.
pub(crate) struct BoundAddress {
    field: &'static str,
    socket: TcpSocket,
}

impl BoundAddress {
    /// Maximum number of connections that wait to be accepted.
    const BACKLOG: u32 = 1024;

    pub(crate) fn new(field: &'static str, address: SocketAddr) -> Result<Self> {
        let bound = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // like `TcpListener::bind`: the port is free again as soon as the earlier process has ended
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        bound().map(|socket| Self { field, socket }).map_err(|error| unbindable(field, error))
    }

    pub(super) fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(|error| unbindable(self.field, error))
    }

    pub(super) fn listen(self) -> Result<TcpListener> {
        self.socket.listen(Self::BACKLOG).map_err(|error| unbindable(self.field, error))
    }
}

fn unbindable(field: &str, error: std::io::Error) -> Error {
    Error::field(field, format!("the address cannot be bound ({error}); choose another address or port")).because(error)
}
