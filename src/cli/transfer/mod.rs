//! A whole room as one file: the commands that write it and read it.
//!
//! The file is described in `docs/export-format.md`. Nothing in it depends on when or where it was written, so two exports
//! of the same messages are the same bytes, also if one of them was interrupted.
//!
//! An import needs no marks and no file of its own to find its place. It stores record N of the file under the sequence
//! that lies N after the end of the room, and every publish expects exactly the sequence before it. So the last sequence
//! of the room is the place, a late copy of a publish is refused, and the stored messages can be compared with the file.

mod calls;
mod canonical;
mod check;
mod export;
mod format;
mod import;
mod output_file;
mod progress;
mod reading;
mod record;
mod records;
mod selection;
mod target;

pub(super) use self::{export::ExportCommand, import::ImportCommand};
