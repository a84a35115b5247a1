//! The calls `OpenSession` and `SessionCommand`: the commands of Consume in unary calls, and its frames in a response
//! stream.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use prost::Message;
use tonic::Response;

use super::{
    GrpcMetrics,
    consume::{FrameEnvelope, command, pieces},
    frames::{Piece, respond_with},
    framing::put,
};
use crate::{
    domain::Caller,
    error::{Error, Result},
    limits::SESSION_COMMANDS_MAX,
    rooms::{
        Rooms,
        consume::ConsumeCommand,
        sessions::{SessionCommands, SessionId},
    },
    v1::{self, open_session_response::Frame},
};

/// The response to `OpenSession`.
///
/// # Errors
/// `INVALID_FIELD`.
pub(super) fn respond<S>(
    rooms: &Rooms,
    metrics: &GrpcMetrics,
    caller: &Caller,
    request: v1::OpenSessionRequest,
) -> Result<Response<tokio_stream::Empty<S>>> {
    let (id, consumed) = rooms.open_session(caller, commands(request.commands)?);
    let session = Frame::Session(v1::Session { id: id.to_string() });
    let mut bytes = BytesMut::new();
    put(&v1::OpenSessionResponse { frame: Some(session) }, &mut bytes);
    let first = Piece { bytes: bytes.freeze(), messages: 0, taken: None };
    let pieces = stream::iter([Ok(first)]).chain(pieces(consumed, FrameEnvelope::Session, metrics.clone()));
    Ok(respond_with(Box::pin(pieces), Arc::clone(&metrics.delivery)))
}

/// The session and the commands of a `SessionCommand`.
///
/// # Errors
/// `INVALID_FIELD`.
pub(super) fn session_commands(request: v1::SessionCommandRequest) -> Result<(SessionId, SessionCommands)> {
    let id = SessionId::parse("session_id", &request.session_id)?;
    if request.commands.is_empty() {
        return Err(Error::field("commands", "must hold at least one command"));
    }
    let (number, encoded) = (request.number, Bytes::from(request.encode_to_vec()));
    Ok((id, SessionCommands { number, commands: commands(request.commands)?, encoded }))
}

/// Decodes the commands of a `SessionCommand` that another instance has checked.
pub(crate) fn decode_commands(request: &[u8]) -> Result<Vec<ConsumeCommand>> {
    let request = v1::SessionCommandRequest::decode(request).map_err(|error| Error::internal().because(error))?;
    commands(request.commands)
}

fn commands(requests: Vec<v1::ConsumeRequest>) -> Result<Vec<ConsumeCommand>> {
    let count = requests.len();
    if count > SESSION_COMMANDS_MAX {
        return Err(Error::field(
            "commands",
            format!("holds {count} commands; a call can have {SESSION_COMMANDS_MAX}, use several calls"),
        ));
    }
    let commands = requests.into_iter().enumerate();
    commands
        .map(|(index, request)| command(request).map_err(|error| error.within(&format!("commands[{index}]"))))
        .collect()
}
