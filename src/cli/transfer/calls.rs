//! Calls about one room that are made again when a connection breaks or the service restarts.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::time;
use tonic::{Request, Response, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;
use unibus::v1::{GetRoomRequest, HistoryRequest, Room, history_request::Anchor};

use super::progress::TransferBar;
use crate::cli::{
    backoff::Retries,
    connection::{CallChannel, RESPONSE_BYTES_MAX},
    exit::Exit,
    failure::{CliResult, Failure},
    session::Session,
};

/// How long calls are tried again without any success: long enough for a service that is replaced.
pub(super) const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// Messages on a page: the largest page that the service gives.
pub(super) const PAGE_MESSAGES_MAX: i32 = 1000;

/// `unibus.v1.HistoryResponse` with messages that are still encoded, so that they keep fields which this program does not
/// know.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncodedMessages {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) messages: Vec<Bytes>,
    #[prost(bool, tag = "3")]
    pub(super) has_newer: bool,
    #[prost(string, tag = "5")]
    pub(super) newer_cursor: String,
}

/// `unibus.v1.GetRoomResponse` with a room that is still encoded.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedRoom {
    #[prost(bytes = "bytes", tag = "1")]
    room: Bytes,
}

/// Makes calls about one room.
pub(super) struct RoomCalls {
    pub(super) session: Session,
    pub(super) bar: TransferBar,
    room_id: String,
    channel: Option<CallChannel>,
    /// The first connection shows whether the command is right at all.
    was_connected: bool,
    retries: Retries,
}

impl RoomCalls {
    /// No connection yet.
    pub(super) fn new(session: Session, room_id: String, bar: TransferBar) -> Self {
        let retries = Retries::new(Some(RETRY_TIME_MAX));
        Self { session, bar, room_id, channel: None, was_connected: false, retries }
    }

    pub(super) fn room_id(&self) -> &str {
        &self.room_id
    }

    /// Makes a call until it succeeds, or fails for good. `what` says what the command cannot do if it fails.
    pub(super) async fn call<T>(
        &mut self,
        what: &str,
        call: impl AsyncFn(CallChannel) -> Result<Response<T>, Status>,
    ) -> CliResult<T> {
        loop {
            let failure = match self.attempt(what, &call).await {
                Ok(answer) => {
                    self.retries.progress();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if !self.was_connected || !self.session.may_pass(&failure) {
                return Err(failure);
            }
            let Some(wait) = self.retries.next_wait(&failure) else { return Err(failure) };
            if self.retries.is_first() {
                self.bar.notice(&format!("{}; trying again", failure.summary()));
            }
            time::sleep(wait).await;
        }
    }

    /// Makes a call once, over a connection that stands or a new one.
    pub(super) async fn attempt<T>(
        &mut self,
        what: &str,
        call: &impl AsyncFn(CallChannel) -> Result<Response<T>, Status>,
    ) -> CliResult<T> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => self.channel.insert(self.session.connector.channel().await?).clone(),
        };
        self.was_connected = true;
        match call(channel).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                let failure = Failure::call(what, &status);
                // the service may be another one by now, or have a new token
                if self.session.may_pass(&failure) {
                    self.channel = None;
                }
                Err(failure)
            }
        }
    }

    /// Reads the room, still encoded. Refuses an ephemeral one.
    pub(super) async fn room(&mut self) -> CliResult<(Bytes, Room)> {
        let what = format!("read the room {}", self.room_id);
        let request = GetRoomRequest { room_id: self.room_id.clone() };
        let session = self.session.clone();
        let answer: EncodedRoom =
            self.call(&what, async |channel| unary(channel, "GetRoom", session.request(request.clone())).await).await?;
        let room = Room::decode(answer.room.clone())
            .map_err(|_| Failure::new(Exit::Failed, format!("cannot {what}: the answer has no meaning")))?;
        if room.persist {
            return Ok((answer.room, room));
        }
        let text = format!("the room {} is ephemeral and stores no messages", self.room_id);
        Err(Failure::new(Exit::Conflict, text)
            .hint("Only the messages of a persisted room can be exported or imported."))
    }

    /// Reads a page of at most `limit` messages, still encoded.
    pub(super) async fn page(&mut self, limit: i32, anchor: Anchor) -> CliResult<EncodedMessages> {
        let what = format!("read the messages of {}", self.room_id);
        let request = HistoryRequest { room_id: self.room_id.clone(), limit, anchor: Some(anchor) };
        let session = self.session.clone();
        self.call(&what, async |channel| unary(channel, "History", session.request(request.clone())).await).await
    }
}

/// One call with messages of any type that has the encoding of the contract's.
async fn unary<Q, A>(channel: CallChannel, rpc: &str, request: Request<Q>) -> Result<Response<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::try_from(format!("/unibus.v1.RoomService/{rpc}"));
    let path = path.map_err(|error| Status::internal(error.to_string()))?;
    grpc.unary(request, path, ProstCodec::<Q, A>::default()).await
}
