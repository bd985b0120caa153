//! What people read: standard output, for as long as somebody reads it, and text that a terminal obeys nothing of.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Writes to `out`, and goes on when nobody reads any longer (`| head`): what they do not want to see is no error, and the exit
/// code still tells what came of the command.
pub struct WhileRead<W>(pub W);

impl<W: Write> Write for WhileRead<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Text that may come from anyone, such as a cgroup's name, as one line that a terminal shows and does not obey: without escape
/// sequences, line breaks and marks that reorder what follows.
pub fn printable(text: &str) -> String {
    text.chars().map(printable_char).collect()
}

/// The same of text that has lines of its own.
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { printable_char(c) }).collect()
}

/// Writes a field of the daemon's log, whose values name cgroups, containers and files of others.
///
/// # Errors
///
/// The writer takes nothing.
pub fn log_field(out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(out, "{}", printable_lines(&value)),
        // Where in the code a message of the crate `log` was made.
        name if name.starts_with("log.") => Ok(()),
        name => write!(out, " {name}={}", printable(&value)),
    }
}

/// The character itself, or one that stands for what must not reach a terminal.
pub fn printable_char(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read as _, pipe};

    use tracing::{info, subscriber};
    use tracing_subscriber::fmt::format::debug_fn;

    use super::{log_field, printable, printable_lines};

    #[test]
    fn nothing_is_left_that_a_terminal_would_obey() {
        let hostile = "/e\u{1b}[31mred\u{9b}0m\u{202e}\r\n\tend";
        assert_eq!(printable(hostile), "/e\u{fffd}[31mred\u{fffd}0m\u{fffd}\u{fffd}\u{fffd} end");
        assert_eq!(printable_lines("one\u{7}\ntwo\n"), "one\u{fffd}\ntwo\n");
    }

    #[test]
    fn the_log_is_not_obeyed_either() -> anyhow::Result<()> {
        let (mut told, log): (PipeReader, PipeWriter) = pipe()?;
        let logger = tracing_subscriber::fmt()
            .fmt_fields(debug_fn(log_field))
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(std::sync::Mutex::new(log))
            .finish();
        subscriber::with_default(logger, || {
            let name = "/e\u{1b}[31m\u{9b}";
            info!(revision = 1, cgroup = %name, comm = "a b", "of {name}");
        });
        let mut text = String::new();
        told.read_to_string(&mut text)?;
        assert_eq!(
            text,
            " INFO of /e\u{fffd}[31m\u{fffd} revision=1 cgroup=/e\u{fffd}[31m\u{fffd} comm=\"a b\"\n"
        );
        Ok(())
    }
}
