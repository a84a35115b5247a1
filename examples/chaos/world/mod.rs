//! The servers of an episode: real processes, with a proxy on every link between an instance and a nats-server.

mod children;
mod instance;
mod node;
mod raw;
mod tmpfs;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::node::{NodeOptions, free_port};
pub(crate) use self::{instance::Instance, node::Node, raw::Raw, tmpfs::Tmpfs};
use crate::{
    plan::{Fault, Plan},
    proxy::Proxy,
};

/// Heartbeat interval of the instances: short, so that silence is found soon.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Size of the disk that gets full.
const DISK: &str = "64m";
/// Size of the store that gets full.
const STORE: &str = "20MB";
/// How often the servers of an episode are started at most.
const STARTS: usize = 3;
/// How long a cluster may take to agree on something.
const SETTLE_WITHIN: Duration = Duration::from_secs(40);

/// The programs that are run.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub unibus: PathBuf,
    pub nats_server: PathBuf,
}

/// All servers of an episode. Dropping it ends them.
pub(crate) struct World {
    pub instances: Vec<Instance>,
    pub nodes: Vec<Node>,
    /// The links of each instance, one to each node.
    pub links: Vec<Vec<Proxy>>,
    /// The disk that gets full, if the one instance runs its embedded nats-server.
    pub disk: Option<Tmpfs>,
    /// The bearer token of the administrator, if callers need one.
    pub token: Option<String>,
    programs: Programs,
    dir: PathBuf,
}

impl Programs {
    /// Finds `unibus` beside this program and a nats-server as the service's own tests do.
    pub(crate) fn find() -> Result<Self> {
        let own = env::current_exe()?;
        let build = own.ancestors().find(|dir| dir.join("unibus").is_file());
        let unibus = build.map(|dir| dir.join("unibus"));
        let unibus = unibus
            .context("no unibus beside this program; build both: cargo build --release --bin unibus --example chaos")?;
        let named = env::var_os("UNIBUS_NATS_SERVER").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let found =
            named.or_else(|| env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|file| file.is_file()));
        let nats_server = found.context("no nats-server; put one on the PATH, or name it in UNIBUS_NATS_SERVER")?;
        Ok(Self { unibus, nats_server })
    }

    /// Whether the sources are newer than the program that is tested.
    pub(crate) fn are_stale(&self) -> bool {
        let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut dirs = vec![sources];
        let mut newest = None;
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    dirs.push(entry.path());
                } else {
                    newest = newest.max(changed(&entry.path()));
                }
            }
        }
        newest > changed(&self.unibus)
    }

    /// The versions of both programs.
    pub(crate) fn versions(&self) -> Result<String> {
        let version = |program: &Path| -> Result<String> {
            let printed = Command::new(program).arg("--version").output()?;
            Ok(String::from_utf8_lossy(&printed.stdout).trim().replace("nats-server: v", "nats-server "))
        };
        Ok(format!("{}, {}", version(&self.unibus)?, version(&self.nats_server)?))
    }
}

impl World {
    /// Starts all servers, and waits until they serve. Starts again with other ports when another program has taken
    /// one.
    pub(crate) async fn start(plan: &Plan, programs: &Programs, dir: &Path) -> Result<Self> {
        let mut last = None;
        for attempt in 0..STARTS {
            let dir = dir.join(format!("start{attempt}"));
            fs::create_dir_all(&dir)?;
            match Self::try_start(plan, programs, &dir).await {
                Ok(world) => return Ok(world),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("not started")))
    }

    async fn try_start(plan: &Plan, programs: &Programs, dir: &Path) -> Result<Self> {
        let mut world = Self {
            instances: Vec::new(),
            nodes: Vec::new(),
            links: Vec::new(),
            disk: None,
            token: None,
            programs: programs.clone(),
            dir: dir.into(),
        };
        if plan.has(|fault| matches!(fault, Fault::FullDisk { .. })) {
            let disk = Tmpfs::mount(&dir.join("disk"), DISK)?;
            let data = format!("--data-dir={}", disk.path().join("data").display());
            world.disk = Some(disk);
            world.add_instance(vec![data, format!("--nats-server={}", programs.nats_server.display())])?;
        } else {
            world.start_nodes(plan).await?;
            world.add_instances(plan).await?;
        }
        for instance in &world.instances {
            instance.ready().await.with_context(|| "an instance does not get ready")?;
        }
        Ok(world)
    }

    async fn start_nodes(&mut self, plan: &Plan) -> Result<()> {
        let count = plan.setup.nodes();
        let ports = (0..count).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
        let max_file_store = plan.has(|fault| fault == Fault::FullStore).then_some(STORE);
        for place in 0..count {
            let cluster = (count > 1).then(|| (ports.clone(), place));
            let options = NodeOptions { cluster, max_file_store };
            let node = Node::new(&self.programs.nats_server, &self.dir, &format!("node{place}"), &options)?;
            node.start()?;
            self.nodes.push(node);
        }
        for node in &self.nodes {
            node.ready().await?;
        }
        if count > 1 { self.can_replicate().await } else { Ok(()) }
    }

