//! What is taken away is gone within a second, also on an instance whose watch hangs.

use std::{collections::BTreeMap, time::Duration};

use futures_util::TryStreamExt;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use unibus::{
    AuthMode,
    v1::{CreateRoomRequest, GetRoomRequest, Role, Room, UpdateRoomRequest},
};

use crate::support::{
    Client, Cluster, Issuer, Nats, Unibus, eventually,
    membership::{add, remove},
    persisted, publish, reason,
};

/// Within this, on every instance that NATS reaches.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);
/// For how long after that it is tried.
const TRIED_FOR: Duration = Duration::from_secs(4);
/// How long the cluster may take for anything.
const RECOVERY: Duration = Duration::from_secs(60);
/// The buckets whose watches are to hang.
const BUCKETS: [&str; 2] = ["KV_unibus_members", "KV_unibus_rooms"];
/// Streams that the node which is taken away must not lead.
const STREAMS: [&str; 4] = ["KV_unibus_members", "KV_unibus_rooms", "KV_unibus_secrets", "UNIBUS_lobby"];
/// The node that no instance is connected to.
const VICTIM: usize = 2;

async fn instance(nats: &Nats, issuer: &Issuer) -> Unibus {
    let (url, keys) = (nats.url(), issuer.public_key());
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.registry_replicas = 3;
        config.auth.mode = AuthMode::Enforce;
        config.auth.keys = vec![keys];
    })
    .await
}

/// The consumers of a bucket, each with the node that has it.
async fn watches(nats: &Nats, bucket: &str) -> BTreeMap<String, Option<String>> {
    let stream = nats.jetstream().await.get_stream(bucket).await.unwrap();
    let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
    consumers.into_iter().map(|info| (info.name, info.cluster.and_then(|cluster| cluster.leader))).collect()
}

/// An instance on the second node all of whose watches are on the victim.
async fn instance_watching_on_the_victim(cluster: &Cluster, issuer: &Issuer) -> Unibus {
    let victim = cluster.nodes[VICTIM].name();
    for _ in 0..200 {
        let mut before = Vec::new();
        for bucket in BUCKETS {
            before.push(watches(&cluster.nodes[0], bucket).await);
        }
        let unibus = instance(&cluster.nodes[1], issuer).await;
        let mut is_placed = true;
        for (bucket, before) in BUCKETS.iter().zip(&before) {
            let now = watches(&cluster.nodes[0], bucket).await;
            let mut new = now.iter().filter(|(name, _)| !before.contains_key(*name));
            is_placed &= new.all(|(_, node)| node.as_deref() == Some(&victim));
        }
        if is_placed {
            return unibus;
        }
        unibus.shutdown().await.unwrap();
    }
    panic!("the watches never came to be on {victim}");
}

/// Makes other nodes lead what matters.
async fn victim_leads_nothing(cluster: &Cluster) {
    for stream in STREAMS {
        eventually(RECOVERY, async || {
            cluster.catches_up(stream).await;
            if cluster.leader(stream).await != VICTIM {
                return Ok(());
            }
            let subject = format!("STREAM.LEADER.STEPDOWN.{stream}");
            let stepped: Result<serde_json::Value, _> =
                cluster.nodes[0].jetstream().await.request(subject, &json!({})).await;
            Err(format!("{stream} is led by the victim; {stepped:?}"))
        })
        .await;
    }
}

