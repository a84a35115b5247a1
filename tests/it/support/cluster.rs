//! Three nats-servers that keep copies of each other's streams.

use std::time::Duration;

use async_nats::jetstream::stream;
use futures_util::future::join_all;

use super::{Nats, NatsOptions, eventually, nats::free_port};

/// How long the cluster may take to agree on something: generous, for machines that are busy with other tests.
const CLUSTER_WAIT: Duration = Duration::from_secs(60);

/// A cluster on loopback. Killed when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Nats>,
}

impl Cluster {
    /// Three servers; a stream with three copies can be made when this returns.
    pub(crate) async fn start() -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let routes = routes.join(", ");
        let starting = ports.iter().map(|port| {
            let cluster = format!(
                "cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}], pool_size: 1, no_advertise: true }}\n"
            );
            NatsOptions::new().extra(&cluster).start()
        });
        let cluster = Self { nodes: join_all(starting).await };
        cluster.settle().await;
        cluster
    }

    /// Waits until streams with three copies can be made.
    pub(crate) async fn settle(&self) {
        let config = || stream::Config { name: "settle".into(), num_replicas: 3, ..stream::Config::default() };
        eventually(CLUSTER_WAIT, async || {
            let jetstream = self.running().jetstream().await;
            jetstream.create_stream(config()).await.map_err(|error| error.to_string())?;
            jetstream.delete_stream("settle").await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// What the service connects to.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(Nats::url).collect();
        urls.join(",")
    }

    /// The node that leads this stream, by its place; waits until there is one.
    pub(crate) async fn leader(&self, stream: &str) -> usize {
        eventually(CLUSTER_WAIT, async || {
            let jetstream = self.running().jetstream().await;
            let info = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
            let leader = info.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            let place = self.nodes.iter().position(|node| Some(node.name()) == leader);
            place.ok_or_else(|| format!("the leader is {leader:?}"))
        })
        .await
    }

    /// Waits until every copy of this stream is up to date.
    pub(crate) async fn catches_up(&self, stream: &str) {
        eventually(CLUSTER_WAIT, async || {
            let jetstream = self.running().jetstream().await;
            let info = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
            let cluster = info.cached_info().cluster.clone().ok_or("no cluster")?;
            let current = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count();
            (current == 2).then_some(()).ok_or_else(|| format!("{cluster:?}"))
        })
        .await;
    }

    fn running(&self) -> &Nats {
        self.nodes.iter().find(|node| node.is_running()).expect("a running node")
    }
}
