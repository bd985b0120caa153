//! The network namespaces of this host, and which of them this process or a socket is in, as programs can compare it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};
use procfs::process::Process;

use crate::descriptors;
use crate::kernel::feature;
use crate::proc;

/// Most namespaces that are opened at a time.
const MAX_NAMESPACES: usize = 4096;

/// Of how many descriptors that this process may hold, one may be a namespace's. Each takes another one for a conversation with
/// the kernel in it, and six may look around at once: a survey, the judge of live connections, and four who were asked through
/// the control socket. The rest is for files, maps and callers.
const DESCRIPTORS_PER_NAMESPACE: usize = 16;

/// Most namespaces that are opened at a time by a process that may hold `descriptors`.
fn most(descriptors: usize) -> usize {
    (descriptors / DESCRIPTORS_PER_NAMESPACE).clamp(1, MAX_NAMESPACES)
}

/// `SO_NETNS_COOKIE` of include/uapi/asm-generic/socket.h (kernel 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

sockopt_impl!(
    /// The cookie of a socket's network namespace, unique until the next boot.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64
);

/// The cookie of this process's network namespace, or 0 where the kernel does not tell it (below 5.14).
///
/// # Errors
///
/// No socket could be made to ask through.
pub fn cookie() -> nix::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    cookie_of(socket.as_fd())
}

/// The cookie of a socket's network namespace, or 0 where the kernel does not tell it (below 5.14).
///
/// # Errors
///
/// It is not a socket.
pub fn cookie_of(socket: BorrowedFd<'_>) -> nix::Result<u64> {
    match getsockopt(&socket, NetnsCookie) {
        Ok(cookie) => Ok(cookie),
        Err(Errno::ENOPROTOOPT) => Ok(0),
        Err(err) => Err(err),
    }
}

/// The network namespaces of this host that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// Each once, under a path by which it was found: this process's own first.
    pub open: Vec<(PathBuf, File)>,
    /// Those that were too many.
    pub beyond: Vec<PathBuf>,
    /// Where one is that could not be opened, which may be open under another path.
    pub unopened: Vec<(PathBuf, io::Error)>,
    /// Where others may be that could not be looked for.
    pub failed: Vec<io::Error>,
}

impl Found {
    /// How many are opened at the most, for whoever wonders why some are beyond.
    pub fn most() -> usize {
        most(descriptors::limit())
    }
}

/// Opens the namespace of this process, those of processes in the subtree at `subtree`, counted from the top of the cgroup
/// tree, and if that is the whole tree those that no process need be in, since they are kept by name.
///
/// What processes of other user namespaces are in comes last: without a right here nobody makes a network namespace but in a
/// user namespace of his own, so that however many he makes, they are not in the way of others.
pub fn open_all(subtree: &Path) -> Found {
    let is_whole_host = subtree == Path::new("/");
    let mut opening = Opening { seen: HashSet::new(), most: Found::most(), found: Found::default() };
    opening.add(PathBuf::from("/proc/self/ns/net"));
    let mount = feature::cgroup2();
    let is_judged = |process: &Process| {
        is_whole_host
            || mount.as_ref().is_ok_and(|mount| match proc::cgroup(process, mount) {
                Ok(cgroup) => cgroup.is_some_and(|path| path.starts_with(subtree)),
                // It may be, in a cgroup that is nested too deep to be told.
                Err(err) => !proc::is_gone(&err),
            })
    };
    let own = user_namespace("self");
    let mut last = Vec::new();
    let processes = procfs::process::all_processes().map(|processes| {
        for process in processes.flatten().filter(is_judged) {
            let path = PathBuf::from(format!("/proc/{}/ns/net", process.pid));
            if user_namespace(&process.pid.to_string()) == own {
                opening.add(path);
            } else {
                last.push(path);
            }
        }
    });
    let mut kept = Ok(());
    if is_whole_host {
        kept = Process::myself().and_then(|process| process.mountinfo()).map(|mounts| {
            for mount in mounts {
                if mount.fs_type == "nsfs" && mount.root.starts_with("net:") {
                    opening.add(mount.mount_point);
                }
            }
        });
    }
    for path in last {
        opening.add(path);
    }
    let unread = [
        mount.err().map(|err| io::Error::other(format!("find the cgroup tree: {err}"))),
        processes.err().map(|err| io::Error::other(format!("list processes: {err}"))),
        kept.err().map(|err| io::Error::other(format!("list mounts: {err}"))),
    ];
    let mut found = opening.found;
    found.failed.extend(unread.into_iter().flatten());
    found
}

/// The user namespace of a process; none if it has ended or does not let itself be looked at.
fn user_namespace(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/user")).ok().map(|namespace| namespace.ino())
}

/// Namespaces while they are being opened.
struct Opening {
    /// Device and inode of each that was met.
    seen: HashSet<(u64, u64)>,
    most: usize,
    found: Found,
}

impl Opening {
    fn add(&mut self, path: PathBuf) {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            // A process that ends meanwhile takes its namespace with it, or another process has it too.
            Err(err) if is_gone(&path, &err) => return,
            Err(err) => return self.found.unopened.push((path, err)),
        };
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if self.found.open.len() < self.most {
            self.found.open.push((path, file));
        } else {
            self.found.beyond.push(path);
        }
    }
}

/// Whether what was to be opened is no longer there, and not merely out of reach.
fn is_gone(path: &Path, err: &io::Error) -> bool {
    match err.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => true,
        // Also of a process that ends while it is looked up (`proc_ns_get_link` in fs/proc/namespaces.c).
        Some(Errno::EACCES) => path.ancestors().nth(2).is_some_and(|process| !process.exists()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use nix::errno::Errno;

    use super::{MAX_NAMESPACES, Opening, is_gone, most};

    #[test]
    fn namespaces_take_a_part_of_the_descriptors() {
        for (descriptors, expected) in [
            (0, 1),
            (1024, 64),
            (20_000, 1250),
            (65_535, MAX_NAMESPACES - 1),
            (65_536, MAX_NAMESPACES),
            (usize::MAX, MAX_NAMESPACES),
        ] {
            assert_eq!(most(descriptors), expected, "{descriptors}");
        }
    }

    #[test]
    fn only_what_is_not_there_is_gone() {
        let own = Path::new("/proc/self/ns/net");
        // Above the highest number that a kernel gives (PID_MAX_LIMIT).
        let ended = Path::new("/proc/4194305/ns/net");
        for (path, errno, expected) in [
            (own, Errno::ENOENT, true),
            (own, Errno::ESRCH, true),
            (own, Errno::EMFILE, false),
            (own, Errno::ENFILE, false),
            (own, Errno::EACCES, false),
            (own, Errno::EPERM, false),
            (ended, Errno::EMFILE, false),
            (ended, Errno::EACCES, true),
        ] {
            assert_eq!(is_gone(path, &io::Error::from(errno)), expected, "{}: {errno}", path.display());
        }
    }

    #[test]
    fn one_too_many_is_beyond_and_one_that_is_known_is_not_too_many() {
        let mut opening = Opening { seen: Default::default(), most: 1, found: Default::default() };
        for path in
            ["/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/self/ns/uts", "/proc/self/ns/none"]
        {
            opening.add(path.into());
        }
        let found = opening.found;
        assert_eq!(found.open.len(), 1);
        assert_eq!(found.beyond, [Path::new("/proc/self/ns/uts")]);
        assert!(found.unopened.is_empty() && found.failed.is_empty());
    }
}
