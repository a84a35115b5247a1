//! The terminal while `top` draws on it. However the command ends, the terminal is then as it was before.

use std::{
    io::{self, Write},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    queue,
    terminal::{
        BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
        EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
    },
};

use super::view::Line;
use crate::cli::style::{paint, reverse};

/// The alternate screen of a terminal.
pub(super) struct Screen<W: Write> {
    out: W,
    /// Whether this screen made the terminal raw.
    is_raw: bool,
    /// Whether the terminal is to be given back.
    is_taken: Arc<AtomicBool>,
    is_coloured: bool,
    columns: usize,
    /// What the screen shows; empty: unknown.
    shown: Vec<Line>,
}

impl Screen<io::Stdout> {
    /// Takes the terminal over.
    pub(super) fn enter(is_coloured: bool) -> io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self::over(io::stdout(), true, is_coloured)?;
        let (report, is_taken) = (panic::take_hook(), Arc::clone(&screen.is_taken));
        // the report of a panic is to be read on the screen of the shell
        panic::set_hook(Box::new(move |info| {
            let _ = give_back(&mut io::stdout(), true, &is_taken);
            report(info);
        }));
        Ok(screen)
    }
}

impl<W: Write> Screen<W> {
    fn over(out: W, is_raw: bool, is_coloured: bool) -> io::Result<Self> {
        let is_taken = Arc::new(AtomicBool::new(true));
        let mut screen = Self { out, is_raw, is_taken, is_coloured, columns: 0, shown: Vec::new() };
        queue!(screen.out, EnterAlternateScreen, Hide, DisableLineWrap)?;
        screen.out.flush()?;
        Ok(screen)
    }

    /// The terminal has another size, so nothing is where it was.
    pub(super) fn resized(&mut self, columns: usize) {
        self.columns = columns;
        self.shown.clear();
    }

    /// Shows these lines. Only lines that have changed are sent.
    pub(super) fn draw(&mut self, lines: Vec<Line>) -> io::Result<()> {
        if lines == self.shown {
            return Ok(());
        }
        let mut frame = Vec::new();
        queue!(frame, BeginSynchronizedUpdate)?;
        if self.shown.is_empty() {
            queue!(frame, Clear(ClearType::All))?;
        }
        for (number, line) in lines.iter().enumerate().filter(|(number, line)| self.shown.get(*number) != Some(line)) {
            self.line(&mut frame, u16::try_from(number).unwrap_or(u16::MAX), line)?;
        }
        queue!(frame, EndSynchronizedUpdate)?;
        self.shown = lines;
        self.out.write_all(&frame)?;
        self.out.flush()
    }

    fn line(&self, frame: &mut Vec<u8>, number: u16, line: &Line) -> io::Result<()> {
        queue!(frame, MoveTo(0, number), Clear(ClearType::CurrentLine))?;
        let is_reversed = line.is_selected && self.is_coloured;
        if is_reversed {
            write!(frame, "{}", reverse(&" ".repeat(self.columns)))?;
        }
        for span in &line.spans {
            queue!(frame, MoveTo(u16::try_from(span.column).unwrap_or(u16::MAX), number))?;
            let text = match span.style {
                _ if is_reversed => reverse(&span.text),
                Some(style) => paint(style, &span.text, self.is_coloured),
                None => span.text.clone(),
            };
            frame.write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        // nobody is left to learn of a failure
        let _ = give_back(&mut self.out, self.is_raw, &self.is_taken);
    }
}

/// Makes the terminal what it was, once.
fn give_back(out: &mut impl Write, is_raw: bool, is_taken: &AtomicBool) -> io::Result<()> {
    if !is_taken.swap(false, Ordering::Relaxed) {
        return Ok(());
    }
    queue!(out, EndSynchronizedUpdate, EnableLineWrap, Show, LeaveAlternateScreen)?;
    out.flush()?;
    if is_raw { disable_raw_mode() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::{
        io::{self, Write},
        panic,
        sync::{Arc, Mutex},
    };

    use super::{Line, Screen};

    /// A terminal that keeps what it is sent.
    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<u8>>>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_leaves_the_alternate_screen_and_shows_the_cursor() {
        let sent = Sent::default();
        let terminal = sent.clone();
        let ended = panic::catch_unwind(move || {
            let mut screen = Screen::over(terminal, false, false).unwrap();
            screen.draw(vec![Line::default()]).unwrap();
            panic!("expected by the test");
        });
        assert!(ended.is_err());
        let sent = String::from_utf8(sent.0.lock().unwrap().clone()).unwrap();
        assert!(sent.starts_with("\x1b[?1049h"), "{sent:?}");
        assert!(sent.ends_with("\x1b[?7h\x1b[?25h\x1b[?1049l"), "{sent:?}");
    }

    #[test]
    fn a_line_that_has_not_changed_is_not_sent_again() {
        let sent = Sent::default();
        let mut screen = Screen::over(sent.clone(), false, false).unwrap();
        let line = |text: &str| {
            let span = super::super::view::TextSpan { column: 0, text: text.to_owned(), style: None };
            Line { spans: vec![span], is_selected: false }
        };
        let draw = |screen: &mut Screen<Sent>, lines: Vec<Line>| {
            sent.0.lock().unwrap().clear();
            screen.draw(lines).unwrap();
            String::from_utf8(sent.0.lock().unwrap().clone()).unwrap()
        };
        assert!(draw(&mut screen, vec![line("one"), line("two")]).contains("two"));
        let second = draw(&mut screen, vec![line("one"), line("three")]);
        assert!(second.contains("three") && !second.contains("one"), "{second:?}");
        screen.resized(80);
        assert!(draw(&mut screen, vec![line("one"), line("three")]).contains("one"));
    }
}
