//! Sockets that are older than the enforcer: who holds the ports that were bound before the hooks were attached.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::debug;

use crate::cgroups::Subtree;
use crate::kernel::feature::Cgroup2;
use crate::netns;
use crate::proc;

/// A socket that takes connections or datagrams, held open by this process too.
pub struct Bound {
    /// A descriptor of the same socket.
    pub socket: OwnedFd,
    /// The cgroup of the processes that have it.
    pub cgroup: u64,
    /// The cookie of its network namespace; 0 where the kernel does not tell it.
    pub netns: u64,
}

/// Finds the sockets of the cgroups of a subtree that take connections or datagrams.
///
/// A process that ends or a descriptor that is closed meanwhile is passed over, and so is a socket that processes of
/// two cgroups share: the ingress hook asks such sockets themselves.
pub fn bound(subtree: &Subtree, mount: &Cgroup2) -> Vec<Bound> {
    let mut waiting: HashMap<u64, HashSet<u64>> = HashMap::new();
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
        if let Err(err) = collect(&process, subtree, mount, &mut waiting, &mut found) {
            debug!(pid = process.pid, "list sockets: {err}");
        }
    }
    found.into_values().flatten().collect()
}

fn collect(
    process: &Process,
    subtree: &Subtree,
    mount: &Cgroup2,
    waiting: &mut HashMap<u64, HashSet<u64>>,
    found: &mut HashMap<u64, Option<Bound>>,
) -> anyhow::Result<()> {
    // By the directory, since one that is dying may have had the same path.
    let Some(cgroup) = proc::cgroup(process, mount)?.and_then(|path| subtree.id_at(&path)) else {
        return Ok(());
    };
    // The tables of /proc are a network namespace's, so each namespace is read once.
    let namespace = proc::network_namespace(process)?;
    let waiting = match waiting.entry(namespace) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let found = proc::waiting(process, namespace)?;
            new.insert(found.into_iter().map(|socket| socket.inode).collect())
        }
    };
    let mut handle = None;
    for (descriptor, inode) in proc::sockets(process).filter(|(_, inode)| waiting.contains(inode)) {
        match found.get_mut(&inode) {
            Some(Some(bound)) if bound.cgroup == cgroup => {}
            Some(shared) => *shared = None,
            None => {
                if handle.is_none() {
                    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(()) };
                    handle = Some(pidfd_open(pid, PidfdFlags::empty())?);
                }
                let Some(handle) = &handle else { return Ok(()) };
                match take(handle, descriptor, inode, cgroup) {
                    Ok(bound) => found.insert(inode, Some(bound)),
                    Err(err) => {
                        debug!(pid = process.pid, descriptor, "take a descriptor: {err}");
                        continue;
                    }
                };
            }
        }
    }
    Ok(())
}

/// A descriptor of a process's socket, unless another file has been opened in its place.
fn take(process: &OwnedFd, descriptor: i32, inode: u64, cgroup: u64) -> io::Result<Bound> {
    let socket = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?;
    if File::from(socket.try_clone()?).metadata()?.ino() != inode {
        return Err(io::Error::other("it is another file's by now"));
    }
    let netns = netns::cookie_of(socket.as_fd())?;
    Ok(Bound { socket, cgroup, netns })
}
