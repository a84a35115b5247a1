//! Who may call what: every caller by every call.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::json;
use tonic::{Code, Status};
use unibus::Config;
use unibus::v1::{
    self, AcknowledgeRequest, AddMemberRequest, ConsumeOpen, ConsumeRequest, CreateRoomRequest, DeleteMessageRequest,
    DeleteRoomRequest, DeleteSubscriberRequest, GetRoomRequest, HistoryRequest, ListMembersRequest, ListRoomsRequest,
    ListSubscribersRequest, PublishStreamRequest, PurgeRoomRequest, RemoveMemberRequest, Role, Room,
    SeekSubscriberRequest, Start, UpdateRoomRequest, consume_request, consume_response, publish_stream_response,
    start::At,
};

use crate::support::{
    Client, Credentials, Frames, Issuer, Nats, connect_with, create_room,
    membership::{add, remove},
    publish,
    publishing::{batch, plain},
    seconds_from_now, subscription,
};

const OK: Code = Code::Ok;
const NO: Code = Code::PermissionDenied;
const MISSING: Code = Code::NotFound;

/// Who is known, in the order of the columns.
const CALLERS: [&str; 6] = ["stranger", "removed", "reader", "writer", "owner", "root"];
/// What comes of each call, by caller. Calls about a durable subscriber name one of the caller's own that there is not.
const TABLE: &[(&str, [Code; 6])] = &[
    ("CreateRoom", [OK, OK, OK, OK, OK, OK]),
    ("GetRoom", [NO, NO, OK, OK, OK, OK]),
    ("ListRooms", [OK, OK, OK, OK, OK, OK]),
    ("UpdateRoom", [NO, NO, NO, NO, OK, OK]),
    ("DeleteRoom", [NO, NO, NO, NO, OK, OK]),
    ("PurgeRoom", [NO, NO, NO, NO, OK, OK]),
    ("Publish", [NO, NO, NO, OK, OK, OK]),
    ("PublishBatch", [NO, NO, NO, OK, OK, OK]),
    ("PublishStream", [NO, NO, NO, OK, OK, OK]),
    ("Subscribe", [NO, NO, OK, OK, OK, OK]),
    ("Acknowledge", [NO, NO, MISSING, MISSING, MISSING, MISSING]),
    ("Consume", [NO, NO, OK, OK, OK, OK]),
    ("History", [NO, NO, OK, OK, OK, OK]),
    ("DeleteMessage", [NO, NO, NO, NO, OK, OK]),
    ("AddMember", [NO, NO, NO, NO, OK, OK]),
    ("RemoveMember", [NO, NO, NO, NO, OK, OK]),
    ("ListMembers", [NO, NO, OK, OK, OK, OK]),
    ("ListSubscribers", [NO, NO, OK, OK, OK, OK]),
    ("DeleteSubscriber", [NO, NO, MISSING, MISSING, MISSING, MISSING]),
    ("SeekSubscriber", [NO, NO, MISSING, MISSING, MISSING, MISSING]),
];
/// The same, of calls about a durable subscriber that another endpoint has bound.
const OTHERS_SUBSCRIBERS: &[(&str, [Code; 6])] = &[
    ("Subscribe", [NO, NO, NO, NO, NO, NO]),
    ("Acknowledge", [NO, NO, NO, NO, NO, NO]),
    ("Consume", [NO, NO, NO, NO, NO, NO]),
    ("DeleteSubscriber", [NO, NO, NO, NO, OK, OK]),
    ("SeekSubscriber", [NO, NO, NO, NO, OK, OK]),
];
/// The same, of a room with a subject that the caller chooses.
const CHOSEN_SUBJECT: [Code; 6] = [NO, NO, NO, NO, NO, OK];

/// The least role with which the table allows a call: of the first caller that is not refused.
pub(crate) fn least_role(rpc: &str) -> &'static str {
    let (_, row) = TABLE.iter().find(|(name, _)| *name == rpc).expect("a row for each call");
    match row.iter().zip(CALLERS).find(|(code, _)| **code != NO).expect("somebody may call").1 {
        "stranger" => "none",
        role => role,
    }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| OK)
}

