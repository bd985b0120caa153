//! One daemon at a time: a lock that goes with the process that holds it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// A lock on a file or directory. The kernel lifts it when the process ends, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why a lock could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("lock {}: {} holds it\nhint: one enforcer at a time; stop that one first, or give this one directories of its own with --pin-dir and --state-dir", .path.display(), holder(.pid))]
    Held {
        /// What was to be locked.
        path: PathBuf,
        /// The process, where /proc/locks tells it.
        pid: Option<i32>,
    },
    /// It cannot be locked at all.
    #[error("lock {}: {cause}", .path.display())]
    Failed {
        /// What was to be locked.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

fn holder(pid: &Option<i32>) -> String {
    pid.map_or_else(|| String::from("another process"), |pid| format!("process {pid}"))
}

impl Lock {
    /// Takes the lock on `path`, which was opened as `file`.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] without waiting if another process has it.
    pub fn take(path: &Path, file: File) -> Result<Self, LockError> {
        let failed = |cause| LockError::Failed { path: path.to_path_buf(), cause };
        let inode = file.metadata().map_err(failed)?.ino();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { path: path.to_path_buf(), pid: owner(inode) })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// The process that holds a lock on the file with this inode number; two files of different devices that share it are
/// too unlikely to matter in a message.
fn owner(inode: u64) -> Option<i32> {
    procfs::locks().ok()?.into_iter().find(|lock| lock.inode == inode)?.pid
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{Lock, LockError};

    #[test]
    fn the_one_who_holds_it_is_named_and_the_lock_goes_with_him() -> anyhow::Result<()> {
        let path = std::env::temp_dir().join(format!("enforcer-lock-{}", std::process::id()));
        let held = Lock::take(&path, File::create(&path)?)?;
        let pid = i32::try_from(std::process::id())?;
        let second = Lock::take(&path, File::open(&path)?);
        let Err(err @ LockError::Held { pid: Some(found), .. }) = second else { panic!("{second:?}") };
        assert_eq!(found, pid);
        assert!(err.to_string().contains(&format!("process {pid} holds it")), "{err}");
        drop(held);
        drop(Lock::take(&path, File::open(&path)?)?);
        std::fs::remove_file(&path)?;
        Ok(())
    }
}
