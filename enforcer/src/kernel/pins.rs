//! What stays in the kernel when the daemon ends: the directory of pins, and how one daemon takes it over from another.
//!
//! ```text
//! DIR/maps-ABI-N/MAP       what decisions read; put there by daemon number N, under its layout
//! DIR/maps-ABI-N-new/MAP   the same while they are being filled: no program that is attached uses them
//! DIR/events-LAYOUT-N/MAP  ring and counters of daemon number N alone, so that its books can be closed for good
//! DIR/links/HOOK           what is attached
//! DIR/links/HOOK-new       a link that is about to take the place of HOOK
//! DIR/LEDGER               which events of the open books have been told of, and which records daemons had to write of their own
//! ```
//!
//! Names have no dots, which the file system keeps for itself (`bpf_lookup` in kernel/bpf/inode.c).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya_obj::generated::bpf_map_type;
use enforcer_common::Hook;
use enforcer_common::counter::Counter;
use enforcer_common::event::{EVENT_LAYOUT, InvalidEvent, Message};
use enforcer_common::layout::ABI_VERSION;
use enforcer_common::names;
use thiserror::Error;

use super::ledger::LedgerMap;
use super::{OBJECT, chain, leftovers, sys};
use crate::failpoint;
use crate::lock::{Lock, LockError};

/// Where BPF file systems are mounted (`Documentation/filesystems/bpf.rst`, and what systemd does).
const BPF_FS: &str = "/sys/fs/bpf";

/// Maps that are of one daemon's programs alone.
const OWN_BOOKS: [&str; 2] = [names::EVENTS, names::COUNTERS];
/// Maps that need not outlive the programs.
const NOT_KEPT: [&str; 3] = [names::SCRATCH, names::HEADERS, "AYA_LOGS"];

const MAPS: &str = "maps-";
const EVENTS: &str = "events-";
const LINKS: &str = "links";
const NEW: &str = "-new";

/// Why pins could not be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// The file system did not do what it was told.
    #[error("{what} {}: {cause}", .path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it was not.
        cause: String,
    },
    /// The directory is not on a BPF file system.
    #[error("use pin directory {}: not on a BPF file system\nhint: choose one below /sys/fs/bpf, or pin nothing with --detach-on-exit", .path.display())]
    NotBpf {
        /// The directory.
        path: PathBuf,
    },
    /// A newer enforcer made them.
    #[error("use pins in {}: they have layout {found}, and this enforcer knows {}\nhint: run the version that made them or a newer one; its policy is in force meanwhile", .path.display(), abi())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Their layout.
        found: u32,
    },
    /// Somebody else uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl PinError {
    pub(super) fn io(what: &'static str, path: &Path, cause: &dyn std::fmt::Display) -> Self {
        Self::Io { what, path: path.to_path_buf(), cause: cause.to_string() }
    }
}

/// The layout of maps that this enforcer uses. A test may have it pretend to be another version.
pub fn abi() -> u32 {
    #[cfg(debug_assertions)]
    if let Some(told) = std::env::var("ENFORCER_ABI").ok().and_then(|told| told.parse().ok()) {
        return told;
    }
    ABI_VERSION
}

/// A directory of pins, locked.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    lock: Lock,
    /// This daemon's number among those that have used the directory.
    number: u32,
    /// The maps that were in force when it was opened, if this version can use them.
    adoptable: Option<PathBuf>,
    /// Whether any program may be attached already.
    in_use: bool,
    /// What this daemon has pinned so far and nobody relies on yet: removed if the start fails.
    provisional: Vec<PathBuf>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        for path in self.provisional.iter().filter(|path| path.exists()) {
            // The next start removes it otherwise.
            if let Err(err) = fs::remove_dir_all(path) {
                log::warn!("remove {}: {err}", path.display());
            }
        }
    }
}

/// A directory of maps: the layout of these, or of events, and the daemon that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Made {
    number: u32,
    layout: u32,
}