async fn label(client: &Client, value: &str) -> Result<(), Status> {
    let room =
        Room { room_id: "lobby".into(), labels: [("colour".to_owned(), value.to_owned())].into(), ..Room::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".into()] });
    client.clone().update_room(UpdateRoomRequest { room: Some(room), update_mask }).await.map(drop)
}

async fn has_label(client: &Client, value: &str) -> Result<(), String> {
    let request = GetRoomRequest { room_id: "lobby".into() };
    let room = client.clone().get_room(request).await.map_err(|status| status.to_string())?.into_inner().room.unwrap();
    (room.labels.get("colour").map(String::as_str) == Some(value)).then_some(()).ok_or_else(|| format!("{room:?}"))
}

/// Whether the status invites to try again.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Does it as often as it takes, and gives the time of the answer that said so: what goes to the frozen node may time out.
async fn done_at(attempt: impl AsyncFn() -> Result<(), Status>) -> Instant {
    eventually(RECOVERY, async || match attempt().await {
        Ok(()) => Ok(Instant::now()),
        Err(status) if is_passing(&status) => Err(status.to_string()),
        Err(status) => panic!("{status:?}"),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_counts_within_a_second_where_the_watch_hangs() {
    // Goal: revocation does not depend on the node that an instance's watch happens to be on. Method: two instances on two
    // nodes; the watches of the second are on the third node, which leads nothing and is then killed, and in another round
    // frozen. A writer is removed and another made a reader through the first instance, while both publish through the second
    // as fast as they can: nothing is stored that was published a second after the answer. A changed label is seen there
    // in that time too.
    let mut cluster = Cluster::start().await;
    let issuer = Issuer::new();
    let first = instance(&cluster.nodes[0], &issuer).await;
    let ann = issuer.client(&first, "ann").await;
    let request = CreateRoomRequest { replicas: 3, ..persisted("lobby") };
    ann.clone().create_room(request).await.unwrap();
    for (round, is_killed) in [true, false].into_iter().enumerate() {
        let second = Box::pin(instance_watching_on_the_victim(&cluster, &issuer)).await;
        let (gone, less) = (format!("gone-{round}"), format!("less-{round}"));
        let mut publishers = Vec::new();
        for member in [&gone, &less] {
            add(&ann, "lobby", member, Role::Writer).await.unwrap();
            let client = issuer.client(&second, member).await;
            eventually(REVOKED_WITHIN, async || {
                publish(&client, "lobby", "x").await.map_err(|error| error.to_string())
            })
            .await;
            publishers.push(client);
        }
        let there = issuer.client(&second, "ann").await;
        victim_leads_nothing(&cluster).await;
        if is_killed {
            cluster.nodes[VICTIM].kill9();
        } else {
            cluster.nodes[VICTIM].freeze().await;
        }
        let stop = CancellationToken::new();
        let publishing: Vec<_> = publishers
            .into_iter()
            .map(|client| {
                let stop = stop.clone();
                tokio::spawn(async move {
                    let mut stored = Vec::new();
                    while !stop.is_cancelled() {
                        let at = Instant::now();
                        match publish(&client, "lobby", "x").await {
                            Ok(_) => stored.push(at),
                            Err(status) if status.code() == Code::PermissionDenied => {
                                sleep(Duration::from_millis(5)).await;
                            }
                            // where a node is lost, publishing may wait for a leader
                            Err(status) if is_passing(&status) => {}
                            Err(status) => panic!("{status:?}"),
                        }
                    }
                    stored
                })
            })
            .collect();
        let removed_at = done_at(async || remove(&ann, "lobby", &gone).await).await;
        let lessened_at = done_at(async || add(&ann, "lobby", &less, Role::Reader).await.map(drop)).await;
        done_at(async || label(&ann, if is_killed { "red" } else { "blue" }).await).await;
        eventually(REVOKED_WITHIN, async || has_label(&there, if is_killed { "red" } else { "blue" }).await).await;
        sleep(TRIED_FOR).await;
        stop.cancel();
        let mut ends = [removed_at, lessened_at].into_iter();
        for publisher in publishing {
            let (stored, end) = (publisher.await.unwrap(), ends.next().unwrap());
            assert!(!stored.is_empty());
            let late: Vec<_> = stored.iter().filter_map(|at| at.checked_duration_since(end)).collect();
            assert!(late.iter().all(|late| *late < REVOKED_WITHIN), "round {round}: {:?}", late.last());
        }
        let refused = publish(&issuer.client(&second, &gone).await, "lobby", "x").await.unwrap_err();
        assert_eq!(reason(&refused), "PERMISSION_DENIED");
        if is_killed {
            cluster.nodes[VICTIM].restart().await;
        } else {
            cluster.nodes[VICTIM].thaw();
        }
        second.shutdown().await.unwrap();
        cluster.settle().await;
    }
    first.shutdown().await.unwrap();
}
