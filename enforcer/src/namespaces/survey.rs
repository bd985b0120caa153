//! Goes through the network namespaces of this host, and reads what [`Views`] are made of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use enforcer_common::Address;
use nix::sched::{CloneFlags, setns};
use tracing::{debug, warn};

use super::route::{self, Route};
use super::{Namespace, Room, Views};
use crate::netns;

/// Most addresses of one namespace that are read, and most devices, except of this process's own: what one namespace has must
/// not be all there is room for.
const MOST_OF_ONE: usize = 4096;

/// Reads the namespaces of this host, and remembers the ids that it has given between surveys.
#[derive(Debug)]
pub struct Surveyor {
    /// The path of the judged subtree from the top of the cgroup tree.
    subtree: PathBuf,
    /// Ids by the cookies of who knows and who is known. Both live for ever, or are forgotten with one of them.
    ids: HashMap<(u64, u64), u32>,
    /// Why namespaces were passed over in the last survey, which is not said again in the next one.
    told: HashSet<Why>,
}

/// Why a namespace is not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Why {
    TooMany,
    NotOpened,
    NotEntered,
    NoRoom,
}

/// A namespace that is held open.
struct Open {
    file: File,
    found: Namespace,
}

/// What is read of namespaces, and which of them could not be.
struct Read {
    namespaces: Vec<Namespace>,
    passed_over: Vec<(Why, String)>,
}

impl Surveyor {
    /// One for the subtree at this path.
    pub fn new(subtree: &Path) -> Self {
        Self { subtree: subtree.to_path_buf(), ids: HashMap::new(), told: HashSet::new() }
    }

    /// What all namespaces see of each other now. A namespace that cannot be entered, that is one too many or has too much in
    /// it, is passed over, and so unknown. That is logged once for each cause, until there is none such any longer.
    ///
    /// # Errors
    ///
    /// The processes of this host, or the namespace of this process, cannot be read.
    pub fn views(&mut self) -> io::Result<Views> {
        let netns::Found { open, beyond, unopened, failed } = netns::open_all(&self.subtree);
        if let Some(err) = failed.into_iter().next() {
            return Err(err);
        }
        // A namespace is a thread's, so a thread is given to it and not lent.
        let ids = std::mem::take(&mut self.ids);
        let surveyed = thread::Builder::new()
            .name(String::from("survey"))
            .spawn(move || {
                let mut ids = ids;
                (survey(open, &mut ids), ids)
            })?
            .join();
        let (read, ids) =
            surveyed.map_err(|_panic| io::Error::other("survey namespaces: the thread panicked"))?;
        self.ids = ids;
        let Read { namespaces, mut passed_over } = read?;
        let most = netns::Found::most();
        passed_over.extend(beyond.iter().map(|path| {
            (Why::TooMany, format!("open {}: more than {most} are open already", path.display()))
        }));
        passed_over.extend(
            unopened.iter().map(|(path, err)| (Why::NotOpened, format!("open {}: {err}", path.display()))),
        );
        let (views, left_out) = Views::of(&namespaces, Room::ALL);
        passed_over.extend((0..left_out).map(|_| {
            (Why::NoRoom, String::from("tell the programs what it sees: their tables have no room for it"))
        }));
        self.tell(&passed_over);
        Ok(views)
    }

    /// Says what was not said after the last survey.
    fn tell(&mut self, passed_over: &[(Why, String)]) {
        for (kind, count, example) in causes(passed_over) {
            if !self.told.contains(&kind) {
                warn!(
                    "{count} network namespaces are unknown, and denied towards services: {example}{}",
                    kind.hint()
                );
            }
        }
        self.told = passed_over.iter().map(|(kind, _)| *kind).collect();
    }
}

impl Why {
    fn hint(self) -> &'static str {
        match self {
            Self::TooMany => {
                "\nhint: raise the limit of open files (`LimitNOFILE=` of the unit), up to 65536"
            }
            Self::NotEntered => "\nhint: entering them takes CAP_SYS_ADMIN; see packaging/containers.conf",
            Self::NotOpened | Self::NoRoom => "",
        }
    }
}

/// Of each cause how many there are, and the first of them.
fn causes(passed_over: &[(Why, String)]) -> Vec<(Why, usize, &str)> {
    let mut causes: BTreeMap<Why, (usize, &str)> = BTreeMap::new();
    for (kind, example) in passed_over {
        causes.entry(*kind).or_insert((0, example)).0 += 1;
    }
    causes.into_iter().map(|(kind, (count, example))| (kind, count, example)).collect()
}

