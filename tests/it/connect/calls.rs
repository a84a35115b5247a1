//! Every unary RPC in JSON: what succeeds, what fails, and how a failure looks.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::{Value, json};
use unibus::v1::{self, GetRoomRequest, GetRoomResponse};

use crate::support::{
    Issuer, Lobby, Nats,
    connect::{Connect, base64, sent},
    create_room, history, publish,
};

/// Calls in an order in which each succeeds: method, request, and a place in the answer with what is there.
fn successes() -> Vec<(&'static str, Value, &'static str, Value)> {
    let room = json!({ "roomId": "lobby" });
    let subscriber = json!({ "roomId": "lobby", "subscriber": "laptop" });
    vec![
        ("CreateRoom", json!({ "roomId": "lobby", "persist": true }), "/room/roomId", json!("lobby")),
        ("Publish", json!({ "roomId": "lobby", "payload": base64("one") }), "/sequence", json!("1")),
        (
            "PublishBatch",
            json!({ "roomId": "lobby", "messages": [{ "payload": base64("two"), "headers": { "a": "b" } }, {}] }),
            "/results/1/result/sequence",
            json!("3"),
        ),
        ("GetRoom", room.clone(), "/room/state/messages", json!("3")),
        ("ListRooms", json!({}), "/rooms/0/roomId", json!("lobby")),
        (
            "UpdateRoom",
            json!({ "room": { "roomId": "lobby", "labels": { "k": "v" } }, "updateMask": "labels" }),
            "/room/labels/k",
            json!("v"),
        ),
        ("History", json!({ "roomId": "lobby", "limit": 2 }), "/messages/0/payload", json!(base64("two"))),
        (
            "AddMember",
            json!({ "roomId": "lobby", "memberId": "bob", "role": "ROLE_WRITER" }),
            "/member/role",
            json!("ROLE_WRITER"),
        ),
        ("ListMembers", room.clone(), "/members/0/memberId", json!("bob")),
        ("RemoveMember", json!({ "roomId": "lobby", "memberId": "bob" }), "", json!({})),
        ("ListSubscribers", room.clone(), "/subscribers/0/subscriber", json!("laptop")),
        ("Acknowledge", json!({ "roomId": "lobby", "subscriber": "laptop", "sequence": 2 }), "/position", json!("2")),
        (
            "SeekSubscriber",
            json!({ "roomId": "lobby", "subscriber": "laptop", "position": { "afterSequence": "1" } }),
            "/position",
            json!("1"),
        ),
        ("DeleteSubscriber", subscriber, "", json!({})),
        ("DeleteMessage", json!({ "roomId": "lobby", "sequence": "2" }), "", json!({})),
        ("PurgeRoom", room.clone(), "/purged", json!("2")),
        ("DeleteRoom", room, "", json!({})),
    ]
}

