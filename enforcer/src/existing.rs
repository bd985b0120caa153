//! Sockets that are older than the enforcer: who holds the ports that were bound before the hooks were attached.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::debug;

use crate::cgroups::Names;
use crate::kernel::feature::Cgroup2;
use crate::netns;

/// A socket that takes connections or datagrams, held open by this process too.
pub struct Bound {
    /// A descriptor of the same socket.
    pub socket: OwnedFd,
    /// The cgroup of the processes that have it.
    pub cgroup: u64,
    /// The cookie of its network namespace; 0 where the kernel does not tell it.
    pub netns: u64,
}

/// Finds the sockets of the given cgroups that take connections or datagrams.
///
/// A process that ends or a descriptor that is closed meanwhile is passed over, and so is a socket that processes of
/// two cgroups share: the ingress hook asks such sockets themselves.
pub fn bound(names: &Names, mount: &Cgroup2) -> Vec<Bound> {
    let ids: HashMap<&Path, u64> = names.iter().map(|(id, path)| (path, id)).collect();
    let mut waiting: HashMap<PathBuf, HashSet<u64>> = HashMap::new();
    let mut found: HashMap<u64, Option<Bound>> = HashMap::new();
    let processes = match procfs::process::all_processes() {
        Ok(processes) => processes,
        Err(err) => {
            debug!("list processes: {err}");
            return Vec::new();
        }
    };
    // What this process takes a descriptor of is not shared by that.
    let others = processes.flatten().filter(|process| u32::try_from(process.pid) != Ok(std::process::id()));
    for process in others {
        if let Err(err) = collect(&process, mount, &ids, &mut waiting, &mut found) {
            debug!(pid = process.pid, "list sockets: {err}");
        }
    }
    found.into_values().flatten().collect()
}

fn collect(
    process: &Process,
    mount: &Cgroup2,
    ids: &HashMap<&Path, u64>,
    waiting: &mut HashMap<PathBuf, HashSet<u64>>,
    found: &mut HashMap<u64, Option<Bound>>,
) -> anyhow::Result<()> {
    let path =
        process.cgroups()?.into_iter().find(|cgroup| cgroup.hierarchy == 0).map(|cgroup| cgroup.pathname);
    let path = path.and_then(|path| mount.below(Path::new(&path)));
    let Some(cgroup) = path.and_then(|path| ids.get(path.as_path()).copied()) else { return Ok(()) };
    // The tables of /proc are a network namespace's, so each namespace is read once.
    let namespace = std::fs::read_link(format!("/proc/{}/ns/net", process.pid))?;
    if !waiting.contains_key(&namespace) {
        waiting.insert(namespace.clone(), waiting_inodes(process)?);
    }
    let Some(waiting) = waiting.get(&namespace) else { return Ok(()) };
    let mut handle = None;
    for descriptor in process.fd()?.flatten() {
        let FDTarget::Socket(inode) = descriptor.target else { continue };
        if !waiting.contains(&inode) {
            continue;
        }
        match found.get_mut(&inode) {
            Some(Some(bound)) if bound.cgroup == cgroup => {}
            Some(shared) => *shared = None,
            None => {
                if handle.is_none() {
                    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(()) };
                    handle = Some(pidfd_open(pid, PidfdFlags::empty())?);
                }
                let Some(handle) = &handle else { return Ok(()) };
                let socket = pidfd_getfd(handle, descriptor.fd, PidfdGetfdFlags::empty())?;
                let netns = netns::cookie_of(socket.as_fd())?;
                found.insert(inode, Some(Bound { socket, cgroup, netns }));
            }
        }
    }
    Ok(())
}

/// Inodes of listening TCP sockets and UDP sockets in a process's network namespace.
fn waiting_inodes(process: &Process) -> anyhow::Result<HashSet<u64>> {
    let tcp = process.tcp()?.into_iter().chain(process.tcp6().unwrap_or_default());
    let udp = process.udp()?.into_iter().chain(process.udp6().unwrap_or_default());
    let listening = tcp.filter(|entry| entry.state == TcpState::Listen).map(|entry| entry.inode);
    Ok(listening.chain(udp.map(|entry| entry.inode)).collect())
}
