//! Runs one episode: it starts servers and clients, carries out the faults, ends the clients, and judges.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use futures_util::future::try_join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use unibus::v1::CreateRoomRequest;

use crate::{
    clients::{self, Phase, Scene, Wish, publish_surely},
    faults::{Stage, watch_stalls},
    oracle::{self, Counts, Facts, Log, SECOND, Stored, Violation},
    plan::{Fault, Plan, Publishing, Reading},
    world::{HEARTBEAT, Programs, World},
};

/// Time limit for everything to work again after the last fault.
const HEALS_WITHIN: Duration = Duration::from_secs(15);
/// Time limit for readers to reach the last message after that.
const READS_WITHIN: Duration = Duration::from_secs(15);
/// Time limit of a client's last call.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Time limit for all faults of an episode.
const FAULTS_WITHIN: Duration = Duration::from_secs(120);

/// The result of an episode.
pub(crate) struct Verdict {
    pub violations: Vec<Violation>,
    pub counts: Counts,
    pub took: Duration,
}

/// Runs an episode. The servers keep their data and logs below `dir`. An error means that the episode could not be run.
pub(crate) async fn run(plan: &Plan, programs: &Programs, dir: &Path) -> Result<Verdict> {
    let begun = Instant::now();
    let world = Arc::new(World::start(plan, programs, dir).await?);
    let addresses = world.instances.iter().map(|instance| instance.address).collect();
    let scene = Arc::new(Scene::new(addresses, world.token.clone(), &plan.rooms, plan.ttl));
    create_rooms(plan, &scene).await?;
    let over = CancellationToken::new();
    let mut watching = JoinSet::new();
    watching.spawn(watch_stalls(Arc::clone(&scene), over.clone()));
    let mut publishers = start_publishers(plan, &scene);
    let mut readers = start_readers(plan, &scene);

    let stage = Stage { world: Arc::clone(&world), scene: Arc::clone(&scene), nodes: Arc::default() };
    let running = Instant::now();
    let faults = timeout(FAULTS_WITHIN, carry_out(plan, &stage)).await;
    stage.require(faults.is_ok(), "the faults do not come to their end");
    faults.unwrap_or(Ok(())).context("a fault could not be carried out")?;
    sleep(plan.run.saturating_sub(running.elapsed())).await;

    let dead = world.instances.iter().filter(|instance| !instance.runs()).count();
    stage.require(dead == 0, "an instance has ended by itself");
    scene.enter(if dead == 0 { Phase::Finish } else { Phase::Over });
    finish(&stage, &mut publishers, &mut readers).await;
    if dead == 0 {
        for instance in &world.instances {
            let ready = instance.ready().await;
            stage.require(ready.is_ok(), &format!("an instance says at the end: {ready:?}"));
        }
        for room in 0..scene.rooms.len() {
            clients::walk(&scene, room).await;
        }
    }
    over.cancel();
    let mut facts = std::mem::take(&mut *scene.facts());
    facts.heartbeat = u64::try_from(HEARTBEAT.as_micros())?;
    facts.disturbed = plan.disturbs();
    facts.full = plan.has(|fault| matches!(fault, Fault::FullDisk { .. } | Fault::FullStore));
    for room in &mut facts.rooms {
        room.has_copies = world.nodes.len() > 1;
    }
    read_logs(&world, &mut facts).await?;
    if !world.has_its_files() {
        bail!("another program removed the servers' files while they ran: what is missing says nothing");
    }
    let (violations, counts) = (oracle::judge(&facts), oracle::count(&facts));
    Ok(Verdict { violations, counts, took: begun.elapsed() })
}

