//! Every call of the contract: how a test makes it, and who may.

use std::collections::BTreeSet;

use futures_util::{
    future::BoxFuture,
    stream::{self, StreamExt},
};
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::{Code, Status};
use unibus::v1::{
    self, AcknowledgeRequest, AddMemberRequest, ConsumeOpen, ConsumeRequest, ConsumeResponse, CreateRoomRequest,
    DeleteMessageRequest, DeleteRoomRequest, DeleteSubscriberRequest, GetRoomRequest, HistoryRequest,
    ListMembersRequest, ListRoomsRequest, ListSubscribersRequest, OpenSessionRequest, OpenSessionResponse,
    PublishStreamRequest, PurgeRoomRequest, RemoveMemberRequest, Role, Room, SeekSubscriberRequest,
    SessionCommandRequest, Start, UpdateRoomRequest, consume_request, consume_response, open_session_response,
    publish_stream_response, start::At,
};

use super::{
    Client,
    consuming::session_of,
    errors::status,
    publishing::{batch, plain},
    subscription,
};

const OK: Code = Code::Ok;
const NO: Code = Code::PermissionDenied;
const MISSING: Code = Code::NotFound;

/// Callers of every kind, in the order of the columns.
pub(crate) const CALLERS: [&str; 6] = ["stranger", "removed", "reader", "writer", "owner", "root"];

/// What a call is about.
pub(crate) struct Target {
    pub(crate) room_id: String,
    pub(crate) subscriber: String,
}

/// One call of the contract.
pub(crate) struct Call {
    pub(crate) rpc: &'static str,
    /// The field of the request that names the room; empty when the request names none.
    pub(crate) room_field: &'static str,
    /// What comes of it, by caller. A call about a durable subscriber names one of the caller's own that does not exist.
    pub(crate) allowed: [Code; 6],
    /// The same, of a durable subscriber that another endpoint has bound; `None` for calls about something else.
    pub(crate) allowed_with_anothers: Option<[Code; 6]>,
    make: fn(Client, Target) -> BoxFuture<'static, Result<(), Status>>,
}

impl Call {
    /// Makes the call. An error within a stream is the call's error.
    pub(crate) async fn make(&self, client: &Client, room_id: &str, subscriber: &str) -> Result<(), Status> {
        (self.make)(client.clone(), Target { room_id: room_id.into(), subscriber: subscriber.into() }).await
    }

    /// Whether the call needs no room, because it makes one.
    pub(crate) fn makes_room(&self) -> bool {
        self.rpc == "CreateRoom"
    }
}

/// Every call. Fails when the contract has one without a row.
pub(crate) fn calls() -> &'static [Call] {
    let descriptors = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("descriptors");
    let services = descriptors.file.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| &service.method);
    let contract: BTreeSet<_> = methods.map(MethodDescriptorProto::name).collect();
    assert_eq!(CALLS.iter().map(|call| call.rpc).collect::<BTreeSet<_>>(), contract, "a row for each call");
    CALLS
}

