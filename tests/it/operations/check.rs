//! `unibus check`: what it finds in whole and in broken setups, and that it changes nothing.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, jetstream};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Certificates, Cluster, Collector, Issuer, Nats, NatsOptions, Process, Unibus, bare_stream, create_room, eventually,
    free_port,
};

/// The permissions of the documentation.
const PERMISSIONS: &str = include_str!("../../../deploy/nats/permissions.conf");
/// What the command may take when NATS hangs.
const BOUND: Duration = Duration::from_secs(40);

/// What one run has found.
struct Found {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Found {
    /// The findings of this check with this status.
    fn with(&self, check: &str, status: &str) -> Vec<&Value> {
        self.findings.iter().filter(|finding| finding["check"] == check && finding["status"] == status).collect()
    }

    /// The names of the checks that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self.findings.iter().filter(|finding| finding["status"] == "fail");
        failed.map(|finding| finding["check"].as_str().expect("a name")).collect()
    }

    /// Asserts that this check failed or warned with this text, and says what to do.
    #[track_caller]
    fn assert(&self, check: &str, status: &str, found: &str) {
        let with = self.with(check, status);
        let is_found = with.iter().any(|finding| finding["found"].as_str().is_some_and(|text| text.contains(found)));
        assert!(is_found, "{check} {status} {found:?}: {:#?}", self.findings);
        let is_open = |finding: &&Value| finding["fix"].as_str().is_none_or(str::is_empty);
        assert_eq!(with.iter().filter(|finding| is_open(finding)).count(), 0, "{with:?}");
        assert_eq!(self.code, Some(i32::from(!self.failed().is_empty())));
    }
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unibus"));
    command.arg("check").args(args).stdin(Stdio::null());
    for (flag, value) in [("--listen", "127.0.0.1:0"), ("--admin-listen", "127.0.0.1:0")] {
        if !args.iter().any(|arg| arg.starts_with(flag)) {
            command.args([flag, value]);
        }
    }
    command.output().expect("the binary runs")
}

/// Runs the command, which must end with 0 or 1.
async fn check(args: &[&str]) -> Found {
    let args: Vec<String> = args.iter().copied().chain(["--json"]).map(str::to_owned).collect();
    let running = tokio::task::spawn_blocking(move || run(&args.iter().map(String::as_str).collect::<Vec<_>>()));
    let output = running.await.expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings = report["findings"].as_array().expect("findings").clone();
    let code = output.status.code();
    assert_eq!(report["status"] == "fail", code == Some(1), "{report}");
    assert!(output.stderr.is_empty(), "{output:?}");
    Found { code, findings }
}

async fn check_nats(nats: &Nats, args: &[&str]) -> Found {
    check(&[&[&*format!("--nats-url={}", nats.url())], args].concat()).await
}

