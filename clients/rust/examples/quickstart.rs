//! Subscribes for ever: resumes where the last run stopped, and acknowledges each message after it was handled.

#![allow(clippy::print_stdout)]

use unibus_client::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::new("http://127.0.0.1:50051")?;
    let subscription = client.room("orders").subscribe().durable("billing");
    subscription
        .close_on(async { _ = tokio::signal::ctrl_c().await })
        .run(async |message| {
            println!("{}: {}", message.sequence, String::from_utf8_lossy(&message.payload));
            Ok(())
        })
        .await
}
