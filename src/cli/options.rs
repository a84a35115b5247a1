//! The flags that every client command has.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    failure::{CliResult, Failure},
    output::{Colours, Printer},
    profiles::Profiles,
    values,
};

/// The environment variables of the client commands, each with its meaning.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    ("UNIBUS_SERVER", "as `--server`"),
    ("UNIBUS_TOKEN", "as `--token`"),
    ("UNIBUS_TOKEN_FILE", "as `--token-file`"),
    ("UNIBUS_CA", "as `--ca`"),
    ("UNIBUS_CERT", "as `--cert`"),
    ("UNIBUS_KEY", "as `--key`"),
    ("UNIBUS_TIMEOUT", "as `--timeout`"),
    ("UNIBUS_PROFILE", "as `--profile`"),
    (
        "UNIBUS_CLIENT_CONFIG",
        "the file of profiles; unset: `unibus/config.toml` in `$XDG_CONFIG_HOME`, or in `~/.config`",
    ),
    ("NO_COLOR", "set: no colours, unless `--color always` is given"),
];

/// The service when nothing names one.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
/// The time limit of a call when nothing sets one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the service is, who calls it, and the form of the output.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientOptions {
    #[command(flatten)]
    connection: ConnectionFlags,

    /// Profile in the file of profiles [env: `UNIBUS_PROFILE`]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    profile: Option<String>,

    /// Print JSON: one object per line, by the rules of proto3
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,

    /// Print only ids and sequences, and no remarks
    #[arg(long, short, global = true, help_heading = "Output")]
    quiet: bool,

    /// When to use colours
    #[arg(
        long = "color",
        alias = "colour",
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t = Colours::Auto,
        help_heading = "Output"
    )]
    colours: Colours,
}

/// The settings of a connection. Flags, the environment and a profile can each give them.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ConnectionFlags {
    /// URL of the service; https:// for TLS. Default: `http://127.0.0.1:50051` [env: `UNIBUS_SERVER`]
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection")]
    pub(super) server: Option<String>,

    /// Bearer token. Other users of the machine can see it, so prefer --token-file [env: `UNIBUS_TOKEN`]
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Connection", conflicts_with = "token_file")]
    pub(super) token: Option<String>,

    /// File with the bearer token; read again for each call [env: `UNIBUS_TOKEN_FILE`]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(super) token_file: Option<PathBuf>,

    /// PEM file with the authority of the service's certificate. Default: those that the machine trusts [env: `UNIBUS_CA`]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(super) ca: Option<PathBuf>,

    /// PEM file with a client certificate [env: `UNIBUS_CERT`]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection", requires = "key")]
    pub(super) cert: Option<PathBuf>,

    /// PEM file with the private key of --cert [env: `UNIBUS_KEY`]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection", requires = "cert")]
    pub(super) key: Option<PathBuf>,

    /// Time limit of connecting and of each call. Default: 10s [env: `UNIBUS_TIMEOUT`]
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Connection", value_parser = values::duration)]
    pub(super) timeout: Option<Duration>,
}

/// How a caller shows who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum TokenFrom {
    /// No token.
    #[default]
    Nowhere,
    /// This token.
    Text(String),
    /// The content of this file.
    File(PathBuf),
}

/// The settings in force.
#[derive(Clone, Debug)]
pub(super) struct Connecting {
    /// The URL of the service.
    pub(super) server: String,
    pub(super) token: TokenFrom,
    pub(super) ca: Option<PathBuf>,
    /// The certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) timeout: Duration,
}

impl ClientOptions {
    /// The printer that the flags ask for.
    pub(super) fn printer(&self) -> Printer {
        Printer::new(self.json, self.quiet, self.colours)
    }

    /// The settings of the connection: a flag wins over the environment, and the environment over the profile. The
    /// credentials of a profile are for its own server only.
    pub(super) fn connecting(&self) -> CliResult<Connecting> {
        let environment = ConnectionFlags::of_environment(|name| env::var(name).ok())?;
        let given = self.connection.clone().or(environment);
        let name = self.profile.clone().or_else(|| env::var("UNIBUS_PROFILE").ok().filter(|name| !name.is_empty()));
        let profile = Profiles::read()?.choose(name.as_deref())?;
        Ok(given.with_profile(profile))
    }
}

impl ConnectionFlags {
    /// What the variables set. An empty variable sets nothing.
    fn of_environment(variable: impl Fn(&str) -> Option<String>) -> CliResult<Self> {
        let get = |name| variable(name).filter(|value| !value.is_empty());
        let timeout = get("UNIBUS_TIMEOUT").map(|given| values::duration(&given)).transpose();
        let flags = Self {
            server: get("UNIBUS_SERVER"),
            token: get("UNIBUS_TOKEN"),
            token_file: get("UNIBUS_TOKEN_FILE").map(PathBuf::from),
            ca: get("UNIBUS_CA").map(PathBuf::from),
            cert: get("UNIBUS_CERT").map(PathBuf::from),
            key: get("UNIBUS_KEY").map(PathBuf::from),
            timeout: timeout.map_err(|problem| Failure::usage(format!("UNIBUS_TIMEOUT: {problem}")))?,
        };
        if flags.token.is_some() && flags.token_file.is_some() {
            return Err(Failure::usage("UNIBUS_TOKEN and UNIBUS_TOKEN_FILE are both set; set one of them"));
        }
        if flags.cert.is_some() != flags.key.is_some() {
            return Err(Failure::usage("UNIBUS_CERT and UNIBUS_KEY belong together; set both"));
        }
        Ok(flags)
    }

