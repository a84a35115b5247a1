//! Membership: who is a member of a room, as what, and how that changes.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::{join, join_all};
use tonic::Code;
use unibus::v1::{
    AddMemberRequest, CreateRoomRequest, DeleteRoomRequest, GetRoomRequest, ListMembersRequest, RemoveMemberRequest,
    Role,
};

use crate::support::{
    Issuer, Lobby, Nats, NatsOptions, Unibus, assert_field, assert_status, create_ephemeral, create_room, eventually,
    history, list_rooms,
    membership::{add, member_page, remove, roles},
    persisted, publish,
};

/// Within this, what one instance did is enforced by the others.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_creator_owns_the_room_and_what_it_says_of_others_holds_at_once() {
    // Goal: the answer to a change means that it is in force. Method: members are added, changed and removed, each followed
    // at once by a call of the member on the same instance; who is no owner changes nothing, but may leave.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let (ann, bob) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await);
    assert_eq!(create_room(&ann, "lobby").await.creator, "ann");
    assert_eq!(roles(&ann, "lobby").await, [(String::from("ann"), Role::Owner)]);
    for _ in 0..10 {
        assert_status(publish(&bob, "lobby", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
        let member = add(&ann, "lobby", "bob", Role::Unspecified).await.unwrap();
        assert_eq!((member.member_id.as_str(), member.role()), ("bob", Role::Reader));
        history(&bob, "lobby", 1).await;
        assert_status(publish(&bob, "lobby", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
        add(&ann, "lobby", "bob", Role::Writer).await.unwrap();
        publish(&bob, "lobby", "x").await.unwrap();
        assert_status(add(&bob, "lobby", "eve", Role::Reader).await, Code::PermissionDenied, "PERMISSION_DENIED");
        assert_status(remove(&bob, "lobby", "ann").await, Code::PermissionDenied, "PERMISSION_DENIED");
        remove(&ann, "lobby", "bob").await.unwrap();
        let removed = remove(&ann, "lobby", "bob").await;
        assert_status(removed, Code::NotFound, "MEMBER_NOT_FOUND");
    }
    add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
    remove(&bob, "lobby", "bob").await.unwrap();
    assert_eq!(roles(&ann, "lobby").await.len(), 1);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_refused_by_field() {
    // Goal: what is wrong is named, and nothing is done. Method: each field wrong by itself, and all together.
    let (lobby, mut client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    let good = AddMemberRequest { room_id: "lobby".into(), member_id: "ann".into(), role: 1, visible_from: 0 };
    let long = "x".repeat(127);
    for (field, wrong) in [
        ("room_id", AddMemberRequest { room_id: String::new(), ..good.clone() }),
        ("member_id", AddMemberRequest { member_id: String::new(), ..good.clone() }),
        ("member_id", AddMemberRequest { member_id: "a b".into(), ..good.clone() }),
        ("member_id", AddMemberRequest { member_id: long.clone(), ..good.clone() }),
        ("role", AddMemberRequest { role: 9, ..good.clone() }),
        ("visible_from", AddMemberRequest { role: Role::Owner.into(), visible_from: 1, ..good.clone() }),
    ] {
        assert_field(client.add_member(wrong).await, field, field);
    }
    let hidden = AddMemberRequest { visible_from: 2, ..good.clone() };
    assert_status(client.add_member(hidden.clone()).await, Code::OutOfRange, "POSITION_AFTER_END");
    let live = AddMemberRequest { room_id: "live".into(), ..hidden };
    assert_status(client.add_member(live).await, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    let nowhere = AddMemberRequest { room_id: "nowhere".into(), ..good };
    assert_status(client.add_member(nowhere).await, Code::NotFound, "ROOM_NOT_FOUND");
    for (field, room_id, member_id) in
        [("room_id", "", "ann"), ("member_id", "lobby", ""), ("member_id", "lobby", &long)]
    {
        let wrong = RemoveMemberRequest { room_id: room_id.into(), member_id: member_id.into() };
        assert_field(client.remove_member(wrong).await, field, field);
    }
    for (field, room_id, page_size, page_token) in
        [("room_id", "", 0, ""), ("page_size", "lobby", -1, ""), ("page_token", "lobby", 0, "no token")]
    {
        let wrong = ListMembersRequest { room_id: room_id.into(), page_size, page_token: page_token.into() };
        assert_field(client.list_members(wrong).await, field, field);
    }
    assert_eq!(roles(&client, "lobby").await, []);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_id_can_be_a_member_and_pages_list_each_once_also_after_restarts() {
    // Goal: ids need no care, and members outlive everything. Method: ids that mean something to NATS, to base64 or to the
    // service, and the longest; pages of several sizes; then NATS is killed and another instance started.
    let (mut lobby, client) = Lobby::without_room().await;
    create_room(&client, "a-b").await;
    let longest = "\u{1d54f}".repeat(126);
    let odd = [
        "ann",
        "Ann",
        "ann.bob",
        "ann.*",
        "*",
        ">",
        "=owners",
        "owners",
        "a/b",
        "a//b",
        "/",
        "..",
        ".",
        "$KV",
        "@",
        "\u{fc}",
        "\u{1f600}",
        "\"quoted\"",
        "{}",
        "\\",
        "%2E",
        "a=b",
        "-",
        "_",
        "a_b",
        "a-b",
        &longest,
    ];
    let mut expected = BTreeMap::new();
    for (index, id) in odd.iter().enumerate() {
        let role = [Role::Reader, Role::Writer, Role::Owner][index % 3];
        add(&client, "a-b", id, role).await.unwrap_or_else(|status| panic!("{id}: {status}"));
        expected.insert((*id).to_owned(), role);
    }
    let expected: Vec<_> = expected.into_iter().collect();
    for size in [1, 7, 26, 27, 1000] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = member_page(&client, "a-b", size, &token).await.unwrap();
            assert!(page.members.len() <= usize::try_from(size).unwrap());
            found.extend(page.members.into_iter().map(|member| (member.member_id.clone(), member.role())));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {size}");
    }
    lobby.nats.restart().await;
    let second = Unibus::start(&lobby.nats).await;
    assert_eq!(roles(&second.client().await, "a-b").await, expected);
    remove(&second.client().await, "a-b", "ann.*").await.unwrap();
    eventually(Duration::from_secs(10), async || {
        let found = roles(&client, "a-b").await;
        (found.len() == expected.len() - 1).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    lobby.unibus.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_owner_stays_also_when_two_go_at_once() {
    // Goal: a room is never left without an owner. Method: the only owner leaves, is removed and is made less; then two
    // owners remove each other, or leave, at the same moment on two instances, many times.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = (issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await);
    let (ann, bob) = (issuer.client(&first, "ann").await, issuer.client(&second, "bob").await);
    create_room(&ann, "lobby").await;
    add(&ann, "lobby", "bob", Role::Writer).await.unwrap();
    assert_status(remove(&ann, "lobby", "ann").await, Code::FailedPrecondition, "LAST_OWNER");
    let less = add(&ann, "lobby", "ann", Role::Writer).await;
    assert_status(less, Code::FailedPrecondition, "LAST_OWNER");
    for round in 0..12 {
        let room = format!("room-{round}");
        create_room(&ann, &room).await;
        add(&ann, &room, "bob", Role::Owner).await.unwrap();
        eventually(KNOWN_WITHIN, async || history_reason(&bob, &room).await).await;
        let (of_ann, of_bob) = match round % 3 {
            0 => join(remove(&ann, &room, "bob"), remove(&bob, &room, "ann")).await,
            1 => join(remove(&ann, &room, "ann"), remove(&bob, &room, "bob")).await,
            _ => {
                let less = async |client, id| add(client, &room, id, Role::Reader).await.map(drop);
                join(less(&ann, "ann"), less(&bob, "bob")).await
            }
        };
        assert!(of_ann.is_ok() != of_bob.is_ok(), "{round}: {of_ann:?} {of_bob:?}");
        let left = if of_ann.is_ok() == (round % 3 == 0) { "ann" } else { "bob" };
        let client = if left == "ann" { &ann } else { &bob };
        eventually(KNOWN_WITHIN, async || {
            let owners: Vec<_> = member_page(client, &room, 0, "").await.map_err(|status| status.to_string())?.members;
            let owners: Vec<_> = owners.iter().filter(|member| member.role() == Role::Owner).collect();
            let as_expected = owners.len() == 1 && owners[0].member_id == left;
            as_expected.then_some(()).ok_or_else(|| format!("{owners:?}"))
        })
        .await;
    }
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

async fn history_reason(client: &crate::support::Client, room: &str) -> Result<(), String> {
    let request = GetRoomRequest { room_id: room.into() };
    client.clone().get_room(request).await.map(drop).map_err(|status| status.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_on_two_instances_leave_one_truth() {
    // Goal: compare-and-set loses nothing. Method: many owners and members are added from two instances at the same moment,
    // and one of them again and again with other roles; each call succeeds or says that it conflicted.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [first.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    let calls = (0..40_usize).map(|index| {
        let client = &clients[index % 2];
        let role = [Role::Owner, Role::Writer, Role::Reader][index % 3];
        async move {
            let own = add(client, "lobby", &format!("m{index}"), role).await;
            let contended = add(client, "lobby", "all", role).await;
            (own, contended)
        }
    });
    let mut added = 0;
    for (own, contended) in join_all(calls).await {
        for result in [own.map(|_| added += 1), contended.map(drop)] {
            if let Err(status) = result {
                assert!(matches!(status.code(), Code::Aborted), "{status:?}");
            }
        }
    }
    assert!(added >= 35, "{added} of 40");
    eventually(KNOWN_WITHIN, async || {
        let (one, other) = (roles(&clients[0], "lobby").await, roles(&clients[1], "lobby").await);
        (one == other && one.len() == added + 1).then_some(()).ok_or_else(|| format!("{} {}", one.len(), other.len()))
    })
    .await;
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_created_again_has_none_of_the_former_members() {
    // Goal: deletion takes the members along. Method: a room with members of every role is deleted and created again, by
    // somebody else, on the other instance, several times.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = (issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await);
    let (mut ann, bob) = (issuer.client(&first, "ann").await, issuer.client(&first, "bob").await);
    let (mut cat, bob_there) = (issuer.client(&second, "cat").await, issuer.client(&second, "bob").await);
    for _ in 0..3 {
        create_room(&ann, "lobby").await;
        for (id, role) in [("bob", Role::Writer), ("cat", Role::Owner), ("dan", Role::Owner)] {
            add(&ann, "lobby", id, role).await.unwrap();
        }
        publish(&bob, "lobby", "x").await.unwrap();
        ann.delete_room(DeleteRoomRequest { room_id: "lobby".into() }).await.unwrap();
        create_room(&cat, "lobby").await;
        assert_status(publish(&bob_there, "lobby", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
        assert_status(publish(&bob, "lobby", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
        assert_eq!(roles(&cat, "lobby").await, [(String::from("cat"), Role::Owner)]);
        let refused = ann.delete_room(DeleteRoomRequest { room_id: "lobby".into() }).await;
        assert_status(refused, Code::PermissionDenied, "PERMISSION_DENIED");
        cat.delete_room(DeleteRoomRequest { room_id: "lobby".into() }).await.unwrap();
    }
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_list_their_own_rooms_page_by_page() {
    // Goal: nobody learns of rooms of others. Method: rooms that one created, is a member of, was removed from, and has
    // nothing to do with, listed on both instances in pages; an administrator sees all.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let admins = |config: &mut unibus::Config| config.auth.admins = vec![String::from("root")];
    let (first, second) = (issuer.guard(&nats, admins).await, issuer.guard(&nats, admins).await);
    let (ann, bob) = (issuer.client(&first, "ann").await, issuer.client(&first, "bob").await);
    let mut expected = Vec::new();
    for number in 10..34 {
        let room = format!("room-{number}");
        let creator = if number % 4 == 0 { &bob } else { &ann };
        create_room(creator, &room).await;
        match number % 4 {
            0 => expected.push(room),
            1 => {
                let role = if number % 8 == 1 { Role::Owner } else { Role::Reader };
                add(&ann, &room, "bob", role).await.unwrap();
                expected.push(room);
            }
            2 => {
                add(&ann, &room, "bob", Role::Writer).await.unwrap();
                remove(&ann, &room, "bob").await.unwrap();
            }
            _ => {}
        }
    }
    let root = issuer.client(&second, "root").await;
    for client in [&bob, &issuer.client(&second, "bob").await] {
        eventually(KNOWN_WITHIN, async || {
            let found = pages(client, 5).await;
            (found == expected).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
        assert_eq!(pages(client, 0).await, expected);
        assert_eq!(pages(client, 12).await, expected);
    }
    assert_eq!(pages(&root, 7).await.len(), 24);
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

async fn pages(client: &crate::support::Client, size: i32) -> Vec<String> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = list_rooms(client, size, &token).await.unwrap();
        found.extend(page.rooms.into_iter().map(|room| room.room_id));
        token = page.next_page_token;
        if token.is_empty() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_exists_and_a_stream_with_messages_are_nobodys_to_claim() {
    // Goal: creating is no way in. Method: strangers create what exists, alike and different; a stream with messages becomes
    // a room of an administrator alone, and an empty one of anybody; a subject of one's own choice is an administrator's too.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let admins = |config: &mut unibus::Config| config.auth.admins = vec![String::from("root")];
    let unibus = issuer.guard(&nats, admins).await;
    let (ann, mut eve) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "eve").await);
    create_room(&ann, "lobby").await;
    create_room(&ann, "lobby").await;
    let alike = assert_status(eve.create_room(persisted("lobby")).await, Code::AlreadyExists, "ROOM_EXISTS");
    let different = CreateRoomRequest { replicas: 1, allow_message_ttl: true, ..persisted("lobby") };
    let different = assert_status(eve.create_room(different).await, Code::AlreadyExists, "ROOM_EXISTS");
    assert_eq!(alike.message(), different.message());
    let jetstream = nats.jetstream().await;
    for room in ["old", "empty"] {
        jetstream.create_stream(crate::support::bare_stream(room)).await.unwrap();
    }
    nats.publish_n("unibus.room.old", 3).await;
    let refused = eve.create_room(persisted("old")).await;
    assert_status(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let request = GetRoomRequest { room_id: "old".into() };
    assert_status(eve.get_room(request).await, Code::NotFound, "ROOM_NOT_FOUND");
    create_room(&eve, "empty").await;
    let root = issuer.client(&unibus, "root").await;
    create_room(&root, "old").await;
    assert_eq!(history(&root, "old", 10).await.messages.len(), 3);
    let spied = CreateRoomRequest { subject: "orders.new".into(), ..persisted("spied") };
    let rooms = list_rooms(&eve, 0, "").await.unwrap().rooms.len();
    assert_status(eve.create_room(spied.clone()).await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(list_rooms(&eve, 0, "").await.unwrap().rooms.len(), rooms);
    root.clone().create_room(spied).await.unwrap();
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_of_before_belong_to_administrators_until_they_add_an_owner() {
    // Goal: switching authorisation on opens nothing. Method: a room is created while it is off; then it is on.
    let nats = Nats::start().await;
    let open = Unibus::start(&nats).await;
    create_room(&open.client().await, "lobby").await;
    open.shutdown().await.unwrap();
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth.admins = vec![String::from("root")]).await;
    let (ann, root) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "root").await);
    assert_status(publish(&ann, "lobby", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(roles(&root, "lobby").await, []);
    add(&root, "lobby", "ann", Role::Owner).await.unwrap();
    assert_eq!(roles(&ann, "lobby").await, [(String::from("ann"), Role::Owner)]);
    assert_status(remove(&root, "lobby", "ann").await, Code::FailedPrecondition, "LAST_OWNER");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_rooms_have_members_also_without_jetstream() {
    // Goal: what has no log has members all the same. Method: a NATS server without JetStream; add, publish, remove, delete,
    // create again.
    let nats = NatsOptions::new().without_jetstream().start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let (mut ann, bob) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await);
    create_ephemeral(&ann, "live").await;
    assert_status(publish(&bob, "live", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
    add(&ann, "live", "bob", Role::Writer).await.unwrap();
    publish(&bob, "live", "x").await.unwrap();
    add(&ann, "live", "cat", Role::Owner).await.unwrap();
    assert_eq!(roles(&bob, "live").await.len(), 3);
    remove(&ann, "live", "bob").await.unwrap();
    assert_status(publish(&bob, "live", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
    add(&ann, "live", "bob", Role::Writer).await.unwrap();
    ann.delete_room(DeleteRoomRequest { room_id: "live".into() }).await.unwrap();
    create_ephemeral(&ann, "live").await;
    assert_status(publish(&bob, "live", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(roles(&ann, "live").await, [(String::from("ann"), Role::Owner)]);
    unibus.shutdown().await.unwrap();
}