    /// Waits until streams with three replicas can be made.
    async fn can_replicate(&self) -> Result<()> {
        let until = Instant::now() + SETTLE_WITHIN;
        loop {
            let config = json!({"name": "settle", "subjects": ["chaos.settle"], "num_replicas": 3});
            let made = async {
                let mut raw = self.raw().await?;
                let made = raw.ask("STREAM.CREATE.settle", &config).await?;
                raw.ask("STREAM.DELETE.settle", &json!({})).await?;
                Ok::<Value, anyhow::Error>(made)
            };
            match made.await {
                Ok(made) if made.get("error").is_none() => return Ok(()),
                other if Instant::now() > until => bail!("the cluster does not get ready: {other:?}"),
                _ => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn add_instances(&mut self, plan: &Plan) -> Result<()> {
        for place in 0..plan.setup.instances() {
            let mut links = Vec::new();
            for node in &self.nodes {
                links.push(Proxy::start(node.address).await);
            }
            let urls: Vec<String> = links.iter().map(Proxy::nats_url).collect();
            let mut args = vec![format!("--nats-url={}", urls.join(","))];
            args.push(format!("--data-dir={}", self.dir.join(format!("data{place}")).display()));
            if plan.setup.nodes() > 1 {
                args.push("--registry-replicas=3".into());
            }
            if plan.has(|fault| matches!(fault, Fault::Members | Fault::FullStore)) {
                args.push("--auth=enforce".into());
                args.push(format!("--auth-keys={}", self.key()?.with_extension("pub").display()));
                args.push("--auth-admins=admin".into());
                self.token = Some(self.token("admin")?);
            }
            self.add_instance(args)?;
            self.links.push(links);
        }
        Ok(())
    }

    fn add_instance(&mut self, mut args: Vec<String>) -> Result<()> {
        args.push(format!("--heartbeat-interval={}ms", HEARTBEAT.as_millis()));
        let log = self.dir.join(format!("unibus{}.log", self.instances.len()));
        let instance = Instance::new(&self.programs.unibus, log, args)?;
        instance.start()?;
        self.instances.push(instance);
        Ok(())
    }

    /// The private key that signs tokens; made the first time.
    fn key(&self) -> Result<PathBuf> {
        let key = self.dir.join("key");
        if !key.exists() {
            self.unibus(&["key", "--out", &key.display().to_string()])?;
        }
        Ok(key)
    }

    /// A bearer token for this endpoint.
    pub(crate) fn token(&self, endpoint: &str) -> Result<String> {
        let key = self.key()?.display().to_string();
        self.unibus(&["token", "--key", &key, "--sub", endpoint, "--ttl", "1h"])
    }

    /// Whether the directory of the servers' data and logs is still there.
    pub(crate) fn has_its_files(&self) -> bool {
        self.dir.is_dir()
    }

    fn unibus(&self, args: &[&str]) -> Result<String> {
        let done = Command::new(&self.programs.unibus).args(args).output()?;
        if !done.status.success() {
            bail!("unibus {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }

    /// A [`Raw`] connection to a nats-server that answers, which may be the embedded one.
    pub(crate) async fn raw(&self) -> Result<Raw> {
        if let Some(disk) = &self.disk {
            let url = fs::read_to_string(disk.path().join("data/nats.url"))?;
            let rest = url.trim().strip_prefix("nats://").context("a NATS URL")?;
            let (login, address) = rest.rsplit_once('@').unwrap_or(("", rest));
            let address: SocketAddr = address.trim_end_matches('/').parse()?;
            return Raw::connect(address, login.split_once(':')).await;
        }
        let mut last = None;
        for node in &self.nodes {
            match node.raw().await {
                Ok(raw) => return Ok(raw),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no nats-server")))
    }

    /// JetStream for a native client.
    pub(crate) async fn jetstream(&self) -> Result<async_nats::jetstream::Context> {
        let urls: Vec<String> = self.nodes.iter().map(|node| format!("nats://{}", node.address)).collect();
        Ok(async_nats::jetstream::new(async_nats::connect(urls).await?))
    }

    /// The index of the node that leads this stream.
    pub(crate) async fn leader(&self, stream: &str) -> Result<usize> {
        let info = self.raw().await?.ask(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let leader = info.pointer("/cluster/leader").and_then(Value::as_str);
        let place = self.nodes.iter().position(|node| Some(node.name.as_str()) == leader);
        place.with_context(|| format!("no leader of {stream}: {info}"))
    }

    /// Waits until every replica of this stream is up to date.
    pub(crate) async fn replicated(&self, stream: &str) -> Result<()> {
        let until = Instant::now() + SETTLE_WITHIN;
        loop {
            let asked = async { self.raw().await?.ask(&format!("STREAM.INFO.{stream}"), &json!({})).await };
            let info = asked.await;
            let behind = info.as_ref().ok().and_then(|info| {
                let replicas =
                    info.pointer("/cluster/replicas").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let state = |replica: &Value, name: &str| replica.get(name).and_then(Value::as_bool) == Some(true);
                let up =
                    replicas.iter().filter(|replica| state(replica, "current") && !state(replica, "offline")).count();
                info.get("error").is_none().then_some(self.nodes.len() > 1 && up + 1 < self.nodes.len())
            });
            match behind {
                Some(false) => return Ok(()),
                _ if Instant::now() > until => bail!("{stream} is not replicated: {info:?}"),
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}