    /// These settings, and for what they leave open those of `other`. A token and its file are one setting, and so are a
    /// certificate and its key.
    fn or(self, other: Self) -> Self {
        let has_token = self.token.is_some() || self.token_file.is_some();
        let (token, token_file) =
            if has_token { (self.token, self.token_file) } else { (other.token, other.token_file) };
        let (cert, key) = if self.cert.is_some() { (self.cert, self.key) } else { (other.cert, other.key) };
        Self {
            server: self.server.or(other.server),
            token,
            token_file,
            ca: self.ca.or(other.ca),
            cert,
            key,
            timeout: self.timeout.or(other.timeout),
        }
    }

    /// The settings in force, with a profile for what these leave open.
    fn with_profile(self, profile: Self) -> Connecting {
        let same_server = self.server.is_none() || self.server == profile.server;
        let profile = if same_server { profile } else { Self { timeout: profile.timeout, ..Self::default() } };
        let all = self.or(profile);
        let token = match (all.token, all.token_file) {
            (Some(token), _) => TokenFrom::Text(token),
            (None, Some(file)) => TokenFrom::File(file),
            (None, None) => TokenFrom::Nowhere,
        };
        Connecting {
            server: all.server.unwrap_or_else(|| DEFAULT_SERVER.to_owned()),
            token,
            ca: all.ca,
            identity: all.cert.zip(all.key),
            timeout: all.timeout.unwrap_or(DEFAULT_TIMEOUT),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{path::PathBuf, time::Duration};

    use super::{ConnectionFlags, TokenFrom};

    fn flags(server: Option<&str>, token: Option<&str>, token_file: Option<&str>) -> ConnectionFlags {
        ConnectionFlags {
            server: server.map(str::to_owned),
            token: token.map(str::to_owned),
            token_file: token_file.map(PathBuf::from),
            ..ConnectionFlags::default()
        }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_profile() {
        let of = |given: ConnectionFlags, environment, profile| given.or(environment).with_profile(profile);
        let profile = || ConnectionFlags {
            timeout: Some(Duration::from_secs(1)),
            ca: Some(PathBuf::from("ca")),
            ..flags(Some("https://p"), Some("p-token"), None)
        };
        let none = || flags(None, None, None);
        let all = of(none(), none(), profile());
        assert_eq!((all.server.as_str(), all.token), ("https://p", TokenFrom::Text("p-token".to_owned())));
        let all = of(none(), flags(None, None, Some("file")), profile());
        assert_eq!((all.server.as_str(), all.token), ("https://p", TokenFrom::File(PathBuf::from("file"))));
        let all = of(flags(None, Some("f-token"), None), flags(None, None, Some("file")), profile());
        assert_eq!(all.token, TokenFrom::Text("f-token".to_owned()));
        let all = of(none(), none(), none());
        assert_eq!((all.server.as_str(), all.token), ("http://127.0.0.1:50051", TokenFrom::Nowhere));
    }

    #[test]
    fn the_credentials_of_a_profile_go_only_to_its_server() {
        let profile = || ConnectionFlags {
            timeout: Some(Duration::from_secs(1)),
            ca: Some(PathBuf::from("ca")),
            cert: Some(PathBuf::from("cert")),
            key: Some(PathBuf::from("key")),
            ..flags(Some("https://p"), Some("p-token"), None)
        };
        let elsewhere = flags(Some("https://other"), None, None).with_profile(profile());
        assert_eq!(elsewhere.token, TokenFrom::Nowhere);
        assert_eq!((elsewhere.ca, elsewhere.identity), (None, None));
        assert_eq!(elsewhere.timeout, Duration::from_secs(1));
        let same = flags(Some("https://p"), None, None).with_profile(profile());
        assert_eq!(same.token, TokenFrom::Text("p-token".to_owned()));
        assert!(same.ca.is_some() && same.identity.is_some());
    }

    #[test]
    fn an_ambiguous_environment_is_refused_and_an_empty_one_ignored() {
        let of = |variables: &[(&str, &str)]| {
            ConnectionFlags::of_environment(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(of(&[("UNIBUS_TOKEN", "a"), ("UNIBUS_TOKEN_FILE", "b")]).is_err());
        assert!(of(&[("UNIBUS_CERT", "a")]).is_err());
        assert!(of(&[("UNIBUS_TIMEOUT", "soon")]).is_err());
        let empty = of(&[("UNIBUS_SERVER", ""), ("UNIBUS_TOKEN", ""), ("UNIBUS_TOKEN_FILE", "b")]).unwrap();
        assert_eq!((empty.server, empty.token), (None, None));
    }
}
