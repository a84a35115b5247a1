//! Listing the rooms, a page at a time.

use tonic::Code;
use unibus::v1::{DeleteRoomRequest, Room};

use crate::support::{Lobby, assert_status, create_ephemeral, create_room, list_rooms, names_field};

fn ids(rooms: &[Room]) -> Vec<&str> {
    rooms.iter().map(|room| room.room_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_list_every_room_once_by_ascending_id() {
    // Goal: paging is complete and ordered, also while rooms go. Method: 7 rooms in pages of 3; then once more with the
    // last room of the first page deleted before the second is asked for.
    let (_lobby, client) = Lobby::without_room().await;
    assert_eq!(list_rooms(&client, 0, "").await.unwrap().rooms, []);
    for id in ["g", "c", "a", "e", "B"] {
        create_room(&client, id).await;
    }
    for id in ["f", "d"] {
        create_ephemeral(&client, id).await;
    }

    let all = list_rooms(&client, 0, "").await.unwrap();
    assert_eq!(ids(&all.rooms), ["B", "a", "c", "d", "e", "f", "g"]);
    assert_eq!(all.next_page_token, "");
    assert!(all.rooms.iter().all(|room| room.state.is_none()));
    let exact = list_rooms(&client, 7, "").await.unwrap();
    assert_eq!((exact.rooms.len(), exact.next_page_token.as_str()), (7, ""));
    assert_eq!(list_rooms(&client, 5000, "").await.unwrap().rooms.len(), 7);

    let first = list_rooms(&client, 3, "").await.unwrap();
    assert_eq!(ids(&first.rooms), ["B", "a", "c"]);
    let second = list_rooms(&client, 3, &first.next_page_token).await.unwrap();
    assert_eq!(ids(&second.rooms), ["d", "e", "f"]);
    let third = list_rooms(&client, 3, &second.next_page_token).await.unwrap();
    assert_eq!(ids(&third.rooms), ["g"]);
    assert_eq!(third.next_page_token, "");

    let request = DeleteRoomRequest { room_id: "c".into() };
    client.clone().delete_room(request).await.unwrap();
    let second = list_rooms(&client, 3, &first.next_page_token).await.unwrap();
    assert_eq!(ids(&second.rooms), ["d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_makes_no_sense_is_refused() {
    // Goal: a bad page is the caller's error, by field. Method: a negative size, tokens that the service never gave.
    let (_lobby, client) = Lobby::without_room().await;

    let negative = list_rooms(&client, -1, "").await;
    let negative = assert_status(negative, Code::InvalidArgument, "INVALID_FIELD");
    assert!(names_field(&negative, "page_size"), "{negative:?}");
    for token in ["*", "not a token", "\u{fc}"] {
        let garbage = list_rooms(&client, 0, token).await;
        let garbage = assert_status(garbage, Code::InvalidArgument, "INVALID_FIELD");
        assert!(names_field(&garbage, "page_token"), "{garbage:?}");
    }
}
