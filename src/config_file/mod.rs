//! The configuration file: values of flags, in TOML.
//!
//! The key of a value is the name of its flag. The values become arguments of the command line, unless the command line
//! or the environment sets the same flag. So the parser of the flags also checks the file.

mod changes;
mod flags;
mod values;

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Command, error::ErrorKind, parser::ValueSource};

pub use self::changes::FlagChange;
use self::changes::FlagsInForce;

/// The id of the flag that names the file, in every command that has it.
const FILE_FLAG: &str = "config_file";

/// The sources of the flags' values: the command line of the program, the environment, and the configuration file.
pub struct FlagSources {
    command: Command,
    arguments: Vec<OsString>,
    in_force: FlagsInForce,
}

/// Without the arguments, which may contain secrets.
impl fmt::Debug for FlagSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlagSources").finish_non_exhaustive()
    }
}

impl FlagSources {
    /// The flags whose values may change while the service runs, without their dashes.
    pub const LIVE: &[&str] = changes::LIVE;

    /// Parses the arguments, the first of which is the name of the program, together with the environment and the file
    /// that the flag `--config` names.
    ///
    /// # Errors
    /// When an argument, a variable or a value of the file is wrong. The error names all wrong values of the file with
    /// their lines.
    pub fn parse(
        command: Command,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<(Self, ArgMatches), clap::Error> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let (matches, in_force) = parse(&command, &arguments)?;
        Ok((Self { command, arguments, in_force }, matches))
    }

    /// Reads the file again, and returns the values of the flags and what has changed. See [`Self::set_in_force`].
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_again(&self) -> Result<(ArgMatches, Vec<FlagChange>), clap::Error> {
        let (matches, new) = parse(&self.command, &self.arguments)?;
        Ok((matches, self.in_force.changes(&new)))
    }

    /// Records that the changes are in force, except those that need a restart.
    pub fn set_in_force(&mut self, changes: &[FlagChange]) {
        self.in_force.apply(changes);
    }
}

fn parse(command: &Command, arguments: &[OsString]) -> Result<(ArgMatches, FlagsInForce), clap::Error> {
    let Some(given) = Given::find(command, arguments) else {
        let matches = command.clone().try_get_matches_from(arguments)?;
        return Ok((matches, FlagsInForce::default()));
    };
    let mut with_file = arguments.to_vec();
    if let Some(file) = &given.file {
        let values = values::read(file).and_then(|values| flags::check(&given.command, values));
        let values = values.map_err(|problems| wrong_file(command, file, &problems))?;
        // before the given arguments, because everything after `--` would not be a flag
        let place = given.depth.min(with_file.len());
        let unset = values.into_iter().filter(|value| !given.sets(&value.flag));
        drop(with_file.splice(place..place, unset.flat_map(|value| value.arguments)));
    }
    let matches = command.clone().try_get_matches_from(with_file)?;
    let in_force = FlagsInForce::of(&given.command, innermost(&matches));
    Ok((matches, in_force))
}

/// What the command line gives, before the file is read.
struct Given {
    /// The command that runs: the program itself, or a command below it.
    command: Command,
    /// The number of arguments up to the name of the command.
    depth: usize,
    set: Vec<String>,
    file: Option<PathBuf>,
}

impl Given {
    /// Finds the command that runs. `None` if it takes no configuration file, or if the arguments ask for help.
    fn find(command: &Command, arguments: &[OsString]) -> Option<Self> {
        // flags may miss others that the file sets; the second parse reports what is wrong
        let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
        let (mut running, mut found, mut depth) = (command, &matches, 1);
        while let Some((name, below)) = found.subcommand() {
            (running, found, depth) = (running.find_subcommand(name)?, below, depth + 1);
        }
        if !running.get_arguments().any(|flag| flag.get_id() == FILE_FLAG) {
            return None;
        }
        let is_given = |flag: &clap::Arg| found.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine);
        let is_in_environment = |flag: &clap::Arg| flag.get_env().is_some_and(|name| env::var_os(name).is_some());
        let set = running.get_arguments().filter(|flag| is_given(flag) || is_in_environment(flag));
        let set = set.filter_map(|flag| flag.get_long().map(str::to_owned)).collect();
        let file = found.try_get_one::<PathBuf>(FILE_FLAG).ok()?.cloned();
        Some(Self { command: running.clone(), depth, set, file })
    }

    /// Whether the command line or the environment sets this flag.
    fn sets(&self, flag: &str) -> bool {
        self.set.iter().any(|set| set == flag)
    }
}

fn innermost(matches: &ArgMatches) -> &ArgMatches {
    let mut innermost = matches;
    while let Some((_, below)) = innermost.subcommand() {
        innermost = below;
    }
    innermost
}

fn wrong_file(command: &Command, file: &Path, problems: &[String]) -> clap::Error {
    let mut text = format!("the configuration file {} cannot be used:\n", file.display());
    for problem in problems {
        text.push_str("  ");
        text.push_str(problem);
        text.push('\n');
    }
    clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
}