/// The unary methods of the contract.
fn unary_methods() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let methods = set.file.into_iter().flat_map(|file| file.service).flat_map(|service| service.method);
    let unary = methods.filter(|method| !method.client_streaming() && !method.server_streaming());
    unary.map(|method| method.name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unary_call_succeeds_in_json() {
    // Goal: a program that has JSON and HTTP can make every call. Method: each unary RPC of the contract, in an order in which
    // each succeeds; a value of each answer is compared.
    let (lobby, _client) = Lobby::without_room().await;
    let http = Connect::to(lobby.unibus.address());
    let mut called = BTreeSet::new();
    for (method, request, place, expected) in successes() {
        if method == "ListSubscribers" {
            let laptop = json!({ "roomId": "lobby", "subscriber": "laptop", "untilCaughtUp": true });
            http.stream("Subscribe", &laptop).await.frame("caughtUp").await;
            let mut session = http.stream("OpenSession", &json!({})).await;
            let id = session.frame("session").await["id"].clone();
            let open = json!({ "open": { "subscribe": { "roomId": "lobby" } } });
            let command = json!({ "sessionId": id, "number": "1", "commands": [open] });
            assert_eq!(http.call("SessionCommand", &command).await.unwrap(), json!({}));
            let opened = session.frame("consume").await;
            assert_eq!(opened["opened"]["lastSequence"], "3", "{opened}");
            called.insert("SessionCommand".to_owned());
        }
        let answer = http.call(method, &request).await.unwrap_or_else(|failure| panic!("{method}: {failure:?}"));
        assert_eq!(answer.pointer(place), Some(&expected), "{method}: {answer}");
        called.insert(method.to_owned());
    }
    assert_eq!(called, unary_methods());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unary_call_fails_with_code_reason_and_details() {
    // Goal: an error in JSON says what an error of gRPC says. Method: each unary RPC on a room that does not exist, or with a
    // wrong field; HTTP status, code, reason and the wrong field are compared.
    let (lobby, _client) = Lobby::without_room().await;
    let http = Connect::to(lobby.unibus.address());
    let missing = (404, "not_found", "ROOM_NOT_FOUND");
    let wrong = (400, "invalid_argument", "INVALID_FIELD");
    for method in unary_methods() {
        let (request, expected) = match &*method {
            "CreateRoom" => (json!({ "roomId": "a\u{7}" }), wrong),
            "ListRooms" => (json!({ "pageSize": -1 }), wrong),
            "SessionCommand" => (json!({ "sessionId": "x", "commands": [{}] }), wrong),
            "UpdateRoom" => (json!({ "room": { "roomId": "nowhere", "labels": { "a": "b" } } }), missing),
            "PublishBatch" => (json!({ "roomId": "nowhere", "messages": [{}] }), missing),
            "SeekSubscriber" => (json!({ "roomId": "nowhere", "subscriber": "a", "position": { "all": {} } }), missing),
            _ => {
                (json!({ "roomId": "nowhere", "subscriber": "a", "memberId": "a", "role": 1, "sequence": 1 }), missing)
            }
        };
        let failure = http.call(&method, &request).await.expect_err(&method);
        assert_eq!(failure.brief(), expected, "{method}: {failure:?}");
        if expected == wrong {
            let field = match &*method {
                "CreateRoom" => "room_id",
                "SessionCommand" => "session_id",
                _ => "page_size",
            };
            assert_eq!(failure.detail("google.rpc.BadRequest")["fieldViolations"][0]["field"], field, "{method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_form_is_that_of_protobuf() {
    // Goal: clients with generated messages need no JSON. Method: a call with `application/proto`, one that fails, and a body
    // without a length; the answer is the message, an error is JSON all the same.
    let (lobby, client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    let request = GetRoomRequest { room_id: "lobby".into() }.encode_to_vec();
    let answer = sent(http.post("GetRoom", "application/proto", request)).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/proto".parse().unwrap())
    );
    let room = GetRoomResponse::decode(answer.bytes().await.unwrap()).unwrap().room.unwrap();
    assert_eq!(room.room_id, "lobby");
    let request = GetRoomRequest { room_id: "nowhere".into() }.encode_to_vec();
    let answer = sent(http.post("GetRoom", "application/proto", request)).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (404, &"application/json".parse().unwrap())
    );
    let payload = vec![0_u8, 255, 7];
    publish(&client, "lobby", payload.clone()).await.unwrap();
    let page = http.call("History", &json!({ "roomId": "lobby" })).await.unwrap();
    assert_eq!(page["messages"][0]["payload"], base64(&payload));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_and_pages_pass() {
    // Goal: JSON carries what gRPC carries. Method: a payload of 900 KiB, with both alphabets of base64; a batch of many
    // messages; a page that holds them; one payload that is too large is refused by its field.
    let (lobby, client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    let payload: Vec<u8> = (0..=255).cycle().take(900 * 1024).collect();
    let standard = base64(&payload);
    let url = standard.replace('+', "-").replace('/', "_");
    for text in [&standard, &url] {
        http.call("Publish", &json!({ "roomId": "lobby", "payload": text })).await.unwrap();
    }
    let messages: Vec<_> =
        (0..1000).map(|_| json!({ "payload": base64([7; 1000]), "headers": { "a": "b" } })).collect();
    let batch = json!({ "roomId": "lobby", "messages": messages });
    let stored = http.call("PublishBatch", &batch).await.unwrap();
    assert_eq!(stored["results"].as_array().unwrap().len(), 1000);
    let page = http.call("History", &json!({ "roomId": "lobby", "limit": 1000 })).await.unwrap();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1000);
    let stored = history(&client, "lobby", 1000).await;
    assert_eq!(stored.last_sequence, 1002);
    let page = http.call("History", &json!({ "roomId": "lobby", "limit": 2, "beforeSequence": 3 })).await.unwrap();
    assert_eq!(page["messages"][1]["payload"], standard);
    let large = json!({ "roomId": "lobby", "payload": base64(vec![0; 1024 * 1024 + 1]) });
    let failure = http.call("Publish", &large).await.unwrap_err();
    assert_eq!(failure.brief(), (400, "invalid_argument", "PAYLOAD_TOO_LARGE"));
    assert_eq!(failure.detail("google.rpc.BadRequest")["fieldViolations"][0]["field"], "payload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_needs_the_same_rights_as_over_grpc() {
    // Goal: JSON is no way around. Method: calls without a token, with a wrong one, of a caller that is not a member; of the
    // owner. A refusal asks for a token as HTTP wants it, and is counted as a call of its method.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |_| {}).await;
    create_room(&issuer.client(&unibus, "ann").await, "lobby").await;
    let http = Connect::to(unibus.address());
    let room = json!({ "roomId": "lobby" });
    let failure = http.call("GetRoom", &room).await.unwrap_err();
    assert_eq!(failure.brief(), (401, "unauthenticated", "UNAUTHENTICATED"));
    let refused = sent(http.post("GetRoom", "application/json", "{}")).await;
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    assert!(refused.headers().contains_key("x-request-id"));
    let failure = http.with_token("x").call("GetRoom", &room).await.unwrap_err();
    assert_eq!(failure.brief(), (401, "unauthenticated", "UNAUTHENTICATED"));
    let eve = http.with_token(&issuer.token("eve"));
    let failure = eve.call("GetRoom", &room).await.unwrap_err();
    assert_eq!(failure.brief(), (403, "permission_denied", "PERMISSION_DENIED"));
    let failure = eve.stream("Subscribe", &room).await.failure().await;
    assert_eq!(failure.brief(), (200, "permission_denied", "PERMISSION_DENIED"));
    let mut without = http.stream("Subscribe", &room).await;
    assert_eq!(without.failure().await.brief(), (200, "unauthenticated", "UNAUTHENTICATED"));
    // the token comes first, whatever else is wrong
    let failure = http.call("Nothing", &room).await.unwrap_err();
    assert_eq!(failure.brief(), (401, "unauthenticated", "UNAUTHENTICATED"));
    let ann = http.with_token(&issuer.token("ann"));
    assert_eq!(ann.call("GetRoom", &room).await.unwrap()["room"]["roomId"], "lobby");
    let metrics = reqwest::get(format!("http://{}/metrics", unibus.server().admin_addr())).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let counted = |code: &str| {
        let of_call = |line: &&str| {
            line.starts_with("grpc_server_handled_total")
                && line.contains("grpc_method=\"GetRoom\"")
                && line.contains(&format!("grpc_code=\"{code}\""))
        };
        metrics.lines().find(of_call).map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    assert_eq!(counted("Unauthenticated").as_deref(), Some("3"), "{metrics}");
    assert_eq!(counted("PermissionDenied").as_deref(), Some("1"));
    assert_eq!(counted("OK").as_deref(), Some("1"));
}
