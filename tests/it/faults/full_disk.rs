//! The embedded nats-server on a disk that is full.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use async_nats::{ConnectOptions, ServerAddr, jetstream};
use prost_types::FieldMask;
use rustix::fs::statvfs;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};
use unibus::v1::{DeleteMessageRequest, DeleteRoomRequest, PurgeRoomRequest, Room, UpdateRoomRequest};

use crate::support::{
    Client, Frames, Unibus, acknowledge, assert_status, create_room, eventually, everything, explicit, payloads,
    persisted, publish, publish_n, sequences,
};

/// Within this the service works again by itself once there is space.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Within this a call is refused that needs space.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
const DISK_BYTES: u64 = 64 * 1024 * 1024;

/// A small disk of its own, gone when dropped.
struct Disk {
    dir: TempDir,
}

impl Disk {
    /// `None` where the tests may not mount one, which takes root: then nothing is tested. CI runs as root.
    fn mount() -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            assert!(!rustix::process::geteuid().is_root(), "root can mount a tmpfs");
            return None;
        }
        Some(Self { dir })
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn free(&self) -> u64 {
        let disk = statvfs(self.dir.path()).expect("a disk");
        disk.f_bavail * disk.f_frsize
    }

    /// Takes all space but this much.
    fn fill(&self, left: u64) {
        let filler = usize::try_from(self.free().saturating_sub(left)).expect("a small disk");
        fs::write(self.filler(), vec![0; filler]).expect("space");
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).expect("a filler");
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a nats-server may be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

/// A connection to the embedded server beside the service.
async fn native(unibus: &Unibus) -> jetstream::Context {
    let address: ServerAddr = unibus.server().nats_url().parse().unwrap();
    let (user, password) = (address.username().unwrap().to_owned(), address.password().unwrap().to_owned());
    let options = ConnectOptions::with_user_and_password(user, password);
    let client = options.connect(format!("nats://{}:{}", address.host(), address.port())).await.unwrap();
    jetstream::new(client)
}

async fn ready(unibus: &Unibus) -> (u16, String) {
    let url = format!("http://{}/readyz", unibus.server().admin_addr());
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn set_label(client: &Client, value: &str) -> Result<(), Status> {
    let labels = HashMap::from([("note".to_owned(), value.to_owned())]);
    let room = Room { room_id: "lobby".into(), labels, ..Room::default() };
    let update_mask = Some(FieldMask { paths: vec!["labels".to_owned()] });
    client.clone().update_room(UpdateRoomRequest { room: Some(room), update_mask }).await.map(drop)
}

fn pid(data_dir: &Path) -> String {
    fs::read_to_string(data_dir.join("nats.pid")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_nearly_full_takes_no_more_and_gives_back() {
    // Goal: publishes and new rooms are refused at once, before a write can fail; readers and removals go on; and all is well
    // when there is space. Method: a small disk, filled up to less than what is kept free.
    let Some(disk) = Disk::mount() else { return };
    let unibus = Unibus::try_embedded_in(&disk.data_dir()).await.unwrap();
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    create_room(&client, "attic").await;
    publish_n(&client, "lobby", 20).await;
    let pid_before = pid(&disk.data_dir());
    disk.fill(2 * 1024 * 1024);
    for _ in 0..5 {
        let begun = Instant::now();
        assert_status(publish(&client, "lobby", "x").await, Code::ResourceExhausted, "STORAGE_FULL");
        let created = client.clone().create_room(persisted("new")).await;
        assert_status(created, Code::ResourceExhausted, "STORAGE_FULL");
        assert!(begun.elapsed() < REFUSED_WITHIN, "{:?}", begun.elapsed());
    }
    let (code, told) = ready(&unibus).await;
    assert_eq!(code, 200, "readers are served");
    assert_ne!(told, "ok\n");
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.messages(20).await.len(), 20);
    assert_eq!(acknowledge(&client, "lobby", "ann", 7).await.unwrap(), 7);
    client.clone().delete_message(DeleteMessageRequest { room_id: "lobby".into(), sequence: 9 }).await.unwrap();
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(5) };
    assert_eq!(client.clone().purge_room(request).await.unwrap().into_inner().purged, 5);
    client.clone().delete_room(DeleteRoomRequest { room_id: "attic".into() }).await.unwrap();
    disk.empty();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(publish(&client, "lobby", "again").await.unwrap().sequence, 21);
    create_room(&client, "new").await;
    assert_eq!(ready(&unibus).await, (200, "ok\n".to_owned()));
    assert_eq!(pid(&disk.data_dir()), pid_before, "nothing had to be started again");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_froze_is_started_again_when_there_is_space() {
    // Goal: a write that failed all the same harms nothing for longer than the disk is full. Method: a disk without any
    // space, on which a native program publishes until nats-server has frozen the room's stream, and the registry's with a
    // change of the room; the service is not ready, and does not restart it in vain. With space, both work again within
    // seconds, and everything that was acknowledged is there.
    let Some(disk) = Disk::mount() else { return };
    let unibus = Unibus::try_embedded_in(&disk.data_dir()).await.unwrap();
    let client = unibus.client().await;
    let room = create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 20).await;
    let native = native(&unibus).await;
    disk.fill(0);
    eventually(HEALED_WITHIN, async || {
        let stored = timeout(Duration::from_millis(500), async {
            native.publish(room.subject.clone(), vec![1; 10_000].into()).await.unwrap().await
        })
        .await;
        if stored.is_ok_and(|stored| stored.is_ok()) { Err("there is space".to_owned()) } else { Ok(()) }
    })
    .await;
    eventually(HEALED_WITHIN, async || match set_label(&client, &"x".repeat(4000)).await {
        Ok(()) => Err("there is space".to_owned()),
        Err(status) => {
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::ResourceExhausted), "{status:?}");
            Ok(())
        }
    })
    .await;
    eventually(HEALED_WITHIN, async || match ready(&unibus).await {
        (503, told) if told.contains("disk") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let pid_before = pid(&disk.data_dir());
    assert_status(publish(&client, "lobby", "x").await, Code::ResourceExhausted, "STORAGE_FULL");
    assert_eq!(everything(&client, "lobby").await.len(), 20);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(pid(&disk.data_dir()), pid_before, "started again in vain");

    disk.empty();
    eventually(HEALED_WITHIN, async || {
        publish(&client, "lobby", "again").await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    eventually(HEALED_WITHIN, async || {
        let created = client.clone().create_room(persisted("new")).await;
        created.map(drop).map_err(|status| status.to_string())
    })
    .await;
    assert_ne!(pid(&disk.data_dir()), pid_before);
    eventually(HEALED_WITHIN, async || set_label(&client, "healed").await.map_err(|status| status.to_string())).await;
    let messages = everything(&client, "lobby").await;
    let expected: Vec<String> = (1..=20).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&messages)[..20], expected);
    assert_eq!(messages.last().map(|message| message.payload.clone()), Some("again".into()));
    assert!(sequences(&messages).is_sorted());
    eventually(HEALED_WITHIN, async || match ready(&unibus).await {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    unibus.shutdown().await.unwrap();
}
