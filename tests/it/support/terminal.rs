//! A command on a pseudo-terminal, and what a person sees there.

use std::{
    fs::File,
    io::{Read, Write},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tokio::process::{Child, Command};

use super::eventually;

/// How long the screen may take to change on a busy machine.
const SCREEN_WAIT: Duration = Duration::from_secs(60);

/// A terminal with a command that runs on it. The command is killed when this is dropped.
pub(crate) struct Terminal {
    child: Child,
    /// The side of the person.
    keyboard: File,
    shown: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Runs a command on a new terminal of this size.
    pub(crate) fn run(command: &Command, lines: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person = openpt(flags).expect("a pseudo-terminal");
        grantpt(&person).and_then(|()| unlockpt(&person)).expect("a usable pseudo-terminal");
        tcsetwinsize(&person, size(lines, columns)).expect("a size");
        let name = ptsname(&person, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program_side = || rustix::fs::open(&name, flags, Mode::empty()).expect("the side of the program");
        // the terminal is to control the session of the command, for the signals of a terminal
        let mut in_session = Command::new("setsid");
        in_session.arg("--ctty").arg(command.as_std().get_program()).args(command.as_std().get_args()).env_clear();
        for (name, value) in command.as_std().get_envs() {
            in_session.env(name, value.expect("a value"));
        }
        in_session.env("TERM", "xterm-256color").env("LANG", "C.UTF-8").kill_on_drop(true);
        in_session.stdin(program_side()).stdout(program_side()).stderr(program_side());
        let child = in_session.spawn().expect("the command starts");
        let shown = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let (sink, keyboard) = (Arc::clone(&shown), File::from(person));
        let mut output = keyboard.try_clone().expect("a second handle");
        // ends with the last process that has the terminal
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                sink.lock().expect("no panic while held").process(&bytes[..read]);
            }
        });
        Self { child, keyboard, shown }
    }

    /// What the screen shows.
    pub(crate) fn screen(&self) -> String {
        self.shown.lock().expect("no panic while held").screen().contents()
    }

    /// The lines of the screen that contain this text.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        self.screen().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Waits until the screen is as wanted.
    pub(crate) async fn until(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        eventually(SCREEN_WAIT, async || {
            let screen = self.screen();
            if is_wanted(&screen) { Ok(screen) } else { Err(format!("the screen:\n{screen}")) }
        })
        .await
    }

    /// Waits until the screen has this text.
    pub(crate) async fn shows(&self, text: &str) -> String {
        self.until(|screen| screen.contains(text)).await
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("an open terminal");
    }

    /// Gives the terminal another size.
    pub(crate) fn resize(&self, lines: u16, columns: u16) {
        self.shown.lock().expect("no panic while held").screen_mut().set_size(lines, columns);
        tcsetwinsize(&self.keyboard, size(lines, columns)).expect("a size");
    }

    /// Whether a program has the whole screen.
    pub(crate) fn is_alternate(&self) -> bool {
        self.shown.lock().expect("no panic while held").screen().alternate_screen()
    }

    /// Whether the terminal is as a shell has it: lines, an echo, and a cursor.
    pub(crate) fn is_ordinary(&self) -> bool {
        let modes = tcgetattr(&self.keyboard).expect("modes").local_modes;
        let hides_cursor = self.shown.lock().expect("no panic while held").screen().hide_cursor();
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
            && !hides_cursor
            && !self.is_alternate()
    }

    /// Sends a signal to the command.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("a running command");
        kill_process(pid, signal).expect("a running command");
    }

    /// Waits for the end of the command, and returns its exit status.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        tokio::time::timeout(SCREEN_WAIT, self.child.wait()).await.expect("an end").expect("a status").code()
    }
}

fn size(lines: u16, columns: u16) -> Winsize {
    Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