/// Makes the call in this room as this caller, and gives the code that it ends with, also of what ends within a stream.
async fn ask(client: &Client, rpc: &str, room: &str, me: &str) -> Code {
    let mut client = client.clone();
    let (room_id, subscriber) = (room.to_owned(), me.to_owned());
    match rpc {
        "CreateRoom" => {
            let room_id = format!("{room}-of-{me}");
            code(client.create_room(CreateRoomRequest { room_id, persist: true, ..Default::default() }).await)
        }
        "GetRoom" => code(client.get_room(GetRoomRequest { room_id }).await),
        "ListRooms" => code(client.list_rooms(ListRoomsRequest::default()).await),
        "UpdateRoom" => {
            let room = Room { room_id, labels: [(String::from("a"), String::from("b"))].into(), ..Room::default() };
            code(client.update_room(UpdateRoomRequest { room: Some(room), update_mask: None }).await)
        }
        "DeleteRoom" => code(client.delete_room(DeleteRoomRequest { room_id }).await),
        "PurgeRoom" => code(client.purge_room(PurgeRoomRequest { room_id, up_to_sequence: None }).await),
        "Publish" => code(client.publish(plain(room, "x")).await),
        "PublishBatch" => code(client.publish_batch(batch(vec![plain(room, "x")], false)).await),
        "PublishStream" => {
            let request = PublishStreamRequest { correlation_id: 1, publish: Some(plain(room, "x")) };
            let mut responses = match client.publish_stream(tokio_stream::iter([request])).await {
                Ok(responses) => responses.into_inner(),
                Err(status) => return status.code(),
            };
            match responses.message().await {
                Ok(response) => match response.and_then(|response| response.outcome).expect("an outcome") {
                    publish_stream_response::Outcome::Result(_) => OK,
                    publish_stream_response::Outcome::Error(error) => Code::from(error.code),
                },
                Err(status) => status.code(),
            }
        }
        "Subscribe" => code(Frames::open(&client, subscription(room, me)).await),
        "Acknowledge" => code(client.acknowledge(AcknowledgeRequest { room_id, subscriber, sequence: 1 }).await),
        "Consume" => {
            let open = ConsumeOpen { subscribe: Some(subscription(room, me)), ..ConsumeOpen::default() };
            let request = ConsumeRequest { command: Some(consume_request::Command::Open(open)) };
            let commands = tokio_stream::StreamExt::chain(tokio_stream::iter([request]), tokio_stream::pending());
            let mut frames = match client.consume(commands).await {
                Ok(frames) => frames.into_inner(),
                Err(status) => return status.code(),
            };
            match frames.message().await {
                Ok(response) => match response.and_then(|response| response.frame).expect("a frame") {
                    consume_response::Frame::Closed(status) => Code::from(status.code),
                    _ => OK,
                },
                Err(status) => status.code(),
            }
        }
        "History" => code(client.history(HistoryRequest { room_id, ..Default::default() }).await),
        "DeleteMessage" => code(client.delete_message(DeleteMessageRequest { room_id, sequence: 1 }).await),
        "AddMember" => {
            let role = Role::Writer.into();
            code(client.add_member(AddMemberRequest { room_id, member_id: "new".into(), role, visible_from: 0 }).await)
        }
        "RemoveMember" => {
            code(client.remove_member(RemoveMemberRequest { room_id, member_id: "bystander".into() }).await)
        }
        "ListMembers" => code(client.list_members(ListMembersRequest { room_id, ..Default::default() }).await),
        "ListSubscribers" => {
            code(client.list_subscribers(ListSubscribersRequest { room_id, ..Default::default() }).await)
        }
        "DeleteSubscriber" => code(client.delete_subscriber(DeleteSubscriberRequest { room_id, subscriber }).await),
        "SeekSubscriber" => {
            let position = Some(Start { at: Some(At::All(())) });
            code(client.seek_subscriber(SeekSubscriberRequest { room_id, subscriber, position }).await)
        }
        new => panic!("{new} has no row: say here how it is called, and in the table who may"),
    }
}

/// A room of its own for a cell, with one message.
async fn furnished(owner: &Client, room: &str) {
    create_room(owner, room).await;
    publish(owner, room, "x").await.unwrap();
    for (id, role) in
        [("reader", Role::Reader), ("writer", Role::Writer), ("removed", Role::Owner), ("bystander", Role::Reader)]
    {
        add(owner, room, id, role).await.unwrap();
    }
    remove(owner, room, "removed").await.unwrap();
}

fn rpcs() -> BTreeSet<String> {
    let descriptors = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let services = descriptors.file.into_iter().flat_map(|file| file.service);
    services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect()
}

