//! How many files this process may hold open at a time.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as this process may: the usual one of 1024 is for programs that wait with `select(2)`.
///
/// # Errors
///
/// The kernel or a filter of system calls refuses it.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The limit as it is now.
pub fn limit() -> usize {
    // None is for a limit that is none.
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}
