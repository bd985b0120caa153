//! Goes through the network namespaces of this host and reads their sockets.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use enforcer_common::Address;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

use super::diag::Diag;
use super::{Namespace, Snapshot, Socket};
use crate::namespaces::Neighbours;
use crate::{failpoint, netns};

/// The sockets of this host, and the conversations by which they can be closed.
pub struct Survey {
    /// What was found.
    pub snapshot: Snapshot,
    /// By the cookie of the namespace.
    conversations: HashMap<u64, Diag>,
}

impl Survey {
    /// Reads the sockets of every namespace in which processes of the subtree at `subtree` are, and of those that are
    /// kept by name if that is the whole tree. The calling thread is left in the last of these namespaces. `neighbours` is what was
    /// found of where only this host's own can be.
    ///
    /// What cannot be read is told in [`Snapshot::unreadable`].
    pub fn take(subtree: &Path, neighbours: Arc<Neighbours>) -> Self {
        let snapshot = Snapshot { neighbours, ..Snapshot::default() };
        let mut survey = Self { snapshot, conversations: HashMap::new() };
        let found = netns::open_all(subtree);
        for (path, namespace) in found.open {
            if let Err(err) = failpoint::read_sockets().and_then(|()| survey.read(&namespace)) {
                survey.snapshot.is_worth_another_try |= may_pass(&err);
                survey.snapshot.unreadable.push(format!("read sockets of {}: {err}", path.display()));
            }
        }
        let failed = found.unopened.iter().map(|(_, err)| err).chain(&found.failed);
        survey.snapshot.is_worth_another_try |= failed.into_iter().any(may_pass);
        let unreadable = &mut survey.snapshot.unreadable;
        let most = netns::Found::most();
        unreadable.extend(
            found.beyond.iter().map(|path| {
                format!("read sockets of {}: more than {most} network namespaces", path.display())
            }),
        );
        // Once for each cause, since a thousand processes may be in such a namespace.
        let causes: BTreeSet<String> = found.unopened.iter().map(|(_, err)| err.to_string()).collect();
        unreadable.extend(causes.iter().map(|cause| format!("open network namespaces: {cause}")));
        unreadable.extend(found.failed.iter().map(io::Error::to_string));
        survey
    }

    fn read(&mut self, namespace: &File) -> io::Result<()> {
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

/// Whether what could not be read may be read at another try, which a right that is missing does not come by.
fn may_pass(err: &io::Error) -> bool {
    !matches!(err.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}
