//! Completion scripts of shells.

use clap::Args;
use clap_complete::{Shell, generate};

use super::{failure::CliResult, output::Printer};

/// Print a completion script for a shell.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Writes the script to standard output.
    pub(super) fn run(&self, mut program: clap::Command, out: &Printer) -> CliResult {
        let mut script = Vec::new();
        generate(self.shell, &mut program, "unibus", &mut script);
        out.bytes(&script)
    }
}
