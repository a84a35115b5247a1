//! Sessions: the commands of Consume in calls of their own, at any instance.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status};
use unibus::v1::{
    ConsumeCommand, ConsumeCredit, ConsumeOpen, ConsumeRequest, OpenSessionRequest, SessionCommandRequest,
    consume_request::Command, consume_response::Frame, open_session_response,
};

use crate::support::{
    Client, Consuming, Issuer, Nats, Process, Unibus, assert_status, create_room, eventually, explicit, fields, floor,
    listed, publish, publish_n, sequences, session_of, subscription,
};

/// How long something may take that follows by itself.
const SOON: Duration = Duration::from_secs(20);
/// No session has this id.
const UNKNOWN: &str = "00000000000000000000000000000000-00000000000000000000000000000000";

fn opening(room_id: &str) -> ConsumeRequest {
    let open = ConsumeOpen { subscribe: Some(subscription(room_id, "")), ..ConsumeOpen::default() };
    ConsumeRequest { command: Some(Command::Open(open)) }
}

fn credit(room_id: &str) -> ConsumeRequest {
    let credit = ConsumeCredit { room_id: room_id.into(), messages: 1, bytes: 0 };
    ConsumeRequest { command: Some(Command::Credit(credit)) }
}

async fn command(client: &Client, id: &str, number: u64, commands: Vec<ConsumeRequest>) -> Result<(), Status> {
    let request = SessionCommandRequest { session_id: id.into(), commands, number };
    client.clone().session_command(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_instance_takes_the_commands_of_a_session() {
    // Goal: a load balancer may send the commands anywhere. Method: the session is on one instance, its commands go to the
    // other: open, acknowledge, credit and close take effect in their order, and are answered on the session.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    for (holder, commander) in [(&client, &other), (&other, &client), (&client, &client)] {
        let mut session = Consuming::session(holder, commander).await;
        let opened = session.open_within(explicit("lobby", "ann"), 3, 0).await;
        let from = opened.position + 1;
        assert_eq!(sequences(&session.messages("lobby", 3).await), listed(from..=from + 2));
        session.acknowledge("lobby", from + 1).await;
        assert_eq!(session.acked("lobby").await, from + 1);
        assert_eq!(floor(&nats, "lobby", "ann").await, from + 1);
        session.credit("lobby", 1, 0).await;
        assert_eq!(sequences(&session.messages("lobby", 1).await), [from + 3]);
        session.close("lobby").await;
        session.credit("lobby", 1, 0).await;
        assert_eq!(session.closed("lobby").await.code(), Code::Ok);
        let (kind, _, error) = session.rejected("lobby").await;
        assert_eq!(kind, ConsumeCommand::Credit);
        assert_status::<()>(Err(error), Code::FailedPrecondition, "SUBSCRIPTION_NOT_OPEN");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_follows_a_hundred_rooms_that_one_call_opens() {
    // Goal: one request is enough to follow many rooms. Method: OpenSession with a hundred `open` commands; each room's
    // message arrives, also those published later.
    let nats = Nats::start().await;
    let service = Unibus::start(&nats).await;
    let client = service.client().await;
    let rooms: Vec<String> = (0..100).map(|number| format!("room-{number}")).collect();
    for room in &rooms {
        create_room(&client, room).await;
        publish(&client, room, "before").await.unwrap();
    }
    let commands = rooms.iter().map(|room| opening(room)).collect();
    let mut frames = client.clone().open_session(OpenSessionRequest { commands }).await.unwrap().into_inner();
    session_of(&frames.message().await.unwrap().unwrap()).expect("the session first");
    for wanted in 1..=2 {
        let mut missing: Vec<&str> = rooms.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            let response = timeout(SOON, frames.message()).await.expect("in time").unwrap().expect("a response");
            let Some(open_session_response::Frame::Consume(response)) = response.frame else { panic!("{response:?}") };
            if let Some(Frame::Message(message)) = response.frame {
                assert_eq!(message.sequence, wanted);
                missing.retain(|room| *room != response.room_id);
            }
        }
        for room in &rooms {
            publish(&client, room, "after").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbered_calls_take_effect_once_and_in_their_order() {
    // Goal: a client may repeat every call whose outcome it does not know. Method: through both instances: a call is
    // repeated, a number is left out and given later; credit, which adds up, shows how often each call took effect.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    for commander in [&client, &other] {
        let mut session = Consuming::session(&client, commander).await;
        let id = session.session_id().to_owned();
        let open = ConsumeOpen { subscribe: Some(subscription("lobby", "")), credit_messages: 1, credit_bytes: 0 };
        let open = ConsumeRequest { command: Some(Command::Open(open)) };
        for _ in 0..3 {
            command(commander, &id, 1, vec![open.clone()]).await.unwrap();
        }
        let early = command(commander, &id, 3, vec![credit("lobby")]).await;
        assert_status(early, Code::Aborted, "CONFLICT");
        for number in [2, 2, 3, 2, 3, 1] {
            command(commander, &id, number, vec![credit("lobby")]).await.unwrap();
        }
        assert!(matches!(session.next_told("lobby").await, Frame::Opened(_)));
        assert_eq!(sequences(&session.messages("lobby", 3).await), [1, 2, 3]);
        command(commander, &id, 4, vec![credit("lobby"), credit("nowhere")]).await.unwrap();
        let (kind, _, error) = session.rejected("nowhere").await;
        assert_eq!(kind, ConsumeCommand::Credit);
        assert_status::<()>(Err(error), Code::FailedPrecondition, "SUBSCRIPTION_NOT_OPEN");
        // every earlier frame is read: the one message of the fourth call, and no more
        assert_eq!(sequences(&session.messages("lobby", 1).await), [4]);
        assert!(timeout(Duration::from_millis(300), session.messages("lobby", 1)).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_belongs_to_its_caller_and_ends_with_its_call() {
    // Goal: nobody else gives commands, and a session that is gone is told apart. Method: another caller, an administrator,
    // ids that no session has, an ended call, and an instance that was killed; through both instances.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = (issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await);
    let ann = issuer.client(&first, "ann").await;
    create_room(&ann, "lobby").await;
    let session = Consuming::session(&ann, &ann).await;
    let id = session.session_id().to_owned();
    for service in [&first, &second] {
        for other in ["bob", "root"] {
            let refused = command(&issuer.client(service, other).await, &id, 0, vec![opening("lobby")]).await;
            assert_status(refused, Code::NotFound, "SESSION_NOT_FOUND");
        }
        let ann = issuer.client(service, "ann").await;
        let instance = id.split('-').next().unwrap();
        for unknown in [UNKNOWN, &format!("{instance}-{}", "0".repeat(32))] {
            let refused = command(&ann, unknown, 0, vec![opening("lobby")]).await;
            assert_status(refused, Code::NotFound, "SESSION_NOT_FOUND");
        }
        for wrong in ["", "x", "*-*", &id[1..], &format!("{id}0"), &UNKNOWN.replace('0', ">")] {
            let refused = command(&ann, wrong, 0, vec![opening("lobby")]).await;
            assert_eq!(fields(&assert_status(refused, Code::InvalidArgument, "INVALID_FIELD")), ["session_id"]);
        }
        command(&ann, &id, 0, vec![credit("lobby")]).await.unwrap();
    }
    drop(session);
    for service in [&first, &second] {
        let ann = issuer.client(service, "ann").await;
        eventually(SOON, async || match command(&ann, &id, 0, vec![credit("lobby")]).await {
            Ok(()) => Err(String::from("the session is still there")),
            Err(error) => {
                assert_status::<()>(Err(error), Code::NotFound, "SESSION_NOT_FOUND");
                Ok(())
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_of_a_killed_instance_is_not_found() {
    // Goal: a client learns at once that it must open a new session. Method: SIGKILL of the instance that holds it, then a
    // command through another one.
    let nats = Nats::start().await;
    let mut holder = Process::start(&nats).await;
    let other = Unibus::start(&nats).await;
    let (client, commander) = (holder.client().await, other.client().await);
    let session = Consuming::session(&client, &commander).await;
    let id = session.session_id().to_owned();
    command(&commander, &id, 1, vec![credit("lobby")]).await.unwrap();
    holder.kill9();
    let refused = command(&commander, &id, 2, vec![credit("lobby")]).await;
    assert_status(refused, Code::NotFound, "SESSION_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_a_wrong_command_takes_none() {
    // Goal: a refused call changes nothing, and says which command is wrong. Method: a right command before each kind of
    // wrong one, in both calls; the session has then got nothing.
    let nats = Nats::start().await;
    let service = Unibus::start(&nats).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let session = Consuming::session(&client, &client).await;
    let id = session.session_id();
    let too_many = vec![credit("lobby"); 257];
    let wrong = [
        (vec![opening("lobby"), ConsumeRequest { command: None }], "commands[1].command"),
        (vec![opening("lobby"), opening("two words")], "commands[1].open.subscribe.room_id"),
        (vec![opening("lobby"), credit("lobby"), credit("")], "commands[2].credit.room_id"),
        (too_many, "commands"),
    ];
    for (commands, field) in wrong {
        let refused = command(&client, id, 0, commands.clone()).await;
        assert_eq!(fields(&assert_status(refused, Code::InvalidArgument, "INVALID_FIELD")), [field]);
        let refused = client.clone().open_session(OpenSessionRequest { commands }).await;
        assert_eq!(fields(&assert_status(refused, Code::InvalidArgument, "INVALID_FIELD")), [field]);
    }
    let refused = command(&client, id, 0, Vec::new()).await;
    assert_eq!(fields(&assert_status(refused, Code::InvalidArgument, "INVALID_FIELD")), ["commands"]);
    let mut session = session;
    session.open(subscription("lobby", "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_a_client_that_reads_nothing_are_refused_and_can_be_repeated() {
    // Goal: a session holds a bounded number of commands. Method: nobody reads the frames of the session, and each command
    // is answered by one; after a while a call is refused, through both instances. When the frames are read, the same call
    // is taken.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    let mut session = Consuming::session(&client, &client).await;
    let id = session.session_id().to_owned();
    let many = vec![credit("nowhere"); 256];
    let mut number = 0;
    let refused = loop {
        number += 1;
        assert!(number < 1000, "commands are taken without end");
        if let Err(error) = command(&client, &id, number, many.clone()).await {
            break error;
        }
    };
    assert_status::<()>(Err(refused), Code::ResourceExhausted, "RATE_LIMITED");
    let refused = command(&other, &id, number, many.clone()).await;
    assert_status(refused, Code::ResourceExhausted, "RATE_LIMITED");
    let reading = async {
        for _ in 0..number * 256 {
            session.rejected("nowhere").await;
        }
    };
    let again = eventually(SOON, async || {
        command(&other, &id, number, many.clone()).await.map_err(|status| status.to_string())
    });
    tokio::join!(reading, again);
}
