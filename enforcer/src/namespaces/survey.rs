//! Goes through the network namespaces of this host, and reads what [`Views`] are made of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use enforcer_common::Address;
use nix::sched::{CloneFlags, setns};
use tracing::debug;

use super::route::{self, Route};
use super::{Namespace, Views};
use crate::netns;

/// Reads the namespaces of this host, and remembers the ids that it has given between surveys.
#[derive(Debug)]
pub struct Surveyor {
    /// The path of the judged subtree from the top of the cgroup tree.
    subtree: PathBuf,
    /// Ids by the cookies of who knows and who is known. Both live for ever, or are forgotten with one of them.
    ids: HashMap<(u64, u64), u32>,
}

/// A namespace that is held open.
struct Open {
    file: File,
    found: Namespace,
}

impl Surveyor {
    /// One for the subtree at this path.
    pub fn new(subtree: &Path) -> Self {
        Self { subtree: subtree.to_path_buf(), ids: HashMap::new() }
    }

    /// What all namespaces see of each other now. A namespace that cannot be entered, or that is one too many, is passed over,
    /// and so unknown.
    ///
    /// # Errors
    ///
    /// The processes of this host, or the namespace of this process, cannot be read.
    pub fn views(&mut self) -> io::Result<Views> {
        let netns::Found { open, failed, .. } = netns::open_all(&self.subtree);
        if let Some(err) = failed.into_iter().next() {
            return Err(err);
        }
        let files = open.into_iter().map(|(_, file)| file).collect();
        // A namespace is a thread's, so a thread is given to it and not lent.
        let ids = std::mem::take(&mut self.ids);
        let surveyed = thread::Builder::new()
            .name(String::from("survey"))
            .spawn(move || {
                let mut ids = ids;
                (survey(files, &mut ids), ids)
            })?
            .join();
        let (namespaces, ids) =
            surveyed.map_err(|_panic| io::Error::other("survey namespaces: the thread panicked"))?;
        self.ids = ids;
        Ok(Views::of(&namespaces?))
    }
}

/// Enters one namespace after the other; the calling thread is lost to them.
fn survey(files: Vec<File>, ids: &mut HashMap<(u64, u64), u32>) -> io::Result<Vec<Namespace>> {
    let mut open: Vec<Open> = Vec::new();
    let mut routes: Vec<Route> = Vec::new();
    for (number, file) in files.into_iter().enumerate() {
        // This process is in its own already, and may not have the right to enter any.
        let entered = if number == 0 { Ok(()) } else { setns(file.as_fd(), CloneFlags::CLONE_NEWNET) };
        match entered.map_err(io::Error::from).and_then(|()| look_around()) {
            Ok((route, found)) => {
                let tells_apart = found.cookie != 0;
                routes.push(route);
                open.push(Open { file, found });
                if !tells_apart {
                    // Below 5.14 namespaces have no cookie that the host can read, so only its own is looked at.
                    break;
                }
            }
            // The first is this process's own, without which nothing is known.
            Err(err) if number == 0 => return Err(err),
            Err(err) => debug!("enter network namespace: {err}"),
        }
    }
    let alive: HashSet<u64> = open.iter().map(|namespace| namespace.found.cookie).collect();
    ids.retain(|(knower, known), _| alive.contains(knower) && alive.contains(known));
    let components = components(&open, &mut routes, ids)?;
    for (number, route) in routes.iter_mut().enumerate() {
        let cookie = open[number].found.cookie;
        let mut known = BTreeMap::new();
        let mut foreign = Vec::new();
        for other in
            (0..open.len()).filter(|other| *other != number && components[*other] == components[number])
        {
            let there = &open[other];
            match id(route, cookie, there, ids) {
                Ok(id) => drop(known.insert(there.found.cookie, id)),
                Err(err) => debug!("give a network namespace an id: {err}"),
            }
            foreign.extend(there.found.addresses.iter().map(|local| local.address));
        }
        foreign.retain(|address| !address.is_loopback_or_unspecified());
        let sources = sources(route, &open[number].found, foreign)?;
        let found = &mut open[number].found;
        found.ids = known;
        found.sources = sources;
    }
    Ok(open.into_iter().map(|namespace| namespace.found).collect())
}

/// What the namespace of the calling thread is.
fn look_around() -> io::Result<(Route, Namespace)> {
    let cookie = netns::cookie()?;
    let mut route = Route::open()?;
    let (devices, addresses) = (route.links()?, route.addresses()?);
    Ok((route, Namespace { cookie, devices, addresses, ..Namespace::default() }))
}

fn id(route: &mut Route, knower: u64, known: &Open, ids: &mut HashMap<(u64, u64), u32>) -> io::Result<u32> {
    let pair = (knower, known.found.cookie);
    if let Some(id) = ids.get(&pair) {
        return Ok(*id);
    }
    let id = route.id(known.file.as_fd())?;
    ids.insert(pair, id);
    Ok(id)
}

/// For each namespace the smallest number among those that it is joined to.
fn components(
    open: &[Open],
    routes: &mut [Route],
    ids: &mut HashMap<(u64, u64), u32>,
) -> io::Result<Vec<usize>> {
    let mut joined = super::Union::new(open.len());
    for (number, route) in routes.iter_mut().enumerate() {
        let cookie = open[number].found.cookie;
        let mut wanted: HashSet<u32> =
            open[number].found.devices.iter().filter_map(|link| link.peer_netns).collect();
        // The first is asked first, since most cables lead to the host's own.
        for (other, there) in open.iter().enumerate().filter(|(other, _)| *other != number) {
            if wanted.is_empty() {
                break;
            }
            let pair = (cookie, there.found.cookie);
            let known = match ids.get(&pair) {
                Some(id) => Some(*id),
                None => route.known_id(there.file.as_fd())?,
            };
            let Some(id) = known else { continue };
            ids.insert(pair, id);
            if wanted.remove(&id) {
                joined.join(number, other);
            }
        }
    }
    Ok((0..open.len()).map(|number| joined.find(number)).collect())
}

/// The addresses from which a namespace reaches others'; without a question where it has only one to choose.
fn sources(
    route: &mut Route,
    viewer: &Namespace,
    foreign: Vec<Address>,
) -> io::Result<HashMap<Address, Address>> {
    let choice = |v4: bool| {
        let own = viewer.addresses.iter().map(|local| local.address);
        let mut own = own.filter(|address| address.is_v4() == v4 && !address.is_loopback_or_unspecified());
        match (own.next(), own.next()) {
            (Some(only), None) => Some(only),
            (Some(_), Some(_)) | (None, _) => None,
        }
    };
    let (only_v4, only_v6) = (choice(true), choice(false));
    let mut sources = HashMap::new();
    let mut asked = Vec::new();
    for address in foreign {
        match if address.is_v4() { only_v4 } else { only_v6 } {
            Some(only) => drop(sources.insert(address, only)),
            None => asked.push(address),
        }
    }
    sources.extend(route::sources(route, asked.into_iter())?);
    Ok(sources)
}
