//! What a running command works with: the service and the output.

use std::io::{self, BufRead, IsTerminal, Write};

use tonic::Request;

use super::{
    connection::{Connector, RoomClient},
    exit::Exit,
    failure::{CliResult, Failure},
    options::ClientOptions,
    output::Printer,
};

/// One run of a client command.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Prints the results.
    pub(crate) out: Printer,
    /// Makes connections.
    pub(crate) connector: Connector,
}

impl Session {
    /// Reads the settings. Nothing is sent.
    pub(super) fn open(options: &ClientOptions, out: Printer) -> CliResult<Self> {
        let connector = Connector::new(options.connecting()?)?;
        if connector.exposes_token() {
            out.notice("the token goes to another machine without TLS; anyone on the way can read it");
        }
        Ok(Self { out, connector })
    }

    /// A client with a new connection.
    pub(crate) async fn client(&self) -> CliResult<RoomClient> {
        self.connector.connect().await
    }

    /// The request with the time limit of a call.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.connector.timeout());
        request
    }

    /// Whether the same call may succeed later, over a new connection.
    pub(crate) fn may_pass(&self, failure: &Failure) -> bool {
        match failure.reason() {
            None => matches!(failure.exit(), Exit::Unreachable | Exit::Timeout),
            // the file has a new token by now, or gets one soon
            Some("CREDENTIALS_EXPIRED") => self.connector.has_token_file(),
            Some(_) => failure.retry_after().is_some(),
        }
    }

    /// Asks the person at the terminal whether to go on, unless `--yes` is given.
    pub(crate) fn confirm(question: &str, is_given: bool) -> CliResult {
        if is_given {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::usage(format!("{question}: not confirmed")).hint("Add --yes if you are sure."));
        }
        let mut answer = String::new();
        let asked = write!(io::stderr().lock(), "{question}? [y/N] ");
        asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).map_err(|error| Failure::output(&error))?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Failure::usage("nothing was done"))
    }
}
