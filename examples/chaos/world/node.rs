//! A nats-server on loopback.

use std::{
    fmt::Write,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Raw, children::Child};

const START_WITHIN: Duration = Duration::from_secs(30);

/// A nats-server that can be killed and started again on its port and store. Ends when dropped.
pub(crate) struct Node {
    pub name: String,
    pub address: SocketAddr,
    dir: PathBuf,
    program: PathBuf,
    child: Mutex<Option<Child>>,
}

/// The settings in which nats-servers differ.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeOptions {
    /// The ports of the cluster's routes, and the index of this node among them.
    pub cluster: Option<(Vec<u16>, usize)>,
    /// Such as `20MB`.
    pub max_file_store: Option<&'static str>,
}

impl Node {
    /// Writes the configuration of a node, and does not start it.
    pub(crate) fn new(program: &Path, dir: &Path, name: &str, options: &NodeOptions) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let store = dir.join(name);
        let max = options.max_file_store.map(|max| format!(", max_file_store: {max}")).unwrap_or_default();
        let mut config = format!(
            "server_name: \"{name}\"\nlisten: \"{address}\"\njetstream {{ store_dir: \"{}\"{max} }}\n",
            store.display()
        );
        if let Some((ports, place)) = &options.cluster {
            let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            let own = ports.get(*place).context("a port for each node")?;
            let routes = routes.join(", ");
            let _ = writeln!(
                config,
                "cluster {{ name: chaos, listen: \"127.0.0.1:{own}\", routes: [{routes}], pool_size: 1, no_advertise: true }}"
            );
        }
        fs::write(dir.join(format!("{name}.conf")), config)?;
        Ok(Self { name: name.into(), address, dir: dir.into(), program: program.into(), child: Mutex::default() })
    }

    pub(crate) fn start(&self) -> Result<()> {
        let config = self.dir.join(format!("{}.conf", self.name));
        let mut command = Command::new(&self.program);
        let log = self.dir.join(format!("{}.log", self.name));
        let child = Child::run(command.arg("-c").arg(config), &log)?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Waits until the node answers.
    pub(crate) async fn ready(&self) -> Result<()> {
        let until = Instant::now() + START_WITHIN;
        loop {
            let asked = async { self.raw().await?.ask("INFO", &json!({})).await };
            match asked.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    return Err(error).with_context(|| format!("{} does not serve", self.name));
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// A [`Raw`] connection to the node.
    pub(crate) async fn raw(&self) -> Result<Raw> {
        Raw::connect(self.address, None).await
    }

    pub(crate) fn kill(&self) {
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &*self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            child.signal(signal);
        }
    }

    /// Removes the store of the node, which must not run.
    pub(crate) fn wipe(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.dir.join(&self.name))?)
    }
}

/// A free port below the range of outgoing connections. So the port is still free when a killed server starts again.
pub(crate) fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let port = fastrand::u16(11_000..31_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}