const CALLS: &[Call] = &[
    Call {
        rpc: "CreateRoom",
        room_field: "room_id",
        allowed: [OK, OK, OK, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = CreateRoomRequest { room_id, persist: true, ..Default::default() };
            Box::pin(async move { client.create_room(request).await.map(drop) })
        },
    },
    Call {
        rpc: "GetRoom",
        room_field: "room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            Box::pin(async move { client.get_room(GetRoomRequest { room_id }).await.map(drop) })
        },
    },
    Call {
        rpc: "ListRooms",
        room_field: "",
        allowed: [OK, OK, OK, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, _| Box::pin(async move { client.list_rooms(ListRoomsRequest::default()).await.map(drop) }),
    },
    Call {
        rpc: "UpdateRoom",
        room_field: "room.room_id",
        allowed: [NO, NO, NO, NO, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let room = Room { room_id, labels: [(String::from("a"), String::from("b"))].into(), ..Room::default() };
            let request = UpdateRoomRequest { room: Some(room), update_mask: None };
            Box::pin(async move { client.update_room(request).await.map(drop) })
        },
    },
    Call {
        rpc: "DeleteRoom",
        room_field: "room_id",
        allowed: [NO, NO, NO, NO, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            Box::pin(async move { client.delete_room(DeleteRoomRequest { room_id }).await.map(drop) })
        },
    },
    Call {
        rpc: "PurgeRoom",
        room_field: "room_id",
        allowed: [NO, NO, NO, NO, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = PurgeRoomRequest { room_id, up_to_sequence: None };
            Box::pin(async move { client.purge_room(request).await.map(drop) })
        },
    },
    Call {
        rpc: "Publish",
        room_field: "room_id",
        allowed: [NO, NO, NO, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            Box::pin(async move { client.publish(plain(&room_id, "x")).await.map(drop) })
        },
    },
    Call {
        rpc: "PublishBatch",
        room_field: "room_id",
        allowed: [NO, NO, NO, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = batch(vec![plain(&room_id, "x")], false);
            Box::pin(async move { client.publish_batch(request).await.map(drop) })
        },
    },
    Call {
        rpc: "PublishStream",
        room_field: "publish.room_id",
        allowed: [NO, NO, NO, OK, OK, OK],
        allowed_with_anothers: None,
        make: |client, Target { room_id, .. }| Box::pin(publish_stream(client, room_id)),
    },
    Call {
        rpc: "Subscribe",
        room_field: "room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: Some([NO, NO, NO, NO, NO, NO]),
        make: |mut client, Target { room_id, subscriber }| {
            Box::pin(async move {
                let mut frames = client.subscribe(subscription(&room_id, &subscriber)).await?.into_inner();
                frames.message().await?.expect("a frame");
                Ok(())
            })
        },
    },
    Call {
        rpc: "Acknowledge",
        room_field: "room_id",
        allowed: [NO, NO, MISSING, MISSING, MISSING, MISSING],
        allowed_with_anothers: Some([NO, NO, NO, NO, NO, NO]),
        make: |mut client, Target { room_id, subscriber }| {
            let request = AcknowledgeRequest { room_id, subscriber, sequence: 1, generation: None };
            Box::pin(async move { client.acknowledge(request).await.map(drop) })
        },
    },
    Call {
        rpc: "Consume",
        room_field: "open.subscribe.room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: Some([NO, NO, NO, NO, NO, NO]),
        make: |client, target| Box::pin(consume(client, target)),
    },
    Call {
        rpc: "OpenSession",
        room_field: "commands[0].open.subscribe.room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: Some([NO, NO, NO, NO, NO, NO]),
        make: |client, target| Box::pin(open_session(client, target)),
    },
    Call {
        rpc: "SessionCommand",
        room_field: "commands[0].open.subscribe.room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: Some([NO, NO, NO, NO, NO, NO]),
        make: |client, target| Box::pin(session_command(client, target)),
    },
    Call {
        rpc: "History",
        room_field: "room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = HistoryRequest { room_id, ..Default::default() };
            Box::pin(async move { client.history(request).await.map(drop) })
        },
    },
    Call {
        rpc: "DeleteMessage",
        room_field: "room_id",
        allowed: [NO, NO, NO, NO, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = DeleteMessageRequest { room_id, sequence: 1 };
            Box::pin(async move { client.delete_message(request).await.map(drop) })
        },
    },
    Call {
        rpc: "AddMember",
        room_field: "room_id",
        allowed: [NO, NO, NO, NO, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let (member_id, role) = (String::from("new"), Role::Writer.into());
            let request = AddMemberRequest { room_id, member_id, role, visible_from: 0 };
            Box::pin(async move { client.add_member(request).await.map(drop) })
        },
    },
    Call {
        rpc: "RemoveMember",
        room_field: "room_id",
        allowed: [NO, NO, NO, NO, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = RemoveMemberRequest { room_id, member_id: "bystander".into() };
            Box::pin(async move { client.remove_member(request).await.map(drop) })
        },
    },
    Call {
        rpc: "ListMembers",
        room_field: "room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = ListMembersRequest { room_id, ..Default::default() };
            Box::pin(async move { client.list_members(request).await.map(drop) })
        },
    },
    Call {
        rpc: "ListSubscribers",
        room_field: "room_id",
        allowed: [NO, NO, OK, OK, OK, OK],
        allowed_with_anothers: None,
        make: |mut client, Target { room_id, .. }| {
            let request = ListSubscribersRequest { room_id, ..Default::default() };
            Box::pin(async move { client.list_subscribers(request).await.map(drop) })
        },
    },
    Call {
        rpc: "DeleteSubscriber",
        room_field: "room_id",
        allowed: [NO, NO, MISSING, MISSING, MISSING, MISSING],
        allowed_with_anothers: Some([NO, NO, NO, NO, OK, OK]),
        make: |mut client, Target { room_id, subscriber }| {
            let request = DeleteSubscriberRequest { room_id, subscriber };
            Box::pin(async move { client.delete_subscriber(request).await.map(drop) })
        },
    },
    Call {
        rpc: "SeekSubscriber",
        room_field: "room_id",
        allowed: [NO, NO, MISSING, MISSING, MISSING, MISSING],
        allowed_with_anothers: Some([NO, NO, NO, NO, OK, OK]),
        make: |mut client, Target { room_id, subscriber }| {
            let position = Some(Start { at: Some(At::All(())) });
            let request = SeekSubscriberRequest { room_id, subscriber, position };
            Box::pin(async move { client.seek_subscriber(request).await.map(drop) })
        },
    },
];