impl Made {
    /// Reads `LAYOUT-N` behind `prefix`.
    fn parse(prefix: &str, name: &str) -> Option<Self> {
        let (layout, number) = name.strip_prefix(prefix)?.split_once('-')?;
        Some(Self { layout: layout.parse().ok()?, number: number.parse().ok()? })
    }

    fn name(self, prefix: &str) -> String {
        format!("{prefix}{}-{}", self.layout, self.number)
    }
}

impl Pins {
    /// Opens the directory and locks it, and mounts the file system or makes the directory where they are not there. What
    /// an earlier start did not come to use is removed.
    ///
    /// # Errors
    ///
    /// Another process holds it, a newer version made what is in it, or it is not on a BPF file system.
    pub fn open(directory: &Path) -> Result<Self, PinError> {
        let mut pins = Self::lock(directory)?;
        let entries = pins.entries()?;
        let made: Vec<(Made, &str)> = entries
            .iter()
            .filter_map(|name| {
                Made::parse(MAPS, name).or(Made::parse(EVENTS, name)).map(|made| (made, &**name))
            })
            .collect();
        let newest =
            made.iter().filter(|(_, name)| name.starts_with(MAPS)).map(|(made, _)| made.layout).max();
        if let Some(found) = newest.filter(|found| *found > abi()) {
            return Err(PinError::Newer { path: directory.to_path_buf(), found });
        }
        pins.number = made.iter().map(|(made, _)| made.number).max().unwrap_or(0) + 1;
        for name in entries.iter().filter(|name| name.ends_with(NEW)) {
            let path = pins.directory.join(name);
            if path.is_dir() {
                remove_directory(&path)?;
            } else {
                fs::remove_file(&path).map_err(|err| PinError::io("remove", &path, &err))?;
            }
        }
        let in_force = made.iter().filter(|(_, name)| name.starts_with(MAPS)).max();
        if let Some((made, name)) = in_force
            && made.layout == abi()
            && has_this_layout(&pins.directory.join(name))
        {
            pins.adoptable = Some(pins.directory.join(name));
        }
        let links = pins.directory.join(LINKS);
        make_directory(&links)?;
        pins.in_use =
            fs::read_dir(&links).map_err(|err| PinError::io("list", &links, &err))?.next().is_some();
        Ok(pins)
    }

    /// Whether programs of an earlier daemon may be attached by what is in a directory, also if that cannot be looked at.
    pub fn may_be_in_use(directory: &Path) -> bool {
        match fs::read_dir(directory.join(LINKS)) {
            Ok(mut links) => links.next().is_some(),
            Err(err) => err.kind() != io::ErrorKind::NotFound,
        }
    }

    fn lock(directory: &Path) -> Result<Self, PinError> {
        mount(directory)?;
        make_directory(directory)?;
        let opened = File::open(directory).map_err(|err| PinError::io("open", directory, &err))?;
        let lock = Lock::take(directory, opened)?;
        failpoint::pass("locked");
        Ok(Self {
            directory: directory.to_path_buf(),
            lock,
            number: 0,
            adoptable: None,
            in_use: false,
            provisional: Vec::new(),
        })
    }

    /// Whether an earlier daemon's maps are there and can be used as they are.
    pub fn is_adoptable(&self) -> bool {
        self.adoptable.is_some()
    }

    /// Whether programs of an earlier daemon are attached.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Leaves the maps of an earlier daemon alone: they are replaced by new ones.
    pub fn start_afresh(&mut self) {
        self.adoptable = None;
    }

