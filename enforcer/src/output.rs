//! Standard output, for as long as somebody reads it.

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
