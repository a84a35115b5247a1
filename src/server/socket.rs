//! Addresses that are taken before they are listened on.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::error::{Error, Result};

/// An address that is taken and not listened on yet: until the service can answer, clients are refused and may go elsewhere,
/// instead of waiting for an answer.
pub(super) struct Bound {
    field: &'static str,
    socket: TcpSocket,
}

impl Bound {
    /// Connections that may wait to be accepted.
    const BACKLOG: u32 = 1024;

    pub(super) fn new(field: &'static str, address: SocketAddr) -> Result<Self> {
        let bound = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // as a listener has it: a port is free again at once when its owner has ended
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