async fn create_rooms(plan: &Plan, scene: &Scene) -> Result<()> {
    let stored = plan.rooms.iter().enumerate().map(|(place, room_id)| CreateRoomRequest {
        room_id: room_id.clone(),
        persist: true,
        replicas: u32::try_from(plan.setup.nodes()).unwrap_or(1),
        allow_message_ttl: plan.ttl && place == 0,
        ..CreateRoomRequest::default()
    });
    let air = CreateRoomRequest { room_id: clients::AIR.into(), ..CreateRoomRequest::default() };
    for request in stored.chain([air]) {
        let until = Instant::now() + HEALS_WITHIN;
        let mut client = scene.client(0).context("an instance")?;
        loop {
            match client.create_room(scene.request(request.clone())).await {
                Ok(_) => break,
                Err(status) if Instant::now() > until => bail!("no room {}: {status}", request.room_id),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
    Ok(())
}

fn start_publishers(plan: &Plan, scene: &Arc<Scene>) -> JoinSet<()> {
    let mut rng = Rng::with_seed(plan.seed ^ 1);
    let mut publishers = JoinSet::new();
    for kind in &plan.publishers {
        let (kind, seed, scene) = (*kind, rng.u64(..), Arc::clone(scene));
        publishers.spawn(async move {
            match kind {
                Publishing::Unary => clients::unary(&scene, seed).await,
                Publishing::Expecting => clients::expecting(&scene, scene.rooms.len() - 1, seed).await,
                Publishing::Batches => clients::batches(&scene, false, seed).await,
                Publishing::AtomicBatches => clients::batches(&scene, true, seed).await,
                Publishing::Stream => clients::stream(&scene, seed).await,
            }
        });
    }
    let (seed, scene) = (rng.u64(..), Arc::clone(scene));
    publishers.spawn(async move { clients::speak(&scene, seed).await });
    publishers
}

fn start_readers(plan: &Plan, scene: &Arc<Scene>) -> JoinSet<()> {
    let mut rng = Rng::with_seed(plan.seed ^ 2);
    let mut readers = JoinSet::new();
    for (place, kind) in plan.readers.iter().enumerate() {
        let (kind, seed, scene) = (*kind, rng.u64(..), Arc::clone(scene));
        readers.spawn(async move {
            match kind {
                Reading::Explicit => clients::read(&scene, kind, 0, "explicit", seed).await,
                Reading::Auto => clients::read(&scene, kind, 0, "auto", seed).await,
                Reading::Unnamed => clients::read(&scene, kind, 0, "unnamed", seed).await,
                Reading::Sampling => clients::sample(&scene, 0, &format!("sample{place}"), seed).await,
                Reading::Consume => clients::consume(&scene, "consumer", seed).await,
                Reading::History => clients::history(&scene, 0, seed).await,
            }
        });
    }
    let (seed, scene) = (rng.u64(..), Arc::clone(scene));
    readers.spawn(async move { clients::listen(&scene, seed).await });
    readers
}

/// Carries out the faults, each at its time. They may overlap.
async fn carry_out(plan: &Plan, stage: &Stage) -> Result<()> {
    let mut rng = Rng::with_seed(plan.seed ^ 3);
    let faults = plan.faults.iter().map(|timed| {
        let seed = rng.u64(..);
        async move {
            sleep(timed.after).await;
            stage.carry_out(timed.fault, seed).await.with_context(|| format!("{:?}", timed.fault))
        }
    });
    try_join_all(faults.collect::<Vec<_>>()).await.map(drop)
}

/// Ends publishers and readers, and records those that do not end in time.
async fn finish(stage: &Stage, publishers: &mut JoinSet<()>, readers: &mut JoinSet<()>) {
    let scene = &stage.scene;
    let published = timeout(HEALS_WITHIN, async { while publishers.join_next().await.is_some() {} }).await;
    stage.require(published.is_ok(), "not every message is published in time");
    let mut targets = Vec::new();
    for room in (0..scene.rooms.len()).filter(|_| !scene.is_over()) {
        let mut target = 0;
        for instance in 0..scene.instances() {
            let wish = Wish::new(scene, room, "last", &mut Rng::new());
            match timeout(HEALS_WITHIN, publish_surely(scene, wish, instance)).await {
                Ok(Ok(sequence)) => target = target.max(sequence),
                other => stage.require(false, &format!("the last message of room {room}: {other:?}")),
            }
        }
        targets.push(target);
    }
    if !scene.is_over() {
        scene.enter(Phase::Read(targets));
    }
    let _ = timeout(READS_WITHIN, async { while readers.join_next().await.is_some() {} }).await;
    // Clients that have not reached the end record it now.
    scene.enter(Phase::Over);
    let ended = timeout(ENDS_WITHIN, async {
        while publishers.join_next().await.is_some() {}
        while readers.join_next().await.is_some() {}
    });
    stage.require(ended.await.is_ok(), "a client does not come to its end");
}

/// Reads the stored messages from the leader, after all replicas are up to date.
async fn read_logs(world: &World, facts: &mut Facts) -> Result<()> {
    for room in &mut facts.rooms {
        let stream = format!("UNIBUS_{}", room.room_id);
        world.replicated(&stream).await?;
        let (first, last, messages) = world.raw().await?.read_stream(&stream).await?;
        let stored = messages.into_iter().map(|message| {
            let time = humantime::parse_rfc3339(&message.time).ok();
            let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let time = time.map_or(0, |time| time.as_secs() * SECOND + u64::from(time.subsec_micros()));
            (message.sequence, Stored { digest: clients::digest(&message.payload), time })
        });
        room.log = Log { first, last, messages: stored.collect() };
    }
    Ok(())
}