    /// Where the pins are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory again if it is gone, or its file system is. Returns whether it was.
    pub(super) fn restore(&mut self) -> Result<bool, PinError> {
        let links = self.directory.join(LINKS);
        if links.is_dir() && is_bpf(&self.directory)? {
            return Ok(false);
        }
        mount(&self.directory)?;
        make_directory(&links)?;
        let opened =
            File::open(&self.directory).map_err(|err| PinError::io("open", &self.directory, &err))?;
        match Lock::take(&self.directory, opened) {
            Ok(lock) => self.lock = lock,
            // By ourselves: the directory is the one that was locked, and only what was in it is gone.
            Err(LockError::Held { pid, .. }) if pid == i32::try_from(std::process::id()).ok() => {}
            Err(err) => return Err(err.into()),
        }
        Ok(true)
    }

    /// Where every map of this daemon is pinned.
    pub(super) fn pinned_maps(&self) -> Vec<PathBuf> {
        let maps = self.maps_in_use();
        let kept = kept_maps().into_iter().map(|(name, _)| maps.join(name));
        let events = self.directory.join(self.own_events());
        let books = OWN_BOOKS.into_iter().map(|name| events.join(name));
        kept.chain(books).chain([self.directory.join(names::LEDGER)]).collect()
    }

    /// The directory of the maps that this daemon's programs read.
    fn maps_in_use(&self) -> PathBuf {
        match &self.adoptable {
            Some(adopted) => adopted.clone(),
            None => self.directory.join(self.own_maps()),
        }
    }

    fn own_maps(&self) -> String {
        Made { number: self.number, layout: abi() }.name(MAPS)
    }

    fn own_events(&self) -> String {
        Made { number: self.number, layout: EVENT_LAYOUT }.name(EVENTS)
    }

    /// Where each map is pinned that outlives the programs; makes the directories.
    pub(super) fn map_paths(&mut self) -> Result<BTreeMap<String, PathBuf>, PinError> {
        let maps = match &self.adoptable {
            Some(adopted) => adopted.clone(),
            None => self.directory.join(self.own_maps() + NEW),
        };
        let events = self.directory.join(self.own_events());
        make_directory(&maps)?;
        make_directory(&events)?;
        self.provisional.push(events.clone());
        if self.adoptable.is_none() {
            self.provisional.push(maps.clone());
        }
        failpoint::pass("maps-staged");
        let kept = kept_maps().into_iter().map(|(name, _)| {
            let path = maps.join(&name);
            (name, path)
        });
        let books = OWN_BOOKS.into_iter().map(|name| (name.to_owned(), events.join(name)));
        Ok(kept.chain(books).collect())
    }

    /// Says that the maps hold a whole policy: from now on programs may use them.
    pub(super) fn complete(&mut self) -> Result<(), PinError> {
        self.provisional.clear();
        if !self.in_use && self.adoptable.is_none() {
            // Links first, as always.
            let made = [LINKS.to_owned(), self.own_maps(), self.own_events()];
            self.provisional.extend(made.map(|name| self.directory.join(name)));
        }
        if self.adoptable.is_none() {
            let (name, path) = (self.own_maps(), self.directory.join(self.own_maps()));
            fs::rename(self.directory.join(name + NEW), &path)
                .map_err(|err| PinError::io("rename", &path, &err))?;
        }
        failpoint::pass("maps-complete");
        Ok(())
    }

    /// Says that the start has come to its end: from now on everything stays.
    pub(super) fn commit(&mut self) {
        self.provisional.clear();
    }

    /// The link that is pinned for a program, if it is attached to the cgroup of this inode number.
    pub(super) fn link(&self, program: &str, cgroup: u64) -> Result<Option<OwnedFd>, PinError> {
        self.place_link(program)?;
        let found = self.open_link(program)?;
        Ok(found.and_then(|(link, attached_to)| (attached_to == Some(cgroup)).then_some(link)))
    }

    /// The inode number of the cgroup to which programs of an earlier daemon are attached; none if there is none, or it is gone.
    ///
    /// # Errors
    ///
    /// What is pinned there cannot be looked at.
    pub fn attached_to(&self) -> Result<Option<u64>, PinError> {
        for hook in Hook::ALL {
            let found = self.open_link(hook.name())?;
            if let Some(cgroup) = found.and_then(|(_, cgroup)| cgroup).filter(|cgroup| *cgroup != 0) {
                return Ok(Some(cgroup));
            }
        }
        Ok(None)
    }

