//! The network namespaces of this host, and which of them this process or a socket is in, as programs can compare it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};
use procfs::process::Process;

use crate::kernel::feature;
use crate::proc;

/// Most namespaces that are opened at a time.
pub const MAX_NAMESPACES: usize = 4096;

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
    /// Where others may be that could not be looked for.
    pub failed: Vec<io::Error>,
}

/// Opens the namespace of this process, those of processes in the subtree at `subtree`, counted from the top of the cgroup
/// tree, and if that is the whole tree those that no process need be in, since they are kept by name.
pub fn open_all(subtree: &Path) -> Found {
    let is_whole_host = subtree == Path::new("/");
    let mut seen = HashSet::new();
    let mut found = Found::default();
    let mut add = |path: PathBuf| {
        // A process that ends meanwhile takes its namespace with it, or another process has it too.
        let Ok(file) = File::open(&path) else { return };
        let Ok(metadata) = file.metadata() else { return };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if found.open.len() < MAX_NAMESPACES {
            found.open.push((path, file));
        } else {
            found.beyond.push(path);
        }
    };
    add(PathBuf::from("/proc/self/ns/net"));
    let mount = feature::cgroup2();
    let is_judged = |process: &Process| {
        let cgroup = || mount.as_ref().ok().and_then(|mount| proc::cgroup(process, mount).ok().flatten());
        is_whole_host || cgroup().is_some_and(|path| path.starts_with(subtree))
    };
    let processes = procfs::process::all_processes().map(|processes| {
        for process in processes.flatten().filter(is_judged) {
            add(PathBuf::from(format!("/proc/{}/ns/net", process.pid)));
        }
    });
    let mut kept = Ok(());
    if is_whole_host {
        kept = Process::myself().and_then(|process| process.mountinfo()).map(|mounts| {
            for mount in mounts {
                if mount.fs_type == "nsfs" && mount.root.starts_with("net:") {
                    add(mount.mount_point);
                }
            }
        });
    }
    let unread = [
        mount.err().map(|err| io::Error::other(format!("find the cgroup tree: {err}"))),
        processes.err().map(|err| io::Error::other(format!("list processes: {err}"))),
        kept.err().map(|err| io::Error::other(format!("list mounts: {err}"))),
    ];
    found.failed.extend(unread.into_iter().flatten());
    found
}
