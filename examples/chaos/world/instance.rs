//! A unibus process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{children::Child, node::free_port};

const START_WITHIN: Duration = Duration::from_secs(40);

/// An instance of the service, which keeps its ports over restarts. Ends when dropped.
pub(crate) struct Instance {
    pub address: SocketAddr,
    admin: SocketAddr,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Instance {
    pub(crate) fn new(program: &Path, log: PathBuf, args: Vec<String>) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        Ok(Self { address, admin, program: program.into(), args, log, child: Mutex::default() })
    }

    pub(crate) fn start(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["--listen", &self.address.to_string(), "--admin-listen", &self.admin.to_string()]);
        let child = Child::run(command.args(&self.args).env("RUST_LOG", "info,unibus=debug"), &self.log)?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) async fn ready(&self) -> Result<()> {
        let until = Instant::now() + START_WITHIN;
        loop {
            match self.readyz().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => sleep(Duration::from_millis(30)).await,
            }
        }
    }

    /// Asks `/readyz` once. Fails unless it answers 200.
    pub(crate) async fn readyz(&self) -> Result<()> {
        let mut answer = Vec::new();
        let asked = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n").await?;
            stream.read_to_end(&mut answer).await
        };
        timeout(Duration::from_secs(5), asked).await??;
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { bail!("/readyz: {answer}") }
    }

    pub(crate) fn kill(&self) {
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Sends SIGTERM and waits for the end. Returns whether the process ended within `within`.
    pub(crate) async fn drain(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
        child.signal(Signal::TERM);
        while child.runs() {
            if Instant::now() > until {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Whether the process runs.
    pub(crate) fn runs(&self) -> bool {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut().is_some_and(Child::runs)
    }
}