    /// The link that is pinned for a program, and the inode number of its cgroup: 0 if that is gone.
    fn open_link(&self, program: &str) -> Result<Option<(OwnedFd, Option<u64>)>, PinError> {
        let path = self.link_path(program);
        let link = match sys::open_pin(&path) {
            Ok(link) => link,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(PinError::io("open pin", &path, &err)),
        };
        let info = description(link.as_fd()).map_err(|err| PinError::io("read", &path, &err))?;
        Ok(Some((link, leftovers::field(&info, "cgroup_id"))))
    }

    /// Pins a link that is to take the place of the one that is there.
    pub(super) fn stage_link(&self, program: &str, link: FdLink) -> Result<OwnedFd, PinError> {
        self.place_link(program)?;
        let new = self.new_link_path(program);
        drop(link.pin(&new).map_err(|err| PinError::io("pin", &new, &chain(&err)))?);
        failpoint::pass("link-pinned");
        sys::open_pin(&new).map_err(|err| PinError::io("open pin", &new, &err))
    }

    /// Gives the link that was [staged](Self::stage_link) its place, if one was, also by a daemon that ended before it came
    /// to this. The one before is detached by it.
    pub(super) fn place_link(&self, program: &str) -> Result<(), PinError> {
        let (path, new) = (self.link_path(program), self.new_link_path(program));
        match fs::rename(&new, &path) {
            Ok(()) => failpoint::pass("link-renamed"),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(PinError::io("rename", &path, &err)),
        }
        Ok(())
    }

    pub(super) fn link_path(&self, program: &str) -> PathBuf {
        self.directory.join(LINKS).join(program)
    }

    fn new_link_path(&self, program: &str) -> PathBuf {
        self.directory.join(LINKS).join(format!("{program}{NEW}"))
    }

    /// Opens the oldest open book of an earlier daemon, if there is one. Only one at a time: after many crashes there may be
    /// many, each with a ring in memory.
    pub(super) fn oldest_book(&self, first_open: u64) -> Result<Option<Book>, PinError> {
        // Unmounted or removed since the start: no pin is left, and the next look puts back what this daemon holds.
        if !self.directory.exists() {
            return Ok(None);
        }
        let mut made: Vec<Made> =
            self.entries()?.iter().filter_map(|name| Made::parse(EVENTS, name)).collect();
        made.sort_unstable();
        for made in made.into_iter().filter(|made| made.number != self.number) {
            let path = self.directory.join(made.name(EVENTS));
            // Half of a pair is what a start left that never attached a program to it.
            if u64::from(made.number) < first_open || !OWN_BOOKS.iter().all(|map| path.join(map).exists()) {
                remove_directory(&path)?;
            } else {
                return Book::open(path, made).map(Some);
            }
        }
        Ok(None)
    }

    /// Removes the maps that no program uses any longer.
    pub(super) fn remove_old_maps(&self) -> Result<(), PinError> {
        let in_force = self.maps_in_use();
        for name in self.entries()?.iter().filter(|name| name.starts_with(MAPS)) {
            let path = self.directory.join(name);
            if path != in_force {
                remove_directory(&path)?;
            }
        }
        failpoint::pass("old-removed");
        Ok(())
    }

    /// Events of open books that no daemon has told of, and records of what daemons themselves did.
    fn untold(&self) -> Result<(u64, u64), PinError> {
        if !self.directory.join(names::LEDGER).exists() {
            return Ok((0, 0));
        }
        let map = self.ledger()?;
        let (ledger, made) = (map.get()?, map.made()?);
        let (mut produced, mut first_open) = (0, ledger.first_open);
        while let Some(book) = self.oldest_book(first_open)? {
            let (written, lost) = book.produced()?;
            produced += written + lost;
            first_open = book.number() + 1;
        }
        let events = produced.saturating_sub(ledger.written + ledger.lost);
        Ok((events, made.saturating_sub(ledger.own_told)))
    }

