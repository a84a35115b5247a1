//! What the log tells of callers, and what it never tells.

use std::{fs, process::Command, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Credentials, Issuer, Nats, Process, claims, connect_with, create_room, history, list_rooms, publish,
};

/// How long the process may take to end.
const SOON: Duration = Duration::from_secs(20);

/// How bytes could stand in a log line: as text, in base64 and hexadecimal, and as the numbers of a list.
fn writings(bytes: &[u8]) -> Vec<String> {
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let hexadecimal: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        String::from_utf8_lossy(bytes).into_owned(),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
        hexadecimal.concat(),
        numbers.join(", "),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_keys_never_reach_the_log() {
    // Goal: the log can be given away. Method: at the most talkative level, tokens that are good, expired, forged, tampered with
    // and malformed, over gRPC and HTTP, and keys from a PEM file and a key set; look for any of them in every line, whole and
    // in parts. That refusals are told at all shows that the lines were written.
    let nats = Nats::start().await;
    let (issuer, forger) = (Issuer::new(), Issuer::es256());
    let dir = TempDir::new().unwrap();
    let set = dir.path().join("keys.json");
    let second = Issuer::new();
    let x = URL_SAFE_NO_PAD.encode(second.public_bytes());
    let private = "canaryPrivateKeyMaterialZq7vXw2LtB9sKd4RHn5";
    let entries = json!([
        { "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "canary-kid-1" },
        { "kty": "OKP", "crv": "Ed25519", "x": x, "d": private },
        { "kty": "oct", "k": private },
    ]);
    fs::write(&set, json!({ "keys": entries }).to_string()).unwrap();
    let (keys, jwks) =
        (format!("--auth-keys={}", issuer.public_key().display()), format!("--auth-jwks={}", set.display()));
    let mut process = Process::start_with(&nats, &["--auth=enforce", &keys, &jwks], Some("trace")).await;

    let good = issuer.token("ann");
    let mut expired = claims("ann");
    expired["exp"] = 1.into();
    let tampered = good.replace('.', ".e");
    let tokens = [
        good.clone(),
        second.token("bob"),
        issuer.sign(&expired),
        forger.token("canary-stranger"),
        tampered,
        "canary-malformed-Gc3Jf8VeT6mPy5".to_owned(),
    ];
    for token in &tokens {
        let client = connect_with(process.address(), Credentials::bearer(token)).await;
        drop(list_rooms(&client, 0, "").await);
        let url = format!("http://{}/rooms/lobby/history", process.address());
        reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
    }
    let client = connect_with(process.address(), Credentials::bearer(&good)).await;
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "hello").await.unwrap();
    drop(history(&client, "lobby", 10).await);
    process.terminate();
    process.wait(SOON).await;

    let log = process.stdout();
    assert!(log.iter().any(|line| line.contains("TRACE")), "the log is not at trace level");
    let told = log.iter().filter(|line| line.contains("a caller was refused")).count();
    assert!(told >= 8, "{told} refusals were told");
    let mut secrets = vec![private.as_bytes().to_vec(), issuer.public_bytes().to_vec(), second.public_bytes().to_vec()];
    for token in &tokens {
        secrets.extend(token.split('.').filter(|part| part.len() > 20).map(|part| part.as_bytes().to_vec()));
        secrets.extend(token.split('.').skip(1).filter_map(|part| URL_SAFE_NO_PAD.decode(part).ok()));
    }
    let writings: Vec<String> = secrets.iter().flat_map(|secret| writings(secret)).collect();
    let leaks: Vec<_> = log.iter().filter(|line| writings.iter().any(|writing| line.contains(writing))).collect();
    assert!(leaks.is_empty(), "{} lines, such as {}", leaks.len(), leaks[0]);
}

#[test]
fn a_failed_start_shows_no_key() {
    // Goal: the first lines can be given away too, and name the wrong flags. Method: a private key where a public one belongs,
    // and a key set at a URL with a secret in it that nobody serves.
    let private = include_str!("../support/rsa.pem");
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("key.pem");
    fs::write(&file, private).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_unibus"));
    command.env("RUST_LOG", "trace").args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--auth=enforce"]);
    command.arg(format!("--auth-keys={}", file.display()));
    command.args(["--auth-jwks=http://127.0.0.1:1/canary-path?canary-query"]);
    let done = command.output().unwrap();
    assert!(!done.status.success());
    let told = [done.stdout, done.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("`--auth-keys`") && told.contains("`--auth-jwks`"), "{told}");
    for secret in private.lines().filter(|line| !line.starts_with('-')).chain(["canary-path", "canary-query"]) {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
}