/// What NATS stores: the streams, the number of their messages and their last sequence.
async fn stored(nats: &Nats) -> Vec<(String, u64, u64)> {
    let streams: Vec<_> = jetstream::new(nats.client().await).streams().try_collect().await.unwrap();
    let states = streams.into_iter().map(|info| (info.config.name, info.state.messages, info.state.last_sequence));
    let mut states: Vec<_> = states.collect();
    states.sort();
    states
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_setup_has_no_failure_and_is_not_changed() {
    // Goal: the command may run at any time. Method: a NATS server with rooms, and one with nothing; the documented permissions;
    // every check passes, and NATS stores and calls exactly what it did before.
    let extra = format!(
        "authorization {{\n  users: [\n    {{ user: unibus, password: secret\n{PERMISSIONS}\n    }}\n    \
         {{ user: admin, password: secret }}\n  ]\n}}\n"
    );
    let login = ConnectOptions::with_user_and_password("admin".into(), "secret".into());
    let nats = NatsOptions::new().extra(&extra).login(login).start().await;
    let login = ["--nats-user=unibus", "--nats-password=secret"];
    let found = check_nats(&nats, &login).await;
    assert_eq!((found.code, found.failed()), (Some(0), vec![]), "{:#?}", found.findings);
    assert_eq!(stored(&nats).await, []);

    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(nats.url());
        (config.nats.user, config.nats.password) = (Some("unibus".into()), Some("secret".into()));
    })
    .await;
    create_room(&unibus.client().await, "lobby").await;
    unibus.shutdown().await.unwrap();
    let before = stored(&nats).await;
    let mut heard = nats.client().await.subscribe("unibus.>").await.unwrap();
    let found = check_nats(&nats, &login).await;
    assert_eq!((found.code, found.failed()), (Some(0), vec![]), "{:#?}", found.findings);
    for name in ["nats-version", "nats-permissions", "jetstream", "jetstream-streams", "registry-replicas", "clock"] {
        assert_eq!(found.with(name, "ok").len(), 1, "{name} {:#?}", found.findings);
    }
    assert_eq!(stored(&nats).await, before);
    // what was sent while the permissions were tried is no message of a room
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(100), heard.next()).await {
        assert!(message.subject.contains("unibus_check") || message.subject.ends_with(".nobody"), "{message:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_a_lost_server_is_told() {
    // Goal: an operator sees which server is missing. Method: a cluster with a registry of three copies: all is well, and nothing
    // changes; kill a server: its address and the copy on it are told, which is no failure.
    let mut cluster = Cluster::start().await;
    let urls = cluster.urls();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(urls.clone());
        config.registry_replicas = 3;
    })
    .await;
    create_room(&unibus.client().await, "lobby").await;
    unibus.shutdown().await.unwrap();
    let before = stored(&cluster.nodes[0]).await;
    let (urls, replicas) = (format!("--nats-url={urls}"), "--registry-replicas=3");
    let found = check(&[&urls, replicas]).await;
    assert_eq!((found.code, found.failed()), (Some(0), vec![]), "{:#?}", found.findings);
    assert_eq!(found.with("nats-version", "ok").len(), 3);
    assert_eq!(found.with("registry-replicas", "ok").len(), 1, "{:#?}", found.findings);
    assert_eq!(stored(&cluster.nodes[0]).await, before);

    let leader = cluster.leader("KV_unibus_rooms").await;
    let lost = (leader + 1) % 3;
    let (name, port) = (cluster.nodes[lost].name(), cluster.nodes[lost].address().port().to_string());
    cluster.nodes[lost].kill9();
    eventually(BOUND, async || {
        let found = check(&[&urls, replicas]).await;
        let lagging = found.with("registry-replicas", "warn");
        let is_named = lagging.iter().any(|finding| finding["found"].as_str().is_some_and(|text| text.contains(&name)));
        let is_told = found
            .with("nats", "warn")
            .iter()
            .any(|finding| finding["found"].as_str().is_some_and(|text| text.contains(&port)));
        (is_named && is_told && found.code == Some(0)).then_some(()).ok_or_else(|| format!("{:#?}", found.findings))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_permission_is_named() {
    // Goal: an operator adds what is missing in one go. Method: take single permissions out of the documented ones, some of each
    // list; exactly these are found. Without the inbox too, where nothing is answered.
    for missing in [
        &["$JS.API.STREAM.PURGE.*", "$KV.unibus_members.>", "$JS.EVENT.ADVISORY.STREAM.>"][..],
        &["$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.FC.>", "$JS.API.INFO"],
        &["_INBOX_unibus.>"],
    ] {
        let mut permissions = PERMISSIONS.to_owned();
        for subject in missing {
            permissions = permissions.replacen(&format!("\"{subject}\""), "\"another.subject\"", 1);
        }
        let extra = format!(
            "authorization {{\n  users: [\n    {{ user: unibus, password: secret\n{permissions}\n    }}\n    \
             {{ user: admin, password: secret }}\n  ]\n}}\n"
        );
        let login = ConnectOptions::with_user_and_password("admin".into(), "secret".into());
        let nats = NatsOptions::new().extra(&extra).login(login).start().await;
        let found = check_nats(&nats, &["--nats-user=unibus", "--nats-password=secret"]).await;
        let failed = found.with("nats-permissions", "fail");
        assert_eq!(failed.len(), missing.len(), "{missing:?} {:#?}", found.findings);
        for subject in missing {
            found.assert("nats-permissions", "fail", &format!("\"{subject}\""));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_account_is_told() {
    // Goal: no surprise at the first room. Method: an account without JetStream, accounts whose streams are used up, or nearly,
    // one that requires bounds that the service does not set, and too many replicas for one server.
    let nats = NatsOptions::new().without_jetstream().start().await;
    check_nats(&nats, &[]).await.assert("jetstream", "fail", "not enabled");

    let account = |limits: &str| {
        format!("accounts {{ A {{ jetstream: {{ {limits} }}\n users: [ {{ user: ann, password: secret }} ] }} }}\n")
    };
    let login = || ConnectOptions::with_user_and_password("ann".into(), "secret".into());
    let flags = ["--nats-user=ann", "--nats-password=secret"];
    let limits = account("max_streams: 1, max_consumers: 10, max_file: 10MB");
    let nats = NatsOptions::new().extra(&limits).login(login()).start().await;
    let found = check_nats(&nats, &flags).await;
    assert_eq!(found.failed(), Vec::<&str>::new());
    jetstream::new(nats.client().await).create_stream(bare_stream("x")).await.unwrap();
    let found = check_nats(&nats, &[&flags[..], &["--registry-replicas=3"]].concat()).await;
    found.assert("jetstream-streams", "fail", "1 of 1");
    found.assert("registry-replicas", "fail", "no cluster");
    assert_eq!(found.with("jetstream-consumers", "ok").len(), 1);
    assert_eq!(found.with("jetstream-storage", "ok").len(), 1);

    let limits = account("max_streams: 10, max_bytes_required: true, max_file: 10MB");
    let nats = NatsOptions::new().extra(&limits).login(login()).start().await;
    check_nats(&nats, &flags).await.assert("jetstream-storage", "fail", "max_bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_can_never_store_its_copies_ends() {
    // Goal: no start waits for what cannot come. Method: three copies of the registry on a server in no cluster: the start names
    // the flag. A registry that exists keeps its one copy, and the service starts.
    let nats = Nats::start().await;
    let configured = |replicas| {
        let url = nats.url();
        Unibus::try_configured(move |config| {
            config.nats.url = Some(url);
            config.registry_replicas = replicas;
        })
    };
    let begun = Instant::now();
    let error = configured(3).await.err().expect("a refusal");
    let fields: Vec<_> = error.violations().iter().map(|violation| &*violation.field).collect();
    assert_eq!(fields, ["registry_replicas"]);
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    configured(1).await.expect("it starts").shutdown().await.unwrap();
    configured(3).await.expect("it starts").shutdown().await.unwrap();
}

#[test]
fn what_cannot_be_parsed_is_told_in_json_too() {
    // Goal: a script reads one format. Method: an unknown flag, and a file with two mistakes; each ends with 2, and is told in
    // JSON on standard output and in words on standard error.
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("unibus.toml");
    fs::write(&file, "lisen = \"127.0.0.1:0\"\nzebra = 1\n").unwrap();
    let config = format!("--config={}", file.display());
    for (args, expected) in [(["--json", "--zebra"], &["--zebra"][..]), ([&config, "--json"], &["`listen`", "zebra"])] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["status"], &report["findings"][0]["status"]), (&"fail".into(), &"fail".into()));
        let (found, words) =
            (report["findings"][0]["found"].as_str().unwrap(), String::from_utf8_lossy(&output.stderr));
        for part in expected {
            assert!(found.contains(part) && words.contains(part), "{part}: {found}, {words}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_reached_is_told_in_bounded_time() {
    // Goal: the command ends, whatever NATS does. Method: nobody listens, a listener that never answers, a frozen server, a wrong
    // password, and one server of two.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let closed = free_port();
    let login = ConnectOptions::with_user_and_password("ann".into(), "secret".into());
    let guarded =
        NatsOptions::new().extra("authorization { user: ann, password: secret }\n").login(login).start().await;
    let frozen = Nats::start().await;
    frozen.freeze().await;
    let begun = Instant::now();
    for address in [format!("127.0.0.1:{closed}"), silent.to_string(), frozen.address().to_string()] {
        let found = check(&[&format!("--nats-url=nats://{address}")]).await;
        found.assert("nats", "fail", &address);
        assert_eq!(found.with("nats", "skip").len(), 1);
    }
    let wrong = check_nats(&guarded, &["--nats-user=ann", "--nats-password=wrong"]).await;
    wrong.assert("nats", "fail", "credentials");
    let both = format!("--nats-url={},nats://127.0.0.1:{closed}", guarded.url());
    let found = check(&[&both, "--nats-user=ann", "--nats-password=secret"]).await;
    found.assert("nats", "warn", &closed.to_string());
    assert_eq!(found.failed(), Vec::<&str>::new());
    assert!(begun.elapsed() < 3 * BOUND, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_files_are_told_by_their_flags() {
    // Goal: a certificate that ends is found before it does. Method: an expired certificate, a key of another one, a file without
    // a key, keys that do not exist, and a secret that everybody may read; each under its flag, all in one run where they can be.
    let nats = Nats::start().await;
    let certificates = Certificates::new();
    let (server, expired) = (certificates.server(), certificates.expired_client());
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let found = check_nats(
        &nats,
        &[
            &flag("tls-certificate", &expired.certificate),
            &flag("tls-key", &expired.key),
            "--auth=enforce",
            "--auth-keys=/no/such/key.pem",
            &flag("nats-tls-ca", &expired.key),
        ],
    )
    .await;
    found.assert("--tls-certificate", "fail", "expired 2021-01-01");
    found.assert("--auth-keys", "fail", "/no/such/key.pem");
    found.assert("--nats-tls-ca", "fail", "certificate");
    let found =
        check_nats(&nats, &[&flag("tls-certificate", &server.certificate), &flag("tls-key", &expired.key)]).await;
    found.assert("--tls-key", "fail", "does not belong");
    let pair = [flag("tls-certificate", &server.certificate), flag("tls-key", &server.key)];
    fs::set_permissions(&server.key, fs::Permissions::from_mode(0o644)).unwrap();
    let issuer = Issuer::new();
    let keys = flag("auth-keys", &issuer.public_key());
    let found = check_nats(&nats, &[&pair[0], &pair[1], "--auth=enforce", &keys]).await;
    found.assert("--tls-key", "warn", "every user");
    assert_eq!(found.failed(), Vec::<&str>::new());
    let found = check_nats(&nats, &["--listen=0.0.0.0:0"]).await;
    found.assert("--auth", "fail", "other machines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_server_and_this_machine_are_checked() {
    // Goal: a start that would fail is found before. Method: an empty place; a directory that others can write; one below a file;
    // a program that is not nats-server; ports that are taken; then a service that runs, which is no failure.
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("data");
    let data_dir = format!("--data-dir={}", place.display());
    let example = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/deploy/unibus.example.toml");
    let found = check(&[&data_dir, example]).await;
    assert_eq!(found.failed(), Vec::<&str>::new());
    for name in ["configuration", "--data-dir", "disk-space", "--nats-server", "open-files"] {
        let (ok, warned) = (found.with(name, "ok"), found.with(name, "warn"));
        assert_eq!(ok.len() + warned.len(), 1, "{name} {:#?}", found.findings);
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "it leaves nothing behind");

    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    check(&[&data_dir]).await.assert("--data-dir", "fail", "others can write");
    fs::remove_dir(&place).unwrap();
    fs::write(&place, "a file").unwrap();
    check(&[&data_dir]).await.assert("--data-dir", "fail", "data");
    check(&[&format!("{data_dir}/below")]).await.assert("--data-dir", "fail", "data");
    fs::remove_file(&place).unwrap();
    let found = check(&[&data_dir, "--nats-server=/bin/true"]).await;
    found.assert("--nats-server", "fail", "/bin/true");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let found = check(&[&data_dir, &format!("--listen={taken}")]).await;
    found.assert("--listen", "fail", &taken.to_string());

    let mut process = Process::spawn(&[&data_dir]);
    process.ready().await;
    let (listen, admin) =
        (format!("--listen={}", process.address()), format!("--admin-listen={}", process.admin_address()));
    let found = check(&[&data_dir, &listen, &admin]).await;
    assert_eq!(found.failed(), Vec::<&str>::new(), "{:#?}", found.findings);
    for name in ["--listen", "--admin-listen", "--data-dir"] {
        assert_eq!(found.with(name, "warn").len(), 1, "{name} {:#?}", found.findings);
    }
    create_room(&process.client().await, "lobby").await;
}

/// A small disk, gone when dropped. `None` where the tests may not mount one, which takes root.
struct Disk(TempDir);

impl Disk {
    fn mount(options: &str) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            assert!(!rustix::process::geteuid().is_root(), "root can mount a tmpfs");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_one_that_takes_nothing_are_told() {
    // Goal: a disk on which the service would refuse publishes is found before. Method: a disk of 16 MiB, with more and with less
    // free space than the reserve; one that is mounted for reading only.
    let Some(disk) = Disk::mount("size=16m") else { return };
    let data_dir = format!("--data-dir={}", disk.0.path().join("data").display());
    assert_eq!(check(&[&data_dir]).await.with("disk-space", "fail").len(), 0);
    fs::write(disk.0.path().join("filler"), vec![0; 13 * 1024 * 1024]).unwrap();
    check(&[&data_dir]).await.assert("disk-space", "fail", "free");
    drop(disk);
    let Some(disk) = Disk::mount("size=16m,ro") else { return };
    let data_dir = format!("--data-dir={}", disk.0.path().join("data").display());
    check(&[&data_dir]).await.assert("--data-dir", "fail", "cannot be written");
}

#[test]
fn a_wrong_flag_ends_the_command_with_another_status() {
    // Goal: a script tells a mistake in its call from a broken setup. Method: an unknown flag, a wrong value, a wrong file; and the
    // table for people, of a setup without NATS.
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("unibus.toml");
    fs::write(&file, "no-such-flag = 1\n").unwrap();
    let config = format!("--config={}", file.display());
    for args in [&["--no-such-flag"][..], &["--listen=nowhere"], &[&config]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?} {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    fs::write(&file, format!("nats-url = \"nats://127.0.0.1:{}\"\n", free_port())).unwrap();
    let output = run(&[&config]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.lines().any(|line| line.starts_with("fail  nats")) && table.contains("1 failed"), "{table}");
    assert!(!table.contains('\u{1b}'), "colours are for terminals: {table:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_collector_of_traces_is_a_warning() {
    // Goal: an operator learns that traces would be lost, and the service may start all the same. Method: an endpoint where a
    // collector listens, one where nothing does, and none.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let found = check_nats(&nats, &[&format!("--otlp-endpoint={}", collector.url())]).await;
    assert_eq!((found.code, found.with("--otlp-endpoint", "ok").len()), (Some(0), 1), "{:#?}", found.findings);
    let missing = check_nats(&nats, &[&format!("--otlp-endpoint=http://127.0.0.1:{}", free_port())]).await;
    missing.assert("--otlp-endpoint", "warn", "cannot be reached");
    assert_eq!(missing.code, Some(0));
    let off = check_nats(&nats, &[]).await;
    assert!(off.findings.iter().all(|finding| finding["check"] != "--otlp-endpoint"));
}