    fn entries(&self) -> Result<Vec<String>, PinError> {
        list(&self.directory)
    }

    /// The ledger, made if it is not there. One of an earlier layout is copied, and stays where it is until the copy is
    /// [placed](Self::place_ledger), so that the version that made it can use it if this start fails.
    pub(super) fn ledger(&self) -> Result<LedgerMap, PinError> {
        let path = self.directory.join(names::LEDGER);
        let failed = |err: MapError| PinError::io("use pin", &path, &chain(&err));
        if !path.exists() {
            let ledger = LedgerMap::create(path.clone()).map_err(failed)?;
            ledger.pin(&path)?;
            return Ok(ledger);
        }
        let found = MapData::from_pin(&path).map_err(failed)?;
        LedgerMap::open(found, path.clone()).map_err(failed)
    }

    /// Puts the ledger where the next daemon looks for it, if it is not there yet.
    pub(super) fn place_ledger(&self, ledger: &mut LedgerMap) -> Result<(), PinError> {
        if !ledger.is_copy() {
            return Ok(());
        }
        let (path, new) =
            (self.directory.join(names::LEDGER), self.directory.join(format!("{}{NEW}", names::LEDGER)));
        ledger.pin(&new)?;
        failpoint::pass("ledger-pinned");
        fs::rename(&new, &path).map_err(|err| PinError::io("rename", &path, &err))?;
        ledger.placed();
        Ok(())
    }
}

/// What a detach has removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Programs that were attached, by name.
    pub links: Vec<String>,
    /// How many other pins.
    pub pins: usize,
    /// Events that no daemon has told of.
    pub untold: u64,
    /// Records of what daemons themselves did that went with them.
    pub untold_records: u64,
    /// What is in the directory and not of enforcer, and so is still there.
    pub foreign: Vec<PathBuf>,
}

impl Pins {
    /// Detaches what is pinned in `directory` and removes every pin of ours, whichever version made it; what is not ours
    /// is left alone. The process must have one thread, see [`leftovers::pinned`]. `None` if there is no such directory.
    ///
    /// # Errors
    ///
    /// A daemon holds it, or something cannot be removed.
    pub fn detach(directory: &Path) -> Result<Option<Removed>, PinError> {
        // What may not be looked at is not taken for what is not there.
        if !directory.try_exists().map_err(|err| PinError::io("look for pins in", directory, &err))? {
            return Ok(None);
        }
        if !is_bpf(directory)? {
            return Err(PinError::NotBpf { path: directory.to_path_buf() });
        }
        let pins = Self::lock(directory)?;
        failpoint::pass("detach-begun");
        let mut removed = Removed::default();
        let links = directory.join(LINKS);
        if links.exists() {
            for name in list(&links)? {
                if remove_if_ours(&links.join(&name), &mut removed)? {
                    removed.links.push(name);
                    failpoint::pass("detach-link-removed");
                }
            }
            remove_if_empty(&links)?;
        }
        failpoint::pass("detach-links-removed");
        (removed.untold, removed.untold_records) = pins.untold()?;
        // Links first: without its maps a policy would be none, and not the one that is in force.
        for name in pins.entries()? {
            let path = directory.join(&name);
            if !name.starts_with(MAPS) && !name.starts_with(EVENTS) {
                continue;
            }
            let hidden = if name.starts_with(MAPS) && !name.ends_with(NEW) {
                // So that half of them are never taken for all.
                let hidden = directory.join(name + NEW);
                fs::rename(&path, &hidden).map_err(|err| PinError::io("rename", &path, &err))?;
                failpoint::pass("detach-maps-hidden");
                hidden
            } else {
                path
            };
            for map in list(&hidden)? {
                if remove_if_ours(&hidden.join(map), &mut removed)? {
                    removed.pins += 1;
                }
            }
            remove_if_empty(&hidden)?;
        }
        let ledger = directory.join(names::LEDGER);
        if ledger.exists() && remove_if_ours(&ledger, &mut removed)? {
            removed.pins += 1;
        }
        for name in pins
            .entries()?
            .into_iter()
            .filter(|name| name != LINKS && !name.starts_with(MAPS) && !name.starts_with(EVENTS))
        {
            removed.foreign.push(directory.join(name));
        }
        failpoint::pass("detach-maps-removed");
        remove_if_empty(directory)?;
        Ok(Some(removed))
    }
}

