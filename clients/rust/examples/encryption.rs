//! End-to-end encryption with AES-256-GCM: the service and NATS see only the sealed payload.
//!
//! sealed = 0x01, 12 random bytes (the nonce), then the ciphertext with its tag of 16 bytes. The room and the sender are bound
//! as associated data, so a payload that is copied to another room, or published by another sender, does not open.
//!
//! Limits: there is no key exchange; the members of the room must share the key already. Use one key for at most 2^32 messages,
//! since nonces are random. Nothing stops the service from replaying, reordering or dropping messages. `sender` is what the
//! service has verified ([`unibus_client::Message::sender`]); it is empty if the service runs without authorisation.

#![allow(clippy::print_stdout)]

use aes_gcm::{
    AeadCore, Aes256Gcm, Key, KeyInit,
    aead::{Aead, OsRng, Payload},
};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

/// Encrypts a payload for a room.
pub fn seal(key: &[u8; 32], room: &str, sender: &str, payload: &[u8]) -> Result<Vec<u8>, aes_gcm::Error> {
    let (cipher, nonce) = (Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key)), Aes256Gcm::generate_nonce(OsRng));
    let sealed = cipher.encrypt(&nonce, Payload { msg: payload, aad: &associated(room, sender)? })?;
    Ok([&[VERSION], nonce.as_slice(), &sealed].concat())
}

/// Decrypts a payload of a room that came from this sender.
pub fn open(key: &[u8; 32], room: &str, sender: &str, sealed: &[u8]) -> Result<Vec<u8>, aes_gcm::Error> {
    let Some((&VERSION, rest)) = sealed.split_first() else { return Err(aes_gcm::Error) };
    let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES).ok_or(aes_gcm::Error)?;
    let cipher = Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key));
    cipher.decrypt(nonce.into(), Payload { msg: ciphertext, aad: &associated(room, sender)? })
}

/// The room and the sender, each after its length.
fn associated(room: &str, sender: &str) -> Result<Vec<u8>, aes_gcm::Error> {
    let mut bytes = Vec::new();
    for text in [room, sender] {
        let length = u16::try_from(text.len()).map_err(|_| aes_gcm::Error)?;
        bytes.extend([&length.to_be_bytes(), text.as_bytes()].concat());
    }
    Ok(bytes)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use futures_util::StreamExt;
    use unibus_client::{Client, NewRoom, Start};

    let key = [7; 32]; // a real program gets it from elsewhere
    let room = Client::new("http://127.0.0.1:50051")?.create_room(NewRoom::persisted("secrets")).await?;
    let published = room.publish(seal(&key, room.id(), "", b"hello").map_err(|error| error.to_string())?).await?;
    let mut messages = room.subscribe().start(Start::AfterSequence(published.sequence - 1)).messages();
    if let Some(message) = messages.next().await.transpose()? {
        let payload = open(&key, room.id(), &message.sender, &message.payload).map_err(|error| error.to_string())?;
        println!("{}", String::from_utf8_lossy(&payload));
    }
    Ok(())
}
