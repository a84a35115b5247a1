//! The commands about the durable subscribers of a room.

use clap::{Args, Subcommand};
use unibus::v1::{
    DeleteSubscriberRequest, DeleteSubscriberResponse, ListSubscribersRequest, SeekSubscriberRequest, Subscriber,
};

use super::{
    failure::{CliResult, Failure},
    listing::PrintedList,
    options::ClientOptions,
    session::Session,
    style::Style,
    text,
    values::FromPlace,
};

/// Subscribers on a page of the list: the largest page that the service gives.
const PAGE_SIZE: i32 = 1000;

/// List, move and delete the durable subscribers of a room.
#[derive(Args, Debug)]
pub(crate) struct SubscriberCommands {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    #[command(subcommand)]
    pub(super) action: SubscriberAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SubscriberAction {
    /// List the durable subscribers with position and lag
    #[command(visible_alias = "ls")]
    List {
        /// Id of the room
        room: String,
    },
    /// Move a durable subscriber, forwards or back
    ///
    /// An open subscription of the subscriber follows at once.
    Seek {
        /// Id of the room
        room: String,
        /// Name of the subscriber
        name: String,
        /// Message with which the subscriber continues: newest, first, a sequence, last:COUNT, cursor:CURSOR, a time, or
        /// a duration before now
        #[arg(long, value_name = "PLACE")]
        from: FromPlace,
    },
    /// Delete a durable subscriber with its position
    #[command(visible_alias = "rm")]
    Delete {
        /// Id of the room
        room: String,
        /// Name of the subscriber
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl SubscriberAction {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        match self {
            Self::List { room } => list(&session, &room).await,
            Self::Seek { room, name, from } => seek(&session, room, name, &from).await,
            Self::Delete { room, name, yes } => delete(&session, room, name, yes).await,
        }
    }
}

async fn list(session: &Session, room_id: &str) -> CliResult {
    let mut client = session.client().await?;
    let mut listing = PrintedList::new(&session.out, "Subscriber", |one: &Subscriber| &one.subscriber, row);
    let mut page_token = String::new();
    loop {
        let request = ListSubscribersRequest { room_id: room_id.to_owned(), page_size: PAGE_SIZE, page_token };
        let page = client.list_subscribers(session.request(request)).await;
        let page =
            page.map_err(|status| Failure::call(&format!("list the subscribers of {room_id}"), &status))?.into_inner();
        listing.add(&page.subscribers)?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            let none = "no durable subscribers; `unibus sub ROOM --as NAME` makes one";
            return listing.end(&["SUBSCRIBER", "POSITION", "LAG", "OPEN", "LAST ACTIVE"], none);
        }
    }
}

fn row(subscriber: &Subscriber) -> Vec<String> {
    vec![
        subscriber.subscriber.clone(),
        subscriber.position.to_string(),
        subscriber.lag.to_string(),
        text::yes_no(subscriber.open).to_owned(),
        text::local_time(subscriber.last_active_at.as_ref()),
    ]
}

async fn seek(session: &Session, room_id: String, subscriber: String, from: &FromPlace) -> CliResult {
    let what = format!("move the subscriber {subscriber} of {room_id}");
    let request = SeekSubscriberRequest { room_id, subscriber: subscriber.clone(), position: Some(from.start()) };
    let moved = session.client().await?.seek_subscriber(session.request(request)).await;
    let moved = moved.map_err(|status| Failure::call(&what, &status))?.into_inner();
    let sentence = format!(
        "{} {subscriber} continues after sequence {}",
        session.out.paint(Style::Good, "moved:"),
        moved.position
    );
    session.out.result(&sentence, "SeekSubscriberResponse", &moved, &moved.position.to_string())
}

async fn delete(session: &Session, room_id: String, subscriber: String, yes: bool) -> CliResult {
    Session::confirm(&format!("Delete the subscriber {subscriber} of {room_id} with its position"), yes)?;
    let sentence = format!("{} the subscriber {subscriber} of {room_id}", session.out.paint(Style::Good, "deleted:"));
    let what = format!("delete the subscriber {subscriber} of {room_id}");
    let request = session.request(DeleteSubscriberRequest { room_id, subscriber: subscriber.clone() });
    let deleted = session.client().await?.delete_subscriber(request).await;
    deleted.map_err(|status| Failure::call(&what, &status))?;
    session.out.result(&sentence, "DeleteSubscriberResponse", &DeleteSubscriberResponse {}, &subscriber)
}