async fn publish_stream(mut client: Client, room_id: String) -> Result<(), Status> {
    let request = PublishStreamRequest {
        correlation_id: 1,
        publish: Some(plain(&room_id, "x")),
        ..PublishStreamRequest::default()
    };
    let mut responses = client.publish_stream(stream::iter([request])).await?.into_inner();
    let response = responses.message().await?.expect("a response");
    match response.outcome.expect("an outcome") {
        publish_stream_response::Outcome::Result(_) => Ok(()),
        publish_stream_response::Outcome::Error(error) => Err(status(&error)),
        publish_stream_response::Outcome::Through(through) => panic!("nobody asked for {through:?}"),
    }
}

fn opening(Target { room_id, subscriber }: Target) -> ConsumeRequest {
    let open = ConsumeOpen { subscribe: Some(subscription(&room_id, &subscriber)), ..ConsumeOpen::default() };
    ConsumeRequest { command: Some(consume_request::Command::Open(open)) }
}

fn outcome_of(response: ConsumeResponse) -> Result<(), Status> {
    match response.frame.expect("a frame") {
        consume_response::Frame::Closed(error) => Err(status(&error)),
        consume_response::Frame::Rejected(rejected) => Err(status(&rejected.error.expect("an error"))),
        _ => Ok(()),
    }
}

async fn open_session(mut client: Client, target: Target) -> Result<(), Status> {
    let request = OpenSessionRequest { commands: vec![opening(target)] };
    let mut frames = client.open_session(request).await?.into_inner();
    session_of(&frames.message().await?.expect("a response")).expect("the session first");
    consumed(frames.message().await?)
}

async fn session_command(mut client: Client, target: Target) -> Result<(), Status> {
    let mut frames = client.open_session(OpenSessionRequest::default()).await?.into_inner();
    let session = session_of(&frames.message().await?.expect("a response")).expect("the session first");
    let request = SessionCommandRequest { session_id: session.id, commands: vec![opening(target)], number: 0 };
    client.session_command(request).await?;
    consumed(frames.message().await?)
}

fn consumed(response: Option<OpenSessionResponse>) -> Result<(), Status> {
    match response.expect("a response").frame {
        Some(open_session_response::Frame::Consume(response)) => outcome_of(response),
        other => panic!("a frame of a session is {other:?}"),
    }
}

async fn consume(mut client: Client, target: Target) -> Result<(), Status> {
    let request = opening(target);
    let mut frames = client.consume(stream::iter([request]).chain(stream::pending())).await?.into_inner();
    outcome_of(frames.message().await?.expect("a response"))
}
