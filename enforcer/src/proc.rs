//! What `/proc` tells: which processes are in which cgroup, and which sockets wait for somebody in which of them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use enforcer_common::Protocol;
use nix::errno::Errno;
use procfs::net::{TcpState, UdpState};
use procfs::process::{FDTarget, Process};
use procfs::{ProcError, ProcResult};

use crate::cgroups;
use crate::kernel::feature::Cgroup2;

/// A process, as it was when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Its id.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
    /// Its executable; none for a kernel thread and for one that has ended meanwhile.
    pub exe: Option<PathBuf>,
    /// Path of its cgroup from the top of the v2 tree.
    pub cgroup: PathBuf,
    /// Inode number of its network namespace; 0 if that could not be read.
    pub netns: u64,
    /// Inodes of the sockets that it has open.
    pub sockets: Vec<u64>,
}

/// A socket that takes connections or datagrams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it waits.
    pub at: SocketAddr,
    /// Whether it is a datagram socket that hears one peer only.
    pub is_connected: bool,
    /// By which number processes have it.
    pub inode: u64,
    /// Inode number of its network namespace.
    pub netns: u64,
}

/// Every process of the host, and every socket that waits for whoever may come, as far as they could be read in time.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// In the order of their ids.
    pub tasks: Vec<Task>,
    /// In the order in which `/proc` lists them.
    pub waiting: Vec<Waiting>,
    /// Whether the deadline left enough time for all of them, and of each it could be told in which cgroup it is.
    pub complete: bool,
}

impl Scan {
    /// Looks at every process until `deadline`. A process that ends meanwhile is passed over.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be listed.
    pub fn take(mount: &Cgroup2, deadline: Instant) -> ProcResult<Self> {
        let mut scan = Self { complete: true, ..Self::default() };
        let mut namespaces = HashSet::new();
        for process in procfs::process::all_processes()?.flatten() {
            if Instant::now() >= deadline {
                scan.complete = false;
                break;
            }
            let cgroup = match cgroup(&process, mount) {
                Ok(Some(cgroup)) => cgroup,
                Ok(None) => continue,
                Err(err) => {
                    scan.complete &= is_gone(&err);
                    continue;
                }
            };
            let netns = network_namespace(&process).unwrap_or(0);
            // The tables of /proc are a network namespace's, so each namespace is read once.
            if netns != 0 && namespaces.insert(netns) {
                let found = waiting(&process, netns).unwrap_or_default();
                scan.waiting.extend(found.into_iter().filter(|socket| !socket.is_connected));
            }
            scan.tasks.push(Task {
                pid: process.pid,
                comm: process.stat().map(|stat| stat.comm).unwrap_or_default(),
                exe: process.exe().ok(),
                cgroup,
                netns,
                sockets: sockets(&process).map(|(_, inode)| inode).collect(),
            });
        }
        Ok(scan)
    }

    /// The processes that have each socket, by its inode.
    pub fn holders(&self) -> HashMap<u64, Vec<&Task>> {
        let mut holders: HashMap<u64, Vec<&Task>> = HashMap::new();
        for task in &self.tasks {
            for inode in &task.sockets {
                let of_socket = holders.entry(*inode).or_default();
                // A process may have a socket under two descriptors.
                if of_socket.last().is_none_or(|last| last.pid != task.pid) {
                    of_socket.push(task);
                }
            }
        }
        holders
    }
}

/// Path of a process's cgroup from the top of the v2 tree; none if it is not below `mount`.
///
/// # Errors
///
/// The process has ended, or its cgroup is nested too deep to be named: of such a path the kernel tells the beginning
/// (`proc_cgroup_show`, as of 6.18) or nothing (`ENAMETOOLONG`, before).
pub fn cgroup(process: &Process, mount: &Cgroup2) -> ProcResult<Option<PathBuf>> {
    let mut lines = Vec::new();
    process.open_relative("cgroup")?.read_to_end(&mut lines)?;
    let path = unified(&lines);
    if path.is_some_and(|path| path.as_os_str().len() >= cgroups::MAX_PATH) {
        return Err(io::Error::from(Errno::ENAMETOOLONG).into());
    }
    Ok(path.and_then(|path| mount.below(path)))
}

/// Whether a process could not be looked at since it has ended.
pub fn is_gone(err: &ProcError) -> bool {
    match err {
        ProcError::NotFound(_) => true,
        ProcError::Io(err, _) => err.raw_os_error() == Some(Errno::ESRCH as i32),
        _ => false,
    }
}

/// Of the lines of `/proc/PID/cgroup` the path in the v2 hierarchy, whose number is 0. It holds whatever bytes somebody has named a cgroup
/// by, but no line feed, which the kernel refuses (`cgroup_mkdir`).
fn unified(lines: &[u8]) -> Option<&Path> {
    let mut lines = lines.split(|byte| *byte == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::"))?;
    Some(Path::new(OsStr::from_bytes(path)))
}

/// Inode number of a process's network namespace.
///
/// # Errors
///
/// The process has ended.
pub fn network_namespace(process: &Process) -> std::io::Result<u64> {
    Ok(std::fs::metadata(format!("/proc/{}/ns/net", process.pid))?.ino())
}

/// The sockets that a process has open: descriptor and inode of each.
pub fn sockets(process: &Process) -> impl Iterator<Item = (i32, u64)> {
    let descriptors = process.fd().into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| match descriptor.target {
        FDTarget::Socket(inode) => Some((descriptor.fd, inode)),
        _ => None,
    })
}

/// Listening TCP sockets and UDP sockets in a process's network namespace, whose inode is `netns`.
///
/// # Errors
///
/// The process has ended.
pub fn waiting(process: &Process, netns: u64) -> ProcResult<Vec<Waiting>> {
    // A kernel without IPv6 has no tables for it.
    let tcp = process.tcp()?.into_iter().chain(process.tcp6().unwrap_or_default());
    let udp = process.udp()?.into_iter().chain(process.udp6().unwrap_or_default());
    let listening = tcp.filter(|entry| entry.state == TcpState::Listen).map(|entry| Waiting {
        protocol: Protocol::TCP,
        at: entry.local_address,
        is_connected: false,
        inode: entry.inode,
        netns,
    });
    let datagrams = udp.map(|entry| Waiting {
        protocol: Protocol::UDP,
        at: entry.local_address,
        is_connected: entry.state != UdpState::Close,
        inode: entry.inode,
        netns,
    });
    Ok(listening.chain(datagrams).collect())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use super::unified;

    #[test]
    fn the_path_in_the_v2_hierarchy_is_found_whatever_its_bytes_are() {
        let path = |bytes| Some(Path::new(OsStr::from_bytes(bytes)));
        for (lines, found) in [
            (&b"0::/system.slice/web.service\n"[..], path(&b"/system.slice/web.service"[..])),
            (b"12:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c\n", path(b"/c")),
            (b"0::/\xff\xfe:: \n", path(b"/\xff\xfe:: ")),
            (b"10::/a\n", None),
            (b"", None),
        ] {
            assert_eq!(unified(lines), found, "{}", lines.escape_ascii());
        }
    }
}
