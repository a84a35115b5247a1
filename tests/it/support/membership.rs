//! Members, in the words of the tests.

use tonic::Status;
use unibus::v1::{AddMemberRequest, ListMembersRequest, ListMembersResponse, Member, RemoveMemberRequest, Role};

use super::Client;

/// Adds a member, or changes its role.
pub(crate) async fn add(client: &Client, room_id: &str, member_id: &str, role: Role) -> Result<Member, Status> {
    add_from(client, room_id, member_id, role, 0).await
}

/// Adds a member that sees messages from a sequence on.
pub(crate) async fn add_from(
    client: &Client,
    room_id: &str,
    member_id: &str,
    role: Role,
    visible_from: u64,
) -> Result<Member, Status> {
    let request =
        AddMemberRequest { room_id: room_id.into(), member_id: member_id.into(), role: role.into(), visible_from };
    Ok(client.clone().add_member(request).await?.into_inner().member.expect("a member"))
}

/// Removes a member.
pub(crate) async fn remove(client: &Client, room_id: &str, member_id: &str) -> Result<(), Status> {
    let request = RemoveMemberRequest { room_id: room_id.into(), member_id: member_id.into() };
    client.clone().remove_member(request).await.map(drop)
}

/// A page of members.
pub(crate) async fn member_page(
    client: &Client,
    room_id: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListMembersResponse, Status> {
    let request = ListMembersRequest { room_id: room_id.into(), page_size, page_token: page_token.into() };
    Ok(client.clone().list_members(request).await?.into_inner())
}

/// The ids and roles of all members, by ascending id.
pub(crate) async fn roles(client: &Client, room_id: &str) -> Vec<(String, Role)> {
    let members = member_page(client, room_id, 1000, "").await.unwrap().members;
    members.into_iter().map(|member| (member.member_id.clone(), member.role())).collect()
}
