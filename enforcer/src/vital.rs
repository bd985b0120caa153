//! Work without which the daemon would go on by halves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{io, process, thread};

/// Starts a thread of this name. If it panics the process ends at once, as by a kill: the kernel goes on deciding, and the
/// next daemon takes over as after any other crash.
///
/// # Errors
///
/// There is no room for a thread.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || done(run))?;
    Ok(())
}

/// What the work comes to. If it panics the process ends at once, likewise.
pub fn done<T>(work: impl FnOnce() -> T) -> T {
    // Nothing of what it leaves is looked at again.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| process::abort())
}
