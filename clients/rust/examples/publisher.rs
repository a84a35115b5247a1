//! Publishes the lines of standard input, each of them once, in order, without waiting for each answer. When the program is
//! killed and runs again with the same lines, it stores only those that are missing: the id of a message is its line number.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use unibus_client::{Client, Error, NewMessage, NewRoom, Published};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new("http://127.0.0.1:50051")?;
    let room = NewRoom::persisted("lines").dedupe_window(Duration::from_secs(24 * 60 * 60));
    let publisher = client.create_room(room).await?.publisher().start();
    let (mut lines, mut receipts) = (BufReader::new(stdin()).lines(), FuturesUnordered::new());
    let (mut at_end, mut number) = (false, 0_u64);
    while !(at_end && receipts.is_empty()) {
        tokio::select! {
            Some(outcome) = receipts.next() => report(outcome),
            line = lines.next_line(), if !at_end => match line? {
                Some(line) => {
                    number += 1;
                    let message = NewMessage::new(line).message_id(format!("line-{number}"));
                    receipts.push(publisher.send(message).await?);
                }
                None => at_end = true,
            },
        }
    }
    client.close().await;
    Ok(())
}

fn report(outcome: Result<Published, Error>) {
    match outcome {
        Ok(published) => println!("stored as {}", published.sequence),
        Err(error) if error.is_outcome_unknown() => eprintln!("perhaps stored: {error}"),
        Err(error) => eprintln!("not stored: {error}"),
    }
}
