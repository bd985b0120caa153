//! Goes through the network namespaces of this host and reads their sockets.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use enforcer_common::Address;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use procfs::process::Process;

use super::diag::Diag;
use super::{Namespace, Snapshot, Socket};
use crate::kernel::feature;
use crate::netns;
use crate::proc;

/// Where tools keep namespaces that no process is in.
const KEPT: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Most namespaces that are gone through; what lies in further ones is told as unreadable.
const MAX_NAMESPACES: usize = 4096;

/// The sockets of this host, and the conversations by which they can be closed.
pub struct Survey {
    /// What was found.
    pub snapshot: Snapshot,
    /// By the cookie of the namespace.
    conversations: HashMap<u64, Diag>,
}

impl Survey {
    /// Reads the sockets of every namespace in which processes of the subtree at `subtree` are, and of those that are
    /// kept by name if that is the whole tree. The calling thread is left in the last of these namespaces.
    ///
    /// What cannot be read is told in [`Snapshot::unreadable`].
    pub fn take(subtree: &Path) -> Self {
        let mut survey = Self { snapshot: Snapshot::default(), conversations: HashMap::new() };
        for (number, path) in namespaces(subtree, &mut survey.snapshot.unreadable).into_iter().enumerate() {
            let read = if number < MAX_NAMESPACES {
                survey.read(&path)
            } else {
                Err(io::Error::other(format!("more than {MAX_NAMESPACES} network namespaces")))
            };
            match read {
                Ok(()) => {}
                // The last process of the namespace has ended, and its sockets with it.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => {
                    survey.snapshot.unreadable.push(format!("read sockets of {}: {err}", path.display()));
                }
            }
        }
        survey
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let namespace = File::open(path)?;
        // Entering needs a privilege that staying does not.
        if Path::new("/proc/thread-self/ns/net").metadata()?.ino() != namespace.metadata()?.ino() {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        let cookie = match netns::cookie()? {
            // Kernels that tell no cookie (before 5.14) have the number of the file, which lives as long.
            0 => namespace.metadata()?.ino(),
            cookie => cookie,
        };
        let own = getifaddrs()?.filter_map(|interface| interface.address);
        let addresses = own.filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| Address::from_v4(v4.ip().octets()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| Address::new(v6.ip().octets())))
        });
        self.snapshot.namespaces.push(Namespace { cookie, addresses: addresses.collect() });
        let mut conversation = Diag::open()?;
        let read = conversation.sockets(cookie, |socket| self.snapshot.sockets.push(socket));
        self.conversations.insert(cookie, conversation);
        read
    }

    /// Closes sockets of the snapshot, given by their places; see [`Diag::destroy`]. What the kernel said of each is in
    /// the order of the places.
    pub fn destroy(&mut self, places: &[usize]) -> Vec<io::Result<()>> {
        let mut results: Vec<io::Result<()>> = places.iter().map(|_| Ok(())).collect();
        let mut by_namespace: HashMap<u64, Vec<usize>> = HashMap::new();
        for (order, place) in places.iter().enumerate() {
            by_namespace.entry(self.snapshot.sockets[*place].netns).or_default().push(order);
        }
        for (namespace, orders) in by_namespace {
            let sockets: Vec<&Socket> =
                orders.iter().map(|order| &self.snapshot.sockets[places[*order]]).collect();
            let said = match self.conversations.get_mut(&namespace) {
                Some(conversation) => conversation.destroy(&sockets),
                None => Err(io::Error::other("its network namespace is not open")),
            };
            match said {
                Ok(said) => {
                    for (order, said) in orders.iter().zip(said) {
                        results[*order] = said;
                    }
                }
                Err(err) => {
                    for order in &orders {
                        results[*order] = Err(io::Error::new(err.kind(), err.to_string()));
                    }
                }
            }
        }
        results
    }
}

/// One file for every namespace.
fn namespaces(subtree: &Path, unreadable: &mut Vec<String>) -> Vec<PathBuf> {
    let whole_tree = subtree == Path::new("/");
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut add = |path: PathBuf| {
        // A process that ends meanwhile takes its namespace with it, or another process has it too.
        let Ok(metadata) = path.metadata() else { return };
        if seen.insert((metadata.dev(), metadata.ino())) {
            found.push(path);
        }
    };
    add(PathBuf::from("/proc/self/ns/net"));
    let mount = feature::cgroup2();
    if let Err(err) = &mount {
        unreadable.push(format!("find the cgroup tree: {err}"));
    }
    let is_judged = |process: &Process| {
        let cgroup = mount.as_ref().ok().and_then(|mount| proc::cgroup(process, mount).ok().flatten());
        whole_tree || cgroup.is_some_and(|path| path.starts_with(subtree))
    };
    match procfs::process::all_processes() {
        Ok(processes) => {
            for process in processes.flatten() {
                if is_judged(&process) {
                    add(PathBuf::from(format!("/proc/{}/ns/net", process.pid)));
                }
            }
        }
        Err(err) => unreadable.push(format!("list processes: {err}")),
    }
    for directory in KEPT.iter().filter(|_| whole_tree) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            add(entry.path());
        }
    }
    found
}