fn remove_if_ours(path: &Path, removed: &mut Removed) -> Result<bool, PinError> {
    let pinned = leftovers::pinned(path).map_err(|err| PinError::io("look at pin", path, &err))?;
    if pinned == leftovers::Pinned::Foreign {
        removed.foreign.push(path.to_path_buf());
        return Ok(false);
    }
    fs::remove_file(path).map_err(|err| PinError::io("remove pin", path, &err))?;
    Ok(true)
}

/// Removes a directory unless something is still in it.
fn remove_if_empty(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir(path) {
        Err(err) if err.kind() != io::ErrorKind::DirectoryNotEmpty => Err(PinError::io("remove", path, &err)),
        Err(_) | Ok(()) => Ok(()),
    }
}

/// The ring and the counters of one daemon that has ended.
pub(super) struct Book {
    path: PathBuf,
    number: u32,
    /// Whether this version can read what is in the ring.
    is_readable: bool,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl Book {
    fn open(path: PathBuf, made: Made) -> Result<Self, PinError> {
        let open = |name: &str| {
            let pin = path.join(name);
            MapData::from_pin(&pin).map_err(|err| PinError::io("open pin", &pin, &chain(&err)))
        };
        let failed = |err: MapError| PinError::io("use pins", &path, &chain(&err));
        let ring = RingBuf::try_from(Map::RingBuf(open(names::EVENTS)?)).map_err(failed)?;
        let counters = PerCpuArray::try_from(Map::PerCpuArray(open(names::COUNTERS)?)).map_err(failed)?;
        Ok(Self { path, number: made.number, is_readable: made.layout == EVENT_LAYOUT, ring, counters })
    }

    /// Its daemon's number.
    pub(super) fn number(&self) -> u64 {
        u64::from(self.number)
    }

    /// The next message that waits and can be read.
    pub(super) fn next(&mut self) -> Option<Result<Message, InvalidEvent>> {
        loop {
            let bytes = self.ring.next()?;
            // What another version wrote counts as lost.
            if self.is_readable {
                return Some(Message::parse(&bytes));
            }
        }
    }

    /// Events that were put into the ring, and events for which it had no room.
    pub(super) fn produced(&self) -> Result<(u64, u64), PinError> {
        let sum = |counter: Counter| {
            let values = self.counters.get(&counter.0, 0);
            let values = values.map_err(|err| PinError::io("read counters", &self.path, &chain(&err)))?;
            Ok::<u64, PinError>(values.iter().sum())
        };
        Ok((sum(Counter::EVENTS_WRITTEN)?, sum(Counter::EVENTS_LOST)?))
    }

    pub(super) fn remove(self) -> Result<(), PinError> {
        remove_directory(&self.path)
    }
}

/// Every map of the object that outlives the programs, with its shape.
fn kept_maps() -> Vec<(String, aya_obj::Map)> {
    // What was built into this program was parsed by its build already.
    let maps = aya_obj::Object::parse(OBJECT).map(|object| object.maps).unwrap_or_default();
    let is_kept =
        |name: &str| !name.starts_with('.') && !OWN_BOOKS.contains(&name) && !NOT_KEPT.contains(&name);
    maps.into_iter().filter(|(name, _)| is_kept(name)).collect()
}

/// Whether every map is there and of the shape that this version's programs expect.
fn has_this_layout(directory: &Path) -> bool {
    kept_maps().iter().all(|(name, expected)| {
        let found = MapData::from_pin(directory.join(name)).and_then(|map| map.info());
        found.is_ok_and(|found| is_of_shape(&found, expected))
    })
}

fn is_of_shape(found: &MapInfo, expected: &aya_obj::Map) -> bool {
    let kind = bpf_map_type::try_from(expected.map_type()).ok().and_then(|kind| MapType::try_from(kind).ok());
    found.map_type().ok() == kind
        && found.key_size() == expected.key_size()
        && found.value_size() == expected.value_size()
        && found.max_entries() == expected.max_entries()
}

/// What the kernel says of an open descriptor of ours.
pub(super) fn description(fd: BorrowedFd<'_>) -> io::Result<String> {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
}

/// Mounts the file system below which `directory` is to be, if it is the usual one and not there.
fn mount(directory: &Path) -> Result<(), PinError> {
    if is_bpf(directory)? {
        return Ok(());
    }
    let top = Path::new(BPF_FS);
    if !directory.starts_with(top) || is_bpf(top)? {
        return Err(PinError::NotBpf { path: directory.to_path_buf() });
    }
    let flags =
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), top, Some("bpf"), flags, Some("mode=700"))
        .map_err(|err| PinError::io("mount BPF file system on", top, &err))
}

