//! The commands about the members of a room.

use clap::{Args, Subcommand, ValueEnum};
use unibus::v1::{AddMemberRequest, ListMembersRequest, Member, RemoveMemberRequest, RemoveMemberResponse, Role};

use super::{
    failure::{CliResult, Failure},
    listing::PrintedList,
    options::ClientOptions,
    session::Session,
    style::Style,
    text,
};

/// Members on a page of the list: the largest page that the service gives.
const PAGE_SIZE: i32 = 1000;

/// Add, list and remove the members of a room.
#[derive(Args, Debug)]
pub(crate) struct MemberCommands {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    #[command(subcommand)]
    pub(super) action: MemberAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberAction {
    /// Add a member, or change the role of a member
    Add {
        /// Id of the room
        room: String,
        /// Id of the member: the `sub` claim of its tokens, or the name in its certificate
        member: String,
        /// What the member may do
        #[arg(long, value_enum, default_value_t = RoleName::Reader)]
        role: RoleName,
        /// Sequence of the first message that the member may read. Default: all messages
        #[arg(long, value_name = "SEQUENCE", default_value_t = 0, hide_default_value = true)]
        visible_from: u64,
    },
    /// List the members
    #[command(visible_alias = "ls")]
    List {
        /// Id of the room
        room: String,
    },
    /// Remove a member
    #[command(visible_alias = "rm")]
    Remove {
        /// Id of the room
        room: String,
        /// Id of the member
        member: String,
    },
}

/// A role on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleName {
    /// Reads, and has durable subscribers
    Reader,
    /// Also publishes
    Writer,
    /// Also changes the room, its members and the stored messages
    Owner,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Reader => Self::Reader,
            RoleName::Writer => Self::Writer,
            RoleName::Owner => Self::Owner,
        }
    }
}

impl MemberAction {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        match self {
            Self::Add { room, member, role, visible_from } => {
                let request =
                    AddMemberRequest { room_id: room, member_id: member, role: Role::from(role).into(), visible_from };
                add(&session, request).await
            }
            Self::List { room } => list(&session, &room).await,
            Self::Remove { room, member } => remove(&session, room, member).await,
        }
    }
}

async fn add(session: &Session, request: AddMemberRequest) -> CliResult {
    let room_id = request.room_id.clone();
    let what = format!("add {} to the room {room_id}", request.member_id);
    let added = session.client().await?.add_member(session.request(request)).await;
    let added = added.map_err(|status| Failure::call(&what, &status))?.into_inner();
    let member = added.member.unwrap_or_default();
    let sentence = format!(
        "{} {} is {} of {room_id}",
        session.out.paint(Style::Good, "added:"),
        member.member_id,
        text::role(member.role)
    );
    session.out.result(&sentence, "Member", &member, &member.member_id)
}

async fn list(session: &Session, room_id: &str) -> CliResult {
    let mut client = session.client().await?;
    let mut listing = PrintedList::new(&session.out, "Member", |member: &Member| &member.member_id, row);
    let mut page_token = String::new();
    loop {
        let request = ListMembersRequest { room_id: room_id.to_owned(), page_size: PAGE_SIZE, page_token };
        let page = client.list_members(session.request(request)).await;
        let page =
            page.map_err(|status| Failure::call(&format!("list the members of {room_id}"), &status))?.into_inner();
        listing.add(&page.members)?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return listing.end(&["MEMBER", "ROLE", "READS FROM"], "no members");
        }
    }
}

fn row(member: &Member) -> Vec<String> {
    let from = if member.visible_from == 0 { "first".to_owned() } else { member.visible_from.to_string() };
    vec![member.member_id.clone(), text::role(member.role).to_owned(), from]
}

async fn remove(session: &Session, room_id: String, member_id: String) -> CliResult {
    let sentence = format!("{} {member_id} from {room_id}", session.out.paint(Style::Good, "removed:"));
    let what = format!("remove {member_id} from the room {room_id}");
    let request = session.request(RemoveMemberRequest { room_id, member_id: member_id.clone() });
    let removed = session.client().await?.remove_member(request).await;
    removed.map_err(|status| Failure::call(&what, &status))?;
    session.out.result(&sentence, "RemoveMemberResponse", &RemoveMemberResponse {}, &member_id)
}
