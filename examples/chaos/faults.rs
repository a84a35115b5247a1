//! Carries out the faults of an episode's plan on its servers and rooms.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use fastrand::Rng;
use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clients::{Scene, Wish, flood, sample_once},
    full, members, native,
    oracle::{At, Outage, Start},
    owner,
    plan::{Fault, Which},
    proxy::{Mode, Proxy},
    world::World,
};

/// How long an instance may take to end when it is asked to.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);

/// Subscriptions that are opened while a follower catches up.
const SAMPLES: u32 = 150;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// The servers and clients that a fault acts on.
#[derive(Clone)]
pub(crate) struct Stage {
    pub world: Arc<World>,
    pub scene: Arc<Scene>,
    /// Held by a fault while it takes a node away, so that only one node is away at a time.
    pub nodes: Arc<tokio::sync::Mutex<()>>,
}

impl Stage {
    /// Carries out one fault and waits for its end.
    pub(crate) async fn carry_out(&self, fault: Fault, seed: u64) -> Result<()> {
        let mut rng = Rng::with_seed(seed);
        let _turn = if fault.is_of_nodes() { Some(self.nodes.lock().await) } else { None };
        match fault {
            Fault::KillNode { which, down } => self.kill_node(which, down, false, &mut rng).await,
            Fault::WipeNode { down } => self.kill_node(Which::Follower, down, true, &mut rng).await,
            Fault::StopNode { which, pause } => self.stop_node(which, pause, &mut rng).await,
            Fault::LaggingFollower { messages } => self.lag(messages, &mut rng).await,
            Fault::KillInstance { instance, down } => self.restart_instance(instance, down, false).await,
            Fault::DrainInstance { instance, down } => self.restart_instance(instance, down, true).await,
            Fault::CutLinks { instance, link } => {
                self.links((instance, link), Duration::from_millis(200), Proxy::cut, |_| {}).await;
                Ok(())
            }
            Fault::DownLinks { instance, link, time } => {
                self.links((instance, link), time, |link| link.set(Mode::Down), |link| link.set(Mode::Pass)).await;
                Ok(())
            }
            Fault::BlackHole { instance, link, time } => {
                self.links((instance, link), time, |link| link.set(Mode::BlackHole), |link| link.set(Mode::Pass)).await;
                Ok(())
            }
            Fault::SlowLinks { instance, link, time, delay } => {
                self.links((instance, link), time, |link| link.set(Mode::Delay(delay)), |link| link.set(Mode::Pass))
                    .await;
                Ok(())
            }
            Fault::BareUpdate { cut } => native::bare_update(self, cut).await,
            Fault::NativePublish { count } => native::publish(self, count, &mut rng).await,
            Fault::BadHeaders { count } => native::publish_bad_headers(self, count, &mut rng).await,
            Fault::NativeDelete => native::delete_durable(self, &mut rng).await,
            Fault::Purge { all } => owner::purge(&self.scene, all, &mut rng).await,
            Fault::Delete { count } => owner::delete(&self.scene, count, &mut rng).await,
            Fault::Seek { back } => owner::seek(&self.scene, back, &mut rng).await,
            Fault::UpdateRoom => owner::update(&self.scene, &mut rng).await,
            Fault::Members => members::come_and_go(self, &mut rng).await,
            Fault::FullDisk { time } => full::disk(self, time).await,
            Fault::FullStore => full::store(self, &mut rng).await,
        }
    }

    async fn node(&self, which: Which, rng: &mut Rng) -> usize {
        let count = self.world.nodes.len();
        let leader = self.world.leader("UNIBUS_lobby").await.unwrap_or(0);
        match which {
            Which::Leader => leader,
            Which::Follower if count > 1 => (leader + rng.usize(1..count)) % count,
            Which::Follower | Which::Random => rng.usize(..count.max(1)),
        }
    }

    async fn kill_node(&self, which: Which, down: Duration, wipe: bool, rng: &mut Rng) -> Result<()> {
        let place = self.node(which, rng).await;
        let node = self.world.nodes.get(place).context("a node")?;
        let from = self.scene.now();
        node.kill();
        if wipe {
            node.wipe()?;
        }
        sleep(down).await;
        node.start()?;
        node.ready().await?;
        self.unreached_by_node(from);
        if wipe {
            for room in &self.scene.rooms {
                self.world.replicated(&format!("UNIBUS_{room}")).await?;
            }
        }
        Ok(())
    }

