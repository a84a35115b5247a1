//! How another Rust project tests against the real service: in the test's own process, with a NATS server of its own.
//!
//! Everything that is started here is gone at the end: both ports are free ones, the data is in a temporary directory,
//! and the nats-server ends with the service. Tests that do this can run side by side.
//!
//! A nats-server is needed: the one that `UNIBUS_NATS_SERVER` or `EmbeddedNatsConfig::nats_server` names, or `nats-server` on the
//! `PATH`. In this repository cargo sees to it:
//!
//! ```console
//! $ cargo run --example embedded
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it saw")]

use std::{error::Error, time::Duration};

use unibus::{
    Config, EmbeddedNatsConfig, Server,
    v1::{
        CreateRoomRequest, HistoryRequest, PublishRequest, SubscribeRequest, room_service_client::RoomServiceClient,
        subscribe_response::Frame,
    },
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = tempfile::tempdir()?;
    let server = Server::bind(Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        embedded: EmbeddedNatsConfig { data_dir: data_dir.path().to_owned(), ..EmbeddedNatsConfig::default() },
        ..Config::default()
    })
    .await?;

    // The rest of `main` is the code of any client, and could be the body of a test.
    let mut client = RoomServiceClient::connect(format!("http://{}", server.local_addr())).await?;

    let room = CreateRoomRequest { room_id: "general".into(), persist: true, ..Default::default() };
    let room = client.create_room(room).await?.into_inner().room.ok_or("no room in the answer")?;
    println!("created {} on the subject {}", room.room_id, room.subject);

    for text in ["first", "second", "third"] {
        let message = PublishRequest { room_id: room.room_id.clone(), payload: text.into(), ..Default::default() };
        let stored = client.publish(message).await?.into_inner();
        println!("published {text:?} as {}, {}", stored.sequence, stored.durability().as_str_name());
    }

    // The backlog, read to its end. Without `until_caught_up` live messages would follow.
    let subscription = SubscribeRequest {
        room_id: room.room_id.clone(),
        subscriber: "tester".into(),
        until_caught_up: true,
        ..Default::default()
    };
    let mut frames = client.subscribe(subscription).await?.into_inner();
    let mut received = 0;
    while let Some(response) = tokio::time::timeout(Duration::from_secs(10), frames.message()).await?? {
        match response.frame {
            Some(Frame::Message(message)) => {
                received += 1;
                println!("received {} {:?}", message.sequence, String::from_utf8_lossy(&message.payload));
            }
            Some(Frame::CaughtUp(caught_up)) => println!("caught up at {}", caught_up.position),
            Some(Frame::Opened(_) | Frame::Heartbeat(_) | Frame::Gap(_)) | None => {}
        }
    }

    let page = HistoryRequest { room_id: room.room_id, limit: 2, ..Default::default() };
    let page = client.history(page).await?.into_inner();
    let sequences: Vec<_> = page.messages.iter().map(|message| message.sequence).collect();
    println!("the newest two are {sequences:?} of {} to {}", page.first_sequence, page.last_sequence);

    if received != 3 || sequences != [2, 3] {
        return Err("three messages went in, and others came out".into());
    }
    // Waits for the end of calls under way and of the nats-server; an error would mean that some call did not end.
    server.shutdown().await?;
    println!("stopped");
    Ok(())
}
