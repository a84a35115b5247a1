//! Files that are damaged.

use serde_json::json;

use super::transfer::{content, fill, kept};
use crate::support::{Cli, Lobby, create_room, everything};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_imports_nothing_and_with_salvage_what_is_before_the_damage() {
    // Goal: no damage goes unseen, and none spreads. Method: one changed byte in each kind of place, cuts in each kind of place, and
    // files of other programs; the unit tests change every bit of a small file.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 300).await;
    let original = everything(&client, "lobby").await;
    cli.ok(&["export", "lobby"]).await;
    let whole = content(&cli, "lobby.unibus");
    // where the payload of a message is in the file
    let payload = &original[200].payload;
    let at = whole.windows(payload.len()).position(|part| part == payload).unwrap();
    let changed = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        bytes
    };
    let end = whole.len();
    let cases: [(&str, Vec<u8>, usize); 11] = [
        ("mark", changed(2), 0),
        ("version", changed(8), 0),
        ("head", changed(30), 0),
        ("payload", changed(at + 3), 200),
        ("end", changed(end - 20), 300),
        ("checksum of the end", changed(end - 1), 300),
        ("cut in a payload", whole[..at + 3].to_vec(), 200),
        ("cut in the end", whole[..end - 10].to_vec(), 300),
        ("cut in the head", whole[..20].to_vec(), 0),
        ("more", [&whole[..], b"x"].concat(), 300),
        ("another file", b"something else".to_vec(), 0),
    ];
    for (number, (what, bytes, records)) in cases.into_iter().enumerate() {
        cli.write("damaged", bytes);
        let checked = cli.run(&["import", "--check", "damaged", "--json"]).await;
        assert_eq!((checked.status, &checked.error()["exitStatus"]), (Some(13), &json!(13)), "{what}");
        let text = checked.error()["message"].as_str().unwrap().to_owned();
        let is_named = text.contains(&format!("record {}", records + 1));
        assert_eq!(is_named, !matches!(what, "mark" | "version" | "another file"), "{what}: {text}");
        let room = format!("copy-{number}");
        create_room(&client, &room).await;
        let import = ["import", "damaged", "--room", &room];
        assert_eq!(cli.run(&import).await.status, Some(13), "{what}");
        assert!(everything(&client, &room).await.is_empty(), "{what}");
        assert_eq!(cli.run(&[&import[..], &["--salvage"]].concat()).await.status, Some(13), "{what}");
        assert!(kept(&everything(&client, &room).await) == kept(&original[..records]), "{what}");
        // the whole file goes on there
        cli.ok(&["import", "lobby.unibus", "--room", &room]).await;
        assert!(kept(&everything(&client, &room).await) == kept(&original), "{what}");
    }
    for wrong in [&["import", "nothing"][..], &["import", "."], &["import", "--check", "nothing"]] {
        assert_eq!(cli.run(wrong).await.status, Some(2), "{wrong:?}");
    }
    // standard input cannot be read twice: what came before the damage is imported
    create_room(&client, "piped").await;
    let done = cli.run_with(&["import", "-", "--room", "piped"], &whole[..at + 3]).await;
    assert_eq!(done.status, Some(13), "{done:?}");
    assert!(kept(&everything(&client, "piped").await) == kept(&original[..200]));
    lobby.unibus.shutdown().await.unwrap();
}
