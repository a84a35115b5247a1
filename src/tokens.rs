//! The commands that make keys and tokens, so that the service can be tried without other tools.
//!
//! The doc comments of [`TokenCommand`] are the text of `--help`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Subcommand;
use serde_json::{Map, Value};

use crate::{
    auth::issue,
    domain::MemberId,
    error::{Error, Result},
};

/// A command that the program runs instead of the service.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a key that signs tokens
    ///
    /// Writes an Ed25519 private key to FILE, a PEM file that only its owner can read. Writes the public key, for
    /// --auth-keys, to FILE.pub. Neither file may exist.
    Key {
        /// File for the private key; the public key is written to FILE.pub
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make a token
    ///
    /// Writes the token to standard output. Clients send it in the header `authorization: Bearer TOKEN`.
    Token {
        /// PEM file with an Ed25519 private key, made by `unibus key` or openssl
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Authenticated id of the holder
        #[arg(long, value_name = "ID")]
        sub: String,
        /// How long the token is valid
        #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// Issuer (`iss`), for a service with --auth-issuer
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
        /// Audience (`aud`), for a service with --auth-audience
        #[arg(long, value_name = "NAME")]
        audience: Option<String>,
        /// A further claim; a value that is not JSON is taken as text. May be given several times
        #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
        claim: Vec<(String, Value)>,
    },
}

impl TokenCommand {
    /// Runs the command; returns the text for standard output.
    ///
    /// # Errors
    /// `INVALID_FIELD` if a file cannot be read or written, or exists already. No file was changed or created.
    pub fn run(&self) -> Result<String> {
        match self {
            Self::Key { out } => write_key(out).map(|()| String::new()),
            Self::Token { key, sub, ttl, issuer, audience, claim } => {
                let sub = MemberId::parse("sub", sub.as_str())?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let end =
                    now.checked_add(*ttl).ok_or_else(|| Error::field("ttl", "is too long; give a shorter duration"))?;
                let mut claims: Map<_, _> = claim.iter().cloned().collect();
                claims.insert("sub".to_owned(), sub.as_str().into());
                claims.insert("iat".to_owned(), now.as_secs().into());
                claims.insert("exp".to_owned(), end.as_secs().into());
                for (name, value) in [("iss", issuer), ("aud", audience)] {
                    if let Some(value) = value {
                        claims.insert(name.to_owned(), value.as_str().into());
                    }
                }
                issue::sign(key, &claims).map(|token| token + "\n")
            }
        }
    }
}

/// Parses a claim of the command line. Claims that have a flag of their own, and `iat`, are refused.
fn claim(given: &str) -> Result<(String, Value), String> {
    let (name, value) = given.split_once('=').ok_or("must be NAME=VALUE")?;
    if matches!(name, "" | "sub" | "exp" | "iat" | "iss" | "aud") {
        return Err(
            "must name a claim other than sub, exp, iat, iss and aud; use --sub, --ttl, --issuer or --audience"
                .to_owned(),
        );
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

fn write_key(private: &Path) -> Result<()> {
    let mut public = private.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    let files = issue::new_key()?;
    write_new(&public, &files.public, 0o644)?;
    write_new(private, &files.private, 0o600).inspect_err(|_| drop(fs::remove_file(&public)))
}

/// Writes a file that must not exist yet. The file has `mode` before its first byte is written.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let wrong = |error: io::Error| {
        let problem = if error.kind() == io::ErrorKind::AlreadyExists {
            "exists and is not overwritten; give another path".to_owned()
        } else {
            error.to_string()
        };
        Error::field("out", format!("{}: {problem}", path.display())).because(error)
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(wrong)?;
    file.write_all(text.as_bytes()).map_err(|error| {
        drop(fs::remove_file(path));
        wrong(error)
    })
}