    async fn stop_node(&self, which: Which, pause: Duration, rng: &mut Rng) -> Result<()> {
        let place = self.node(which, rng).await;
        let node = self.world.nodes.get(place).context("a node")?;
        let from = self.scene.now();
        node.signal(Signal::STOP);
        sleep(pause).await;
        node.signal(Signal::CONT);
        node.ready().await?;
        self.unreached_by_node(from);
        Ok(())
    }

    async fn lag(&self, messages: u64, rng: &mut Rng) -> Result<()> {
        let place = self.node(Which::Follower, rng).await;
        let node = self.world.nodes.get(place).context("a node")?;
        node.kill();
        let known = self.scene.latest(0);
        flood(&self.scene, messages, rng.u64(..)).await;
        node.start()?;
        // The replica that lags may serve a new subscription, which then knows little more than this.
        let mut samples = JoinSet::new();
        for number in 0..SAMPLES {
            let (scene, seed) = (Arc::clone(&self.scene), rng.u64(..));
            let start = Start::After(known.saturating_sub(rng.u64(..60)));
            samples.spawn(async move {
                sleep(SAMPLE_EVERY * number).await;
                sample_once(&scene, 0, "late", start, 200, seed).await;
            });
        }
        node.ready().await?;
        samples.join_all().await;
        self.world.replicated("UNIBUS_lobby").await
    }

    async fn restart_instance(&self, place: usize, down: Duration, drain: bool) -> Result<()> {
        let instance = self.world.instances.get(place).context("an instance")?;
        let from = self.scene.now();
        if drain {
            let drained = instance.drain(DRAIN_WITHIN).await;
            self.require(drained, "an instance did not end in time when it was asked to");
        } else {
            instance.kill();
        }
        sleep(down).await;
        instance.start()?;
        instance.ready().await?;
        let to = self.scene.now();
        self.scene.facts().outages.push(Outage { instance: place, from, to });
        Ok(())
    }

    /// Disturbs the links of an instance, or one of them, for some time.
    async fn links(
        &self,
        (instance, link): (usize, Option<usize>),
        time: Duration,
        begin: impl Fn(&Proxy),
        end: impl Fn(&Proxy),
    ) {
        let links = self.world.links.get(instance).map_or(&[][..], Vec::as_slice);
        let from = self.scene.now();
        let links: Vec<&Proxy> = match link {
            Some(link) => links.get(link).into_iter().collect(),
            None => links.iter().collect(),
        };
        for link in &links {
            begin(link);
        }
        sleep(time).await;
        for link in &links {
            end(link);
        }
        if link.is_none() {
            self.unreached(instance, from);
        }
    }

    /// Records that no instance reaches NATS while the only nats-server is away.
    fn unreached_by_node(&self, from: At) {
        if self.world.nodes.len() == 1 {
            (0..self.world.instances.len()).for_each(|instance| self.unreached(instance, from));
        }
    }

    /// Records that NATS did not reach this instance between `from` and now.
    pub(crate) fn unreached(&self, instance: usize, from: At) {
        let to = self.scene.now();
        self.scene.facts().unreached.push(Outage { instance, from, to });
    }

    /// Records a violation unless `holds`.
    pub(crate) fn require(&self, holds: bool, problem: &str) {
        if !holds {
            self.scene.note(0, |room| room.unfinished.push(problem.to_owned()));
        }
    }

    /// Waits until `attempt` succeeds, and records a violation when it does not succeed in time.
    pub(crate) async fn succeeds(&self, what: &str, within: Duration, mut attempt: impl AsyncFnMut() -> bool) {
        let until = Instant::now() + within;
        while !timeout_at(until, attempt()).await.unwrap_or(false) {
            if Instant::now() >= until {
                self.require(false, &format!("{what} does not succeed within {within:?}"));
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A message that a native client is about to publish. Its outcome stays unknown.
    pub(crate) fn native_wish(&self, who: &str, rng: &mut Rng) -> Wish {
        let mut wish = Wish::new(&self.scene, 0, who, rng);
        wish.publish.has_id = false;
        wish.native(&self.scene);
        wish
    }
}

/// Records when this program itself stalls, so that the judge does not blame the service for the delay.
pub(crate) async fn watch_stalls(scene: Arc<Scene>, over: CancellationToken) {
    const TICK: Duration = Duration::from_millis(50);
    let mut before = scene.now();
    while !over.is_cancelled() {
        sleep(TICK).await;
        let now = scene.now();
        if now - before > 300_000 {
            scene.facts().stalls.push((before, now));
        }
        before = now;
    }
}