/// Whether `path`, or what of it is there, lies on a BPF file system.
fn is_bpf(path: &Path) -> Result<bool, PinError> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = nix::sys::statfs::statfs(there).map_err(|err| PinError::io("look at", there, &err))?;
    Ok(found.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

fn make_directory(path: &Path) -> Result<(), PinError> {
    fs::create_dir_all(path).map_err(|err| PinError::io("create directory", path, &err))
}

fn list(path: &Path) -> Result<Vec<String>, PinError> {
    let failed = |err: io::Error| PinError::io("list", path, &err);
    let entries = fs::read_dir(path).map_err(failed)?;
    let mut names = entries
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<String>, PinError>>()?;
    names.sort();
    Ok(names)
}

/// Removes a directory of pins.
fn remove_directory(path: &Path) -> Result<(), PinError> {
    fs::remove_dir_all(path).map_err(|err| PinError::io("remove", path, &err))
}

#[cfg(test)]
mod tests {
    use super::{EVENTS, MAPS, Made, kept_maps};
    use enforcer_common::names;

    #[test]
    fn directories_are_told_apart_by_their_names() {
        for (prefix, name, made) in [
            (MAPS, "maps-1-7", Some(Made { layout: 1, number: 7 })),
            (EVENTS, "events-12-3", Some(Made { layout: 12, number: 3 })),
            (MAPS, "maps-1-7-new", None),
            (MAPS, "maps-1", None),
            (MAPS, "events-1-7", None),
            (MAPS, "maps--7", None),
        ] {
            assert_eq!(Made::parse(prefix, name), made, "{name}");
        }
        let made = Made { layout: 2, number: 5 };
        assert_eq!(Made::parse(MAPS, &made.name(MAPS)), Some(made));
    }

    #[test]
    fn the_newest_maps_are_those_of_the_latest_daemon() {
        let older = Made { layout: 9, number: 1 };
        assert!(older < Made { layout: 1, number: 2 });
    }

    #[test]
    fn what_decisions_read_is_kept_and_what_one_daemon_reads_is_not() {
        let kept: Vec<String> = kept_maps().into_iter().map(|(name, _)| name).collect();
        for name in [names::ACTIVE, names::CGROUPS, names::SOCKETS, names::LOCALS] {
            assert!(kept.iter().any(|kept| kept == name), "{name}");
        }
        for name in [names::EVENTS, names::COUNTERS, names::SCRATCH, ".rodata"] {
            assert!(!kept.iter().any(|kept| kept == name), "{name}");
        }
    }
}
