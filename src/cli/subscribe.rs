//! The command that follows a room.

use std::time::Duration;

use clap::{Args, ValueEnum};
use unibus::v1::{AckMode, SubscribeRequest};

use super::{
    failure::CliResult,
    follow::Follower,
    message::MessageFlags,
    options::ClientOptions,
    session::Session,
    values::{self, FromPlace},
};

/// Follow the messages of a room.
#[derive(Args, Debug)]
pub(crate) struct SubCommand {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    /// Id of the room
    pub(super) room: String,
    /// Name of a durable subscriber: the service keeps its position, and the same command goes on there
    #[arg(long = "as", value_name = "NAME")]
    pub(super) subscriber: Option<String>,
    /// When a message counts as processed
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = AckWhen::AfterPrint, requires = "subscriber")]
    pub(super) ack: AckWhen,
    /// First message: newest, first, a sequence, last:COUNT, cursor:CURSOR, a time, or a duration before now. Default:
    /// newest, and with --as first. A durable subscriber uses it only once, when it is new
    #[arg(long, value_name = "PLACE")]
    pub(super) from: Option<FromPlace>,
    /// End after this number of messages
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// End when no message has come for this time
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(super) idle_timeout: Option<Duration>,
    /// End after the messages that are stored now
    #[arg(long)]
    pub(super) no_follow: bool,
    #[command(flatten)]
    pub(super) printing: MessageFlags,
}

/// When a durable subscriber's position moves past a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AckWhen {
    /// When the message was written to standard output. A message can come twice, and none is lost
    AfterPrint,
    /// When the connection has taken the message. If the command ends early, it loses messages that were under way
    Auto,
    /// Never: the next subscription of this name gets the same messages
    Never,
}

impl SubCommand {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        Follower::new(session, self).run().await
    }

    /// The request that opens the subscription for the first time.
    pub(super) fn request(&self) -> SubscribeRequest {
        let ack_mode = if self.ack == AckWhen::Auto { AckMode::Auto } else { AckMode::Explicit };
        let by_default = self.subscriber.is_none().then_some(FromPlace::Newest);
        SubscribeRequest {
            room_id: self.room.clone(),
            subscriber: self.subscriber.clone().unwrap_or_default(),
            ack_mode: ack_mode.into(),
            start: self.from.clone().or(by_default).map(|from| from.start()),
            until_caught_up: self.no_follow,
        }
    }
}
