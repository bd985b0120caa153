//! Hands lines to the log's file, on a thread that holds no capability.
//!
//! A thread and not a process: what a process has taken and not yet written when the daemon is killed would reach the file
//! after the next daemon has counted what is in there, and the books would not add up. A thread ends with the daemon. It
//! keeps whoever fools `write(2)`, by the file or the file system behind it, from the daemon's capabilities; it does not keep
//! whoever runs code in it from the daemon's memory.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Line, Waiting};
use crate::{privileges, vital};

/// Lines that are handed over at once (`UIO_MAXIOV` of include/uapi/linux/uio.h).
const LINES_AT_ONCE: usize = 1024;

/// What is to be written, and where.
type Order = (Arc<File>, Waiting);

/// What is left of it, and why.
type Done = (Waiting, io::Result<()>);

/// The thread. It ends when this is dropped.
pub(super) struct Writer {
    orders: SyncSender<Order>,
    done: Receiver<Done>,
}

impl Writer {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// There is no thread to be had, or it cannot give up its capabilities.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, ordered) = sync_channel::<Order>(1);
        let (finished, done) = sync_channel::<Done>(1);
        vital::spawn("log", move || {
            let given_up = privileges::drop_all();
            let can_go_on = given_up.is_ok();
            if finished.send((Waiting::default(), given_up)).is_err() || !can_go_on {
                return;
            }
            for (sink, mut waiting) in ordered {
                let written = waiting.write(&sink);
                if finished.send((waiting, written)).is_err() {
                    return;
                }
            }
        })?;
        let (_, given_up) = done.recv().map_err(io::Error::other)?;
        given_up.map_err(|err| {
            io::Error::new(err.kind(), format!("give up the capabilities of the thread that writes: {err}"))
        })?;
        Ok(Self { orders, done })
    }

    /// Has lines written, and waits for it. Returns those that were not, and why; `None` if they are gone, with the thread.
    pub(super) fn write(&self, sink: Arc<File>, waiting: Waiting) -> Option<Done> {
        self.orders.send((sink, waiting)).ok()?;
        self.done.recv().ok()
    }
}

impl Line {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }
}

impl Waiting {
    fn write(&mut self, mut sink: &File) -> io::Result<()> {
        while !self.lines.is_empty() {
            let lines: Vec<IoSlice<'_>> =
                self.lines.iter().take(LINES_AT_ONCE).map(|line| IoSlice::new(line.rest())).collect();
            match sink.write_vectored(&lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => self.take(taken),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn take(&mut self, mut taken: usize) {
        while let Some(line) = self.lines.front_mut() {
            let rest = line.rest().len();
            if taken < rest {
                line.taken += taken;
                return;
            }
            taken -= rest;
            self.size -= line.bytes.len();
            self.attempts += u64::from(line.is_attempt);
            self.losses += line.losses;
            self.own += line.own;
            self.lines.pop_front();
        }
    }
}
