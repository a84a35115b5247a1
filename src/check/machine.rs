//! This machine: free ports, and the limit of open files.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::Finding;
use crate::server::{self, config::Config, socket::BoundAddress};

/// How long a service on the admin port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let is_running = is_service(config.admin_listen).await;
    vec![
        port("listen", config.listen, is_running),
        port("admin_listen", config.admin_listen, is_running),
        open_files(config),
    ]
}

fn port(field: &'static str, address: SocketAddr, is_running: bool) -> Finding {
    let flag = format!("--{}", field.replace('_', "-"));
    match BoundAddress::new(field, address) {
        Ok(_) if address.port() == 0 => Finding::ok(&flag, "the service picks a free port"),
        Ok(_) => Finding::ok(&flag, format!("{address} is free")),
        Err(_) if is_running => Finding::warn(
            &flag,
            format!("{address} is taken, and a service like this one answers at --admin-listen"),
            "stop that service before you start another one with the same addresses",
        ),
        Err(error) => {
            let found = error.violations().first().map_or_else(|| error.message(), |wrong| &wrong.description);
            Finding::fail(&flag, format!("{address}: {found}"), format!("free the port, or give another {flag}"))
        }
    }
}

/// Whether a service answers at the admin port, as this one does.
async fn is_service(admin: SocketAddr) -> bool {
    if admin.port() == 0 {
        return false;
    }
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let asked = async {
        let mut stream = TcpStream::connect((ip, admin.port())).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: unibus\r\nconnection: close\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head == *b"HTTP/1.1 200")
    };
    matches!(time::timeout(ANSWER_TIMEOUT, asked).await, Ok(Ok(true)))
}

fn open_files(config: &Config) -> Finding {
    let (needed, allowed) = server::descriptors(config.connections.max, config.tls.certificate.is_some());
    match allowed {
        Some(allowed) if allowed < needed => Finding::warn(
            "open-files",
            format!("{allowed} are allowed, and --max-connections {} needs {needed}", config.connections.max),
            "raise the hard limit (`ulimit -Hn`, or `LimitNOFILE=` of systemd), or lower --max-connections",
        ),
        Some(allowed) => Finding::ok("open-files", format!("{allowed} are allowed, {needed} are needed at most")),
        None => Finding::ok("open-files", "no limit"),
    }
}
