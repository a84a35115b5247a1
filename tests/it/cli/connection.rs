//! How a command finds its service and shows who calls: flags, environment, profiles, TLS.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;
use unibus::AuthMode;

use crate::support::{Certificates, Cli, Issuer, Lobby, Nats, Unibus, free_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_names_a_service_with_its_certificates_and_token() {
    // Goal: a whole connection in one word. Method: a service with mutual TLS that asks for tokens; a file of profiles with
    // relative paths; the profile by flag, by variable, and as the file's own choice.
    let (nats, certificates, issuer) = (Nats::start().await, Certificates::new(), Issuer::new());
    let (url, server, authority, keys) =
        (nats.url(), certificates.server(), certificates.authority(), issuer.public_key());
    let service = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.tls.certificate = Some(server.certificate);
        config.tls.key = Some(server.key);
        config.tls.client_ca = Some(authority);
        config.auth.mode = AuthMode::Enforce;
        config.auth.keys = vec![keys];
    })
    .await;
    let cli = Cli::bare();
    let shown = certificates.client();
    let config = |name: &str| format!(".config/unibus/{name}");
    cli.write(&config("ca.pem"), fs::read(certificates.authority()).unwrap());
    cli.write(&config("me.pem"), fs::read(&shown.certificate).unwrap());
    cli.write("me.key", fs::read(&shown.key).unwrap());
    cli.write(&config("token"), issuer.token("ann") + "\n");
    let profile = format!(
        "[profiles.home]\nserver = \"https://{}\"\nca = \"ca.pem\"\ncert = \"me.pem\"\nkey = \"~/me.key\"\n\
         token-file = \"token\"\ntimeout = \"20s\"\n",
        service.address()
    );
    cli.write(&config("config.toml"), &profile);
    let created = cli.json(&["room", "create", "ops", "--profile", "home"]).await;
    assert_eq!(created[0]["creator"], "ann");
    let done = cli.run(&["room", "list"]).await;
    assert_eq!(done.status, Some(3), "no profile is chosen: {done:?}");
    cli.write(&config("config.toml"), format!("profile = \"home\"\n{profile}"));
    assert_eq!(cli.ok(&["room", "list", "-q"]).await, "ops\n");
    // everything that the profile says can be said by flags
    let (ca, cert) = (cli.path(&config("ca.pem")), cli.path(&config("me.pem")));
    let (ca, cert, server) = (ca.to_str().unwrap(), cert.to_str().unwrap(), format!("https://{}", service.address()));
    let flags = ["--server", &server, "--ca", ca, "--cert", cert, "--key", "me.key", "--token", &issuer.token("bob")];
    assert!(
        Cli::of(service.address())
            .json(
                &[&["room", "list"][..], &absolute(&cli, &flags).iter().map(String::as_str).collect::<Vec<_>>()]
                    .concat()
            )
            .await
            .is_empty()
    );
    // without the authority the service is not trusted, and without the certificate it does not answer
    for left_out in ["--ca", "--cert"] {
        let mut flags = absolute(&cli, &flags);
        let at = flags.iter().position(|flag| flag == left_out).unwrap();
        let count = if left_out == "--cert" { 4 } else { 2 };
        flags.drain(at..at + count);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let done = Cli::bare().run(&[&["room", "list"][..], &flags].concat()).await;
        assert_eq!(done.status, Some(3), "{left_out}: {done:?}");
    }
    service.shutdown().await.unwrap();
}

/// The flags with the one relative path made absolute.
fn absolute(cli: &Cli, flags: &[&str]) -> Vec<String> {
    let key = cli.path("me.key").to_str().unwrap().to_owned();
    flags.iter().map(|flag| if *flag == "me.key" { key.clone() } else { (*flag).to_owned() }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_the_service_do_not_touch_the_commands() {
    // Goal: one environment for service and commands. Method: every variable of the service has a value that the service refuses,
    // and the commands work.
    let (lobby, _client) = Lobby::open().await;
    let mut cli = Cli::of(lobby.unibus.address());
    for arg in <unibus::Config as clap::CommandFactory>::command().get_arguments() {
        if let Some(name) = arg.get_env() {
            cli = cli.with(&name.to_string_lossy(), "\u{1}nonsense");
        }
    }
    assert_eq!(cli.ok(&["room", "list", "-q"]).await, "lobby\n");
    assert_eq!(cli.run(&["serve"]).await.status, Some(2));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_setting_is_named_before_anything_is_sent() {
    // Goal: mistakes in the settings are no mystery. Method: each kind of wrong setting ends with the status of usage.
    let cli = Cli::bare();
    cli.write("wrong.toml", "[profiles.a]\nservr = \"x\"\n");
    cli.write("both.toml", "[profiles.a]\ntoken = \"x\"\ntoken-file = \"y\"\n");
    cli.write("a.toml", "[profiles.a]\nserver = \"http://127.0.0.1:1\"\n");
    let open = cli.write("open.toml", "profile = \"a\"\n[profiles.a]\ntoken = \"x\"\n");
    fs::set_permissions(open, fs::Permissions::from_mode(0o644)).unwrap();
    for (file, args) in [
        ("", &["--server", "ftp://127.0.0.1"][..]),
        ("", &["--server", "http://[::1"]),
        ("", &["--ca", "missing.pem"]),
        ("", &["--server", "http://127.0.0.1:1", "--ca", "wrong.toml"]),
        ("", &["--cert", "wrong.toml"]),
        ("", &["--token", "a", "--token-file", "b"]),
        ("", &["--token-file", "missing"]),
        ("", &["--token", "a\nb"]),
        ("", &["--timeout", "soon"]),
        ("", &["--profile", "a"]),
        ("missing.toml", &[]),
        ("wrong.toml", &["--profile", "a"]),
        ("both.toml", &["--profile", "a"]),
        ("open.toml", &[]),
        ("a.toml", &["--profile", "b"]),
    ] {
        let shell = Cli::bare().with(
            "UNIBUS_CLIENT_CONFIG",
            &if file.is_empty() { String::new() } else { cli.path(file).to_str().unwrap().to_owned() },
        );
        shell.write("wrong.toml", fs::read(cli.path("wrong.toml")).unwrap());
        let done = shell.run(&[&["room", "list"], args].concat()).await;
        assert_eq!(done.status, Some(2), "{file} {args:?}: {done:?}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{file} {args:?}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_cannot_be_reached_has_a_status_of_its_own() {
    // Goal: "not there" is not "refused". Method: nobody listens; something else listens; TLS against a service without it.
    let (lobby, _client) = Lobby::open().await;
    let nobody = Cli::of(([127, 0, 0, 1], free_port()).into());
    assert_eq!(nobody.run(&["room", "list"]).await.status, Some(3));
    let other = Cli::of(lobby.nats.address());
    let done = other.run(&["room", "list", "--timeout", "3s"]).await;
    assert_eq!(done.status, Some(3), "{done:?}");
    let tls = Cli::bare().with("UNIBUS_SERVER", &format!("https://{}", lobby.unibus.address()));
    let done = tls.run(&["room", "list", "--json"]).await;
    assert_eq!((done.status, &done.error()["exitStatus"]), (Some(3), &json!(3)));
    lobby.unibus.shutdown().await.unwrap();
}