/// Enters one namespace after the other; the calling thread is lost to them.
fn survey(files: Vec<(PathBuf, File)>, ids: &mut HashMap<(u64, u64), u32>) -> io::Result<Read> {
    let mut open: Vec<Open> = Vec::new();
    let mut routes: Vec<Route> = Vec::new();
    let mut passed_over = Vec::new();
    let mut left = Room::ALL;
    for (number, (path, file)) in files.into_iter().enumerate() {
        // This process is in its own already, and may not have the right to enter any.
        let entered = if number == 0 { Ok(()) } else { setns(file.as_fd(), CloneFlags::CLONE_NEWNET) };
        let most = if number == 0 { usize::MAX } else { MOST_OF_ONE };
        let looked = entered
            .map_err(io::Error::from)
            .and_then(|()| look_around(most.min(left.devices), most.min(left.locals)));
        match looked {
            Ok((route, found)) => {
                let tells_apart = found.cookie != 0;
                left.devices = left.devices.saturating_sub(found.devices.len());
                left.locals = left.locals.saturating_sub(found.addresses.len());
                routes.push(route);
                open.push(Open { file, found });
                if !tells_apart {
                    // Below 5.14 namespaces have no cookie that the host can read, so only its own is looked at.
                    break;
                }
            }
            // The first is this process's own, without which nothing is known.
            Err(err) if number == 0 => return Err(err),
            Err(err) => passed_over.push((Why::of(&err), format!("enter {}: {err}", path.display()))),
        }
    }
    let alive: HashSet<u64> = open.iter().map(|namespace| namespace.found.cookie).collect();
    ids.retain(|(knower, known), _| alive.contains(knower) && alive.contains(known));
    let components = components(&open, &mut routes, ids)?;
    // What each is to know of all others, which grows with the square of their number, is bounded as what they see is.
    let mut room = Room::ALL.locals;
    for (number, route) in routes.iter_mut().enumerate() {
        let cookie = open[number].found.cookie;
        let joined = || {
            open.iter()
                .enumerate()
                .filter(|(other, _)| *other != number && components[*other] == components[number])
        };
        let knows = joined().map(|(_, there)| there.found.foreign().count().max(1)).sum();
        let left = room.checked_sub(knows);
        room = left.unwrap_or(room);
        let mut known = BTreeMap::new();
        let mut foreign = Vec::new();
        for (_, there) in joined() {
            // At least what its own cables lead to has an id already.
            if left.is_none() {
                known.extend(ids.get(&(cookie, there.found.cookie)).map(|id| (there.found.cookie, *id)));
                continue;
            }
            match id(route, cookie, there, ids) {
                Ok(id) => drop(known.insert(there.found.cookie, id)),
                Err(err) => debug!("give a network namespace an id: {err}"),
            }
            foreign.extend(there.found.foreign().map(|local| local.address));
        }
        let sources = sources(route, &open[number].found, foreign)?;
        let found = &mut open[number].found;
        found.ids = known;
        found.sources = sources;
    }
    let namespaces = open.into_iter().map(|namespace| namespace.found).collect();
    Ok(Read { namespaces, passed_over })
}

impl Why {
    /// Why a namespace that was opened is not read.
    fn of(err: &io::Error) -> Self {
        if err.raw_os_error().is_some() { Self::NotEntered } else { Self::NoRoom }
    }
}

/// What the namespace of the calling thread is.
fn look_around(most_devices: usize, most_addresses: usize) -> io::Result<(Route, Namespace)> {
    let cookie = netns::cookie()?;
    let mut route = Route::open()?;
    let (devices, addresses) = (route.links(most_devices)?, route.addresses(most_addresses)?);
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

#[cfg(test)]
mod tests {
    use super::{Why, causes};

    #[test]
    fn each_cause_is_told_with_its_number_and_the_first_example() {
        let passed_over = [
            (Why::NotEntered, String::from("enter a")),
            (Why::TooMany, String::from("open b")),
            (Why::NotEntered, String::from("enter c")),
        ];
        assert_eq!(causes(&passed_over), [(Why::TooMany, 1, "open b"), (Why::NotEntered, 2, "enter a")]);
        assert!(causes(&[]).is_empty());
    }
}
