//! The members of a room, and its durable subscribers.

use unibus::v1::{
    AddMemberRequest, DeleteSubscriberRequest, ListMembersRequest, ListSubscribersRequest, Member, RemoveMemberRequest,
    Role, SeekSubscriberRequest, Subscriber,
};

use crate::{
    Room, Start,
    error::Result,
    retry::{call, list},
};

impl Room {
    /// Adds a member, or changes its role.
    pub async fn add_member(&self, member_id: impl Into<String>, role: Role) -> Result<Member> {
        self.add_member_from(member_id, role, 0).await
    }

    /// Adds a member that cannot read messages before the sequence `visible_from`.
    pub async fn add_member_from(&self, member_id: impl Into<String>, role: Role, visible_from: u64) -> Result<Member> {
        let member_id = member_id.into();
        let request = AddMemberRequest { room_id: self.room_id(), member_id, role: role.into(), visible_from };
        Ok(call!(self.client, Always, add_member, request)?.member.unwrap_or_default())
    }

    /// Removes a member (U10).
    pub async fn remove_member(&self, member_id: impl Into<String>) -> Result<()> {
        let request = RemoveMemberRequest { room_id: self.room_id(), member_id: member_id.into() };
        call!(self.client, UntilGone("MEMBER_NOT_FOUND"), remove_member, request).map(drop)
    }

    /// All members, by ascending id.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let request = ListMembersRequest { room_id: self.room_id(), page_size: 1000, page_token: String::new() };
        list!(self.client, list_members, members, request)
    }

    /// The durable subscribers that the caller may see: all for an owner, otherwise its own.
    pub async fn subscribers(&self) -> Result<Vec<Subscriber>> {
        let request = ListSubscribersRequest { room_id: self.room_id(), page_size: 1000, page_token: String::new() };
        list!(self.client, list_subscribers, subscribers, request)
    }

    /// Deletes a durable subscriber with its position (U10).
    pub async fn delete_subscriber(&self, subscriber: impl Into<String>) -> Result<()> {
        let request = DeleteSubscriberRequest { room_id: self.room_id(), subscriber: subscriber.into() };
        call!(self.client, UntilGone("SUBSCRIBER_NOT_FOUND"), delete_subscriber, request).map(drop)
    }

    /// Moves a durable subscriber, forwards or back, and returns its position: the messages after it come next. An open
    /// subscription follows (U22).
    pub async fn seek_subscriber(&self, subscriber: impl Into<String>, to: Start) -> Result<u64> {
        let (room_id, subscriber) = (self.room_id(), subscriber.into());
        let request = SeekSubscriberRequest { room_id, subscriber, position: Some(to.into()) };
        Ok(call!(self.client, Always, seek_subscriber, request)?.position)
    }
}
