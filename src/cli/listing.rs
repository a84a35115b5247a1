//! Prints a list that comes in pages: one table at its end, or lines as the pages come.

use prost::Message;

use super::{
    failure::CliResult,
    output::{Form, Printer},
};

/// A list that is being printed.
pub(super) struct PrintedList<'a, T> {
    out: &'a Printer,
    /// The type of an entry in `unibus.v1`.
    kind: &'static str,
    id: fn(&T) -> &str,
    row: fn(&T) -> Vec<String>,
    rows: Vec<Vec<String>>,
}

impl<'a, T: Message> PrintedList<'a, T> {
    pub(super) fn new(out: &'a Printer, kind: &'static str, id: fn(&T) -> &str, row: fn(&T) -> Vec<String>) -> Self {
        Self { out, kind, id, row, rows: Vec::new() }
    }

    /// Adds the entries of a page.
    pub(super) fn add(&mut self, page: &[T]) -> CliResult {
        match self.out.form() {
            Form::People => self.rows.extend(page.iter().map(self.row)),
            Form::Json => page.iter().try_for_each(|entry| self.out.json(self.kind, entry))?,
            Form::Quiet => page.iter().try_for_each(|entry| self.out.line((self.id)(entry)))?,
        }
        Ok(())
    }

    /// Ends the list. People get a table with these headings, or the remark if the list is empty.
    pub(super) fn end(self, headings: &[&str], when_empty: &str) -> CliResult {
        match self.out.form() {
            Form::People if self.rows.is_empty() => {
                self.out.notice(when_empty);
                Ok(())
            }
            Form::People => self.out.table(headings, self.rows),
            Form::Json | Form::Quiet => Ok(()),
        }
    }
}
