//! Who may call what: every caller by every call.

use serde_json::json;
use tonic::Code;
use unibus::{
    Config,
    v1::{CreateRoomRequest, Role},
};

use crate::support::{
    Client, Credentials, Frames, Issuer, Nats,
    calls::{CALLERS, Call, calls},
    connect_with, create_room,
    membership::{add, remove},
    publish, seconds_from_now,
};

/// What comes of making a room with a subject that the caller chooses, by caller.
const CHOSEN_SUBJECT: [bool; 6] = [false, false, false, false, false, true];

/// The least role with which the table allows a call: of the first caller that is not refused.
pub(crate) fn least_role(rpc: &str) -> &'static str {
    let call = calls().iter().find(|call| call.rpc == rpc).expect("a row for each call");
    match call
        .allowed
        .iter()
        .zip(CALLERS)
        .find(|(code, _)| **code != Code::PermissionDenied)
        .expect("somebody may call")
        .1
    {
        "stranger" => "none",
        role => role,
    }
}

/// Makes the call in this room as this caller, and gives the code that it ends with.
async fn ask(client: &Client, call: &Call, room: &str, me: &str) -> Code {
    // nobody owns the room that is to be made
    let room = if call.makes_room() { format!("{room}-of-{me}") } else { room.to_owned() };
    call.make(client, &room, me).await.map_or_else(|status| status.code(), |()| Code::Ok)
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
        config.auth.admins = vec![String::from("root")];
        // each cell has a room of its own
        config.rooms.limits.rooms = Some(0);
    };
    let unibus = issuer.guard(&nats, configure).await;
    let owner = issuer.client(&unibus, "owner").await;
    let mut wrong = Vec::new();
    for call in calls() {
        let rpc = call.rpc;
        for (me, expected) in CALLERS.iter().zip(&call.allowed) {
            let room = format!("{rpc}-by-{me}");
            furnished(&owner, &room).await;
            let found = ask(&issuer.client(&unibus, me).await, call, &room, me).await;
            if found != *expected {
                wrong.push(format!("{rpc} by {me}: {found:?} and not {expected:?}"));
            }
        }
        for (who, credentials) in unverified(&issuer) {
            let client = connect_with(unibus.address(), credentials).await;
            let found = ask(&client, call, &format!("{rpc}-by-reader"), "owner").await;
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
        config.auth.admins = vec![String::from("root")];
        config.rooms.limits.rooms = Some(0);
    };
    let unibus = issuer.guard(&nats, configure).await;
    let owner = issuer.client(&unibus, "owner").await;
    let bystander = issuer.client(&unibus, "bystander").await;
    let mut wrong = Vec::new();
    for call in calls() {
        let rpc = call.rpc;
        for (me, expected) in CALLERS.iter().zip(call.allowed_with_anothers.iter().flatten()) {
            let room = format!("{rpc}-by-{me}");
            furnished(&owner, &room).await;
            drop(Frames::durable(&bystander, &room, "bystander").await);
            let found = ask(&issuer.client(&unibus, me).await, call, &room, "bystander").await;
            if found != *expected {
                wrong.push(format!("{rpc} by {me}: {found:?} and not {expected:?}"));
            }
        }
    }
    for (me, is_allowed) in CALLERS.iter().zip(CHOSEN_SUBJECT) {
        let mut client = issuer.client(&unibus, me).await;
        let (room_id, subject) = (format!("chosen-by-{me}"), format!("chosen.by.{me}"));
        let found =
            client.create_room(CreateRoomRequest { room_id, subject, persist: true, ..Default::default() }).await;
        let found = found.map_or_else(|status| status.code(), |_| Code::Ok);
        if found != if is_allowed { Code::Ok } else { Code::PermissionDenied } {
            wrong.push(format!("CreateRoom with a subject by {me}: {found:?}"));
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
    let unibus = issuer.guard(&nats, |config| config.auth.admins = vec![String::from("root")]).await;
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
