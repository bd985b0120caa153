//! What people read: standard output, for as long as somebody reads it, and text that a terminal obeys nothing of.

use std::io::{self, ErrorKind, Write};

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
    use super::{printable, printable_lines};

    #[test]
    fn nothing_is_left_that_a_terminal_would_obey() {
        let hostile = "/e\u{1b}[31mred\u{9b}0m\u{202e}\r\n\tend";
        assert_eq!(printable(hostile), "/e\u{fffd}[31mred\u{fffd}0m\u{fffd}\u{fffd}\u{fffd} end");
        assert_eq!(printable_lines("one\u{7}\ntwo\n"), "one\u{fffd}\ntwo\n");
    }
}