/// Callers whose credentials are no good.
fn unverified(issuer: &Issuer) -> Vec<(&'static str, Credentials)> {
    let token = issuer.token("owner");
    let forged = {
        let other = issuer.token("stranger");
        let parts: Vec<_> = token.split('.').collect();
        let signature = other.rsplit('.').next().expect("a signature");
        format!("{}.{}.{signature}", parts[0], parts[1])
    };
    let expired = issuer.sign(&json!({ "sub": "owner", "exp": seconds_from_now(-3600) }));
    vec![
        ("nobody", Credentials::default()),
        ("expired", Credentials::bearer(&expired)),
        ("forged", Credentials::bearer(&forged)),
        ("wrong key", Credentials::bearer(&Issuer::new().token("owner"))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_may_call_what_the_table_says_and_nothing_else() {
    // Goal: no call forgets to ask who calls. Method: every RPC of the contract's descriptor by every kind of caller, each in
    // a room of its own.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let configure = |config: &mut Config| {
        config.auth_admins = vec![String::from("root")];
        // each cell has a room of its own
        config.limit_rooms = Some(0);
    };
    let unibus = issuer.guard(&nats, configure).await;
    let rows: BTreeSet<_> = TABLE.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(rows, rpcs(), "a row for each call");
    let owner = issuer.client(&unibus, "owner").await;
    let mut wrong = Vec::new();
    for (rpc, expected) in TABLE {
        for (me, expected) in CALLERS.iter().zip(expected) {
            let room = format!("{rpc}-by-{me}");
            furnished(&owner, &room).await;
            let found = ask(&issuer.client(&unibus, me).await, rpc, &room, me).await;
            if found != *expected {
                wrong.push(format!("{rpc} by {me}: {found:?} and not {expected:?}"));
            }
        }
        for (who, credentials) in unverified(&issuer) {
            let client = connect_with(unibus.address(), credentials).await;
            let found = ask(&client, rpc, &format!("{rpc}-by-reader"), "owner").await;
            if found != Code::Unauthenticated {
                wrong.push(format!("{rpc} by {who}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_another_endpoint_is_for_whom_the_table_says() {
    // Goal: a role in a room gives no right over another's subscriber but where the table says so, and no room is made for the
    // subject of others. Method: every call about a durable subscriber that a member has bound, and CreateRoom with a subject, by
    // every kind of caller.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let configure = |config: &mut Config| {
        config.auth_admins = vec![String::from("root")];
        config.limit_rooms = Some(0);
    };
    let unibus = issuer.guard(&nats, configure).await;
    let owner = issuer.client(&unibus, "owner").await;
    let bystander = issuer.client(&unibus, "bystander").await;
    let mut wrong = Vec::new();
    for (rpc, expected) in OTHERS_SUBSCRIBERS {
        for (me, expected) in CALLERS.iter().zip(expected) {
            let room = format!("{rpc}-by-{me}");
            furnished(&owner, &room).await;
            drop(Frames::durable(&bystander, &room, "bystander").await);
            let found = ask(&issuer.client(&unibus, me).await, rpc, &room, "bystander").await;
            if found != *expected {
                wrong.push(format!("{rpc} by {me}: {found:?} and not {expected:?}"));
            }
        }
    }
    for (me, expected) in CALLERS.iter().zip(CHOSEN_SUBJECT) {
        let mut client = issuer.client(&unibus, me).await;
        let (room_id, subject) = (format!("chosen-by-{me}"), format!("chosen.by.{me}"));
        let found =
            client.create_room(CreateRoomRequest { room_id, subject, persist: true, ..Default::default() }).await;
        if code(found) != expected {
            wrong.push(format!("CreateRoom with a subject by {me}: not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_endpoint_asks_the_same_of_its_callers() {
    // Goal: there is no side door. Method: the history over HTTP by every kind of caller; a room that there is not comes
    // before what the caller may, and after who it is.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth_admins = vec![String::from("root")]).await;
    let owner = issuer.client(&unibus, "owner").await;
    furnished(&owner, "lobby").await;
    let get = async |path: &str, token: Option<String>| {
        let request = reqwest::Client::new().get(format!("http://{}{path}", unibus.address()));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    for (me, expected) in CALLERS.iter().zip([403, 403, 200, 200, 200, 200]) {
        assert_eq!(get("/rooms/lobby/history", Some(issuer.token(me))).await, expected, "{me}");
        assert_eq!(get("/rooms/nowhere/history", Some(issuer.token(me))).await, 404, "{me}");
    }
    let expired = issuer.sign(&json!({ "sub": "owner", "exp": seconds_from_now(-3600) }));
    for token in [None, Some(expired), Some(Issuer::new().token("owner"))] {
        assert_eq!(get("/rooms/lobby/history", token.clone()).await, 401);
        assert_eq!(get("/rooms/nowhere/history", token).await, 401);
    }
    unibus.shutdown().await.unwrap();
}
