//! The copies of the registry of rooms.

use serde_json::Value;

use super::Probe;

/// The copies of the registry's bucket.
#[derive(Debug)]
pub(crate) struct RegistryReplicas {
    pub copies: u64,
    /// The servers whose copy is old or that are not there.
    pub lagging: Vec<String>,
}

impl Probe {
    /// The copies of the registry. `None`: there is no registry yet, or the server does not answer.
    pub(crate) async fn registry(&self) -> Option<RegistryReplicas> {
        let answer = self.ask("$JS.API.STREAM.INFO.KV_unibus_rooms").await?;
        let copies = answer.pointer("/config/num_replicas")?.as_u64()?;
        let peers = answer.pointer("/cluster/replicas").and_then(Value::as_array);
        let is = |peer: &Value, field: &str| peer.get(field).and_then(Value::as_bool).unwrap_or(false);
        let lagging = peers.into_iter().flatten().filter(|peer| !is(peer, "current") || is(peer, "offline"));
        let name = |peer: &Value| peer.get("name").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        Some(RegistryReplicas { copies, lagging: lagging.map(name).collect() })
    }
}
