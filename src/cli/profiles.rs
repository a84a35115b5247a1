//! The file of profiles: named settings of connections.

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    failure::{CliResult, Failure},
    options::ConnectionFlags,
    values,
};

/// The bits of a file's mode that let anyone but its owner use the file.
const MODE_OF_OTHERS: u32 = 0o077;

/// The content of the file.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    /// `None` if the file does not exist.
    path: Option<PathBuf>,
    content: ProfilesFile,
    /// Whether other users can read the file.
    is_open_to_others: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfilesFile {
    /// The profile when none is named.
    profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, ProfileEntry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ProfileEntry {
    server: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    timeout: Option<String>,
}

impl Profiles {
    /// Reads the file that the environment names, or else the one in the user's configuration directory, if it exists.
    pub(super) fn read() -> CliResult<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(named) = set("UNIBUS_CLIENT_CONFIG") {
            return Self::of(&named)?.ok_or_else(|| {
                Failure::usage(format!("the file of profiles does not exist: {}", named.display()))
                    .hint("UNIBUS_CLIENT_CONFIG names this file.")
            });
        }
        let directory = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        let Some(directory) = directory else { return Ok(Self::default()) };
        Ok(Self::of(&directory.join("unibus").join("config.toml"))?.unwrap_or_default())
    }

    /// The content of this file; `None` if the file does not exist.
    fn of(path: &Path) -> CliResult<Option<Self>> {
        let wrong = |problem: &dyn std::fmt::Display| Failure::usage(format!("{}: {problem}", path.display()));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&error)),
        };
        let mode = fs::metadata(path).map_err(|error| wrong(&error))?.permissions().mode();
        let content = toml::from_str(&text).map_err(|error| wrong(&error))?;
        Ok(Some(Self { path: Some(path.to_owned()), content, is_open_to_others: mode & MODE_OF_OTHERS != 0 }))
    }

    /// The settings of this profile, or of the one that the file chooses. Without either: no settings.
    pub(super) fn choose(self, name: Option<&str>) -> CliResult<ConnectionFlags> {
        let Some(name) = name.or(self.content.profile.as_deref()) else { return Ok(ConnectionFlags::default()) };
        let Some(path) = &self.path else {
            return Err(Failure::usage(format!("there is no profile {name}, because there is no file of profiles")));
        };
        let wrong = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
        let Some(entry) = self.content.profiles.get(name).cloned() else {
            let known: Vec<_> = self.content.profiles.keys().map(String::as_str).collect();
            return Err(wrong(format!("there is no profile {name}; the profiles are: {}", known.join(", "))));
        };
        if entry.token.is_some() && self.is_open_to_others {
            return Err(wrong(format!("the profile {name} has a token, and other users can read the file"))
                .hint(format!("Run `chmod 600 {}`.", path.display())));
        }
        if entry.token.is_some() && entry.token_file.is_some() {
            return Err(wrong(format!("the profile {name} has both token and token-file; remove one")));
        }
        if entry.cert.is_some() != entry.key.is_some() {
            return Err(wrong(format!("the profile {name} has cert or key without the other; give both")));
        }
        let timeout = entry.timeout.as_deref().map(values::duration).transpose();
        let beside = |file: PathBuf| beside(path, file);
        Ok(ConnectionFlags {
            server: entry.server,
            token: entry.token,
            token_file: entry.token_file.map(beside),
            ca: entry.ca.map(beside),
            cert: entry.cert.map(beside),
            key: entry.key.map(beside),
            timeout: timeout.map_err(|problem| wrong(format!("timeout of the profile {name}: {problem}")))?,
        })
    }
}

/// The path of a file that the file of profiles names: `~/` is the home directory, and a relative path begins beside
/// the file of profiles.
fn beside(profiles: &Path, file: PathBuf) -> PathBuf {
    if let (Ok(rest), Some(home)) = (file.strip_prefix("~"), env::var_os("HOME")) {
        return Path::new(&home).join(rest);
    }
    profiles.parent().map(|folder| folder.join(&file)).unwrap_or(file)
}
