//! The command that asks a running service whether it is ready, for containers without a shell.
//!
//! The doc comments of [`Healthcheck`] are the text of `--help`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use clap::Args;

use crate::{flags, limits::HEALTHCHECK_ANSWER_BYTES_MAX};

/// Ask the service on this machine whether it is ready
///
/// Reads /readyz of the admin port. Ends with 0 if the service is ready, and with 1 otherwise.
#[derive(Clone, Debug, Args)]
pub struct Healthcheck {
    /// Address and port of --admin-listen; the addresses 0.0.0.0 and :: stand for this machine
    #[arg(long, env = "UNIBUS_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50052")]
    pub admin_listen: SocketAddr,

    /// How long the service may take to answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = flags::positive_duration)]
    pub timeout: Duration,
}

impl Healthcheck {
    /// Asks the service; returns the text for standard output.
    ///
    /// # Errors
    /// The text for standard error, if the service is not ready or does not answer in time.
    pub fn run(&self) -> Result<String, String> {
        let answer = ask(self.admin_listen, self.timeout)
            .map_err(|error| format!("/readyz at {} does not answer: {error}", self.admin_listen))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(body.trim().to_owned()) }
    }
}

/// Returns the answer to `GET /readyz`.
fn ask(admin_listen: SocketAddr, timeout: Duration) -> io::Result<String> {
    let end = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&of_this_machine(admin_listen), timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while answer.len() < HEALTHCHECK_ANSWER_BYTES_MAX {
        let left = end.saturating_duration_since(Instant::now());
        // a timeout of zero would mean none
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let count = stream.read(&mut part)?;
        answer.extend(part.iter().take(count));
        if count == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A service that listens on every address also listens on loopback.
fn of_this_machine(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::of_this_machine;

    #[test]
    fn every_address_means_this_machine() {
        for (given, asked) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            assert_eq!(of_this_machine(given.parse().unwrap()), asked.parse().unwrap(), "{given}");
        }
    }
}
