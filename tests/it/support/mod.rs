//! What the tests stand on: servers that are started, killed and restarted at will, and the words to talk to them.

pub(crate) mod calls;
mod certificates;
mod cli;
mod cluster;
mod collector;
pub(crate) mod connect;
mod consuming;
pub(crate) mod cumulative;
mod errors;
mod eventually;
pub(crate) mod flood;
mod frames;
pub(crate) mod http2;
mod identity;
mod lobby;
pub(crate) mod membership;
mod nats;
mod operator;
mod process;
mod proxy;
pub(crate) mod publishing;
mod random;
mod requests;
mod scrape;
mod spy;
mod subscribers;
mod terminal;
mod tls;
mod traffic;
mod unibus;

pub(crate) use self::{
    certificates::{Certificates, Certified},
    cli::{Cli, Running},
    cluster::Cluster,
    collector::{Collector, Trace},
    consuming::{CommandsBy, Consuming, session_of},
    errors::{assert_field, assert_status, fields, metadata, names_field, reason, status},
    eventually::{eventually, grows_by},
    frames::Frames,
    identity::{Credentials, Issuer, claims, guarded, seconds_from_now},
    lobby::Lobby,
    nats::{Nats, NatsOptions, bare_stream, free_port, settled},
    operator::Operator,
    process::Process,
    proxy::{Mode, Proxy, Way},
    random::{Random, note},
    requests::{
        create_ephemeral, create_room, ephemeral, everything, history, list_rooms, page, payloads, persisted, publish,
        publish_n, sequences,
    },
    scrape::Scrape,
    spy::Spy,
    subscribers::{
        acknowledge, acknowledge_of, client_that_may_leave_small_frames, client_with_window, client_with_window_as,
        durable_info, explicit, floor, floor_reaches, listed, starting, subscription,
    },
    terminal::Terminal,
    tls::{TlsSocket, certificate_in, shown_certificate, tls_client, tls_endpoint, try_tls_client},
    traffic::{Circumstances, Traffic},
    unibus::{Client, Unibus, connect, connect_with, over},
};
