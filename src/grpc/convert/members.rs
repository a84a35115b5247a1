//! Converts the requests about members, and their responses.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::room_id;
use crate::{
    domain::{Member, MemberId, Role, RoomId},
    error::{Result, Violations},
    rooms::members::MemberPage,
    v1,
};

/// The room, the new member, its role, and the first sequence that is visible to it.
pub(in crate::grpc) fn add_member(request: v1::AddMemberRequest) -> Result<(RoomId, MemberId, Role, u64)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let member = violations.check(MemberId::parse("member_id", request.member_id));
    let role = match v1::Role::try_from(request.role) {
        Ok(v1::Role::Unspecified | v1::Role::Reader) => Role::Reader,
        Ok(v1::Role::Writer) => Role::Writer,
        Ok(v1::Role::Owner) => Role::Owner,
        Err(_) => {
            violations.add("role", "must be ROLE_READER, ROLE_WRITER or ROLE_OWNER");
            Role::Reader
        }
    };
    match (room_id, member) {
        (Some(room_id), Some(member)) => violations.finish().map(|()| (room_id, member, role, request.visible_from)),
        _ => Err(violations.into_error()),
    }
}

pub(in crate::grpc) fn remove_member(request: v1::RemoveMemberRequest) -> Result<(RoomId, MemberId)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let member = violations.check(MemberId::parse("member_id", request.member_id));
    match (room_id, member) {
        (Some(room_id), Some(member)) => Ok((room_id, member)),
        _ => Err(violations.into_error()),
    }
}

/// The room, the member after which the page begins, and the size of the page.
pub(in crate::grpc) fn member_page(request: v1::ListMembersRequest) -> Result<(RoomId, Option<MemberId>, usize)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let size = usize::try_from(request.page_size);
    if size.is_err() {
        violations.add("page_size", "must not be negative; 0 means 100");
    }
    let after = (!request.page_token.is_empty()).then(|| {
        let id = URL_SAFE_NO_PAD.decode(&request.page_token).ok().and_then(|id| String::from_utf8(id).ok());
        id.and_then(|id| MemberId::parse("page_token", id).ok())
    });
    if after == Some(None) {
        violations
            .add("page_token", "is not a page token; give `next_page_token` of the previous page, or leave it empty");
    }
    match room_id {
        Some(room_id) => violations.finish().map(|()| (room_id, after.flatten(), size.unwrap_or_default())),
        None => Err(violations.into_error()),
    }
}

pub(in crate::grpc) fn member(member: Member) -> v1::Member {
    let role = match member.membership.role {
        Role::Reader => v1::Role::Reader,
        Role::Writer => v1::Role::Writer,
        Role::Owner => v1::Role::Owner,
    };
    v1::Member { member_id: member.id.into(), role: role.into(), visible_from: member.membership.visible.from }
}

pub(in crate::grpc) fn members(page: MemberPage) -> v1::ListMembersResponse {
    v1::ListMembersResponse {
        members: page.members.into_iter().map(member).collect(),
        next_page_token: page.next_after.map(|id| URL_SAFE_NO_PAD.encode(id.as_str())).unwrap_or_default(),
    }
}
