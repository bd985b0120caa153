//! What has been told of events and records, kept in the kernel for the next daemon.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, IterableMap as _, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type;
use enforcer_common::names;

use super::pins::PinError;
use super::{chain, sys};

/// What has been told of the events in the open books, so that the next daemon can tell of the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// Books of daemons with a lower number are closed.
    pub first_open: u64,
    /// Attempts in the audit log.
    pub written: u64,
    /// Losses that the audit log tells of.
    pub lost: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME` when a daemon last looked.
    pub heard_at: u64,
    /// Device and inode of the audit log that these numbers are of, and its length then; 0 if it is no file.
    pub device: u64,
    /// Likewise.
    pub inode: u64,
    /// Likewise.
    pub length: u64,
    /// Records of what daemons themselves did that were [counted](Tally) and that the audit log has, or tells to be lost; of all
    /// daemons since the map is there.
    pub own_told: u64,
}

impl Ledger {
    const FIELDS: usize = 8;
    /// Before what daemons themselves did was counted.
    const FIELDS_BEFORE: usize = 7;

    fn fields(self) -> [u64; Self::FIELDS] {
        let Self { first_open, written, lost, heard_at, device, inode, length, own_told } = self;
        [first_open, written, lost, heard_at, device, inode, length, own_told]
    }

    fn of(fields: [u64; Self::FIELDS]) -> Self {
        let [first_open, written, lost, heard_at, device, inode, length, own_told] = fields;
        Self { first_open, written, lost, heard_at, device, inode, length, own_told }
    }

    fn of_before(fields: [u64; Self::FIELDS_BEFORE]) -> Self {
        let [first_open, written, lost, heard_at, device, inode, length] = fields;
        Self { first_open, written, lost, heard_at, device, inode, length, own_told: 0 }
    }
}

/// The ledger in the kernel, of which neither a kill nor a crash can leave an element half written.
pub(super) struct LedgerMap {
    map: Numbers,
    path: PathBuf,
    /// Whether it is a copy of one of an earlier layout, and has yet to take its place.
    is_copy: bool,
}

/// A map of rows of numbers. An array is written one element at a time, and an element by one system call.
type Numbers = Array<MapData, [u64; Ledger::FIELDS]>;

/// The element that holds a [`Ledger`]; the loop alone writes it.
const TOLD: u32 = 0;
/// The element whose first number is that of the records that a [`Tally`] has counted; other threads write it too.
const MADE: u32 = 1;
const ELEMENTS: u32 = 2;

impl LedgerMap {
    /// An empty one, pinned nowhere yet.
    pub(super) fn create(path: PathBuf) -> Result<Self, MapError> {
        let (kind, bytes) = (bpf_map_type::BPF_MAP_TYPE_ARRAY as u32, bytes_of::<{ Ledger::FIELDS }>());
        let shape = aya_obj::Map::new_from_params(kind, 4, bytes, ELEMENTS, 0);
        let data = MapData::create(shape, names::LEDGER, None)?;
        Ok(Self { map: Array::try_from(Map::Array(data))?, path, is_copy: false })
    }

    /// The one that was found at `path`; a copy of it if it is of the layout before.
    pub(super) fn open(found: MapData, path: PathBuf) -> Result<Self, MapError> {
        if found.info()?.value_size() != bytes_of::<{ Ledger::FIELDS_BEFORE }>() {
            return Ok(Self { map: Array::try_from(Map::Array(found))?, path, is_copy: false });
        }
        let before: Array<MapData, [u64; Ledger::FIELDS_BEFORE]> = Array::try_from(Map::Array(found))?;
        let mut copy = Self::create(path)?;
        copy.map.set(TOLD, Ledger::of_before(before.get(&0, 0)?).fields(), 0)?;
        Ok(Self { is_copy: true, ..copy })
    }

    pub(super) fn is_copy(&self) -> bool {
        self.is_copy
    }

    pub(super) fn placed(&mut self) {
        self.is_copy = false;
    }

    pub(super) fn pin(&self, path: &Path) -> Result<(), PinError> {
        let pinned = sys::pin(self.map.map().fd().as_fd(), path);
        pinned.map_err(|err| PinError::io("pin", path, &err))
    }

    pub(super) fn get(&self) -> Result<Ledger, PinError> {
        Ok(Ledger::of(self.row(TOLD)?))
    }

    pub(super) fn set(&mut self, ledger: Ledger) -> Result<(), PinError> {
        let written = self.map.set(TOLD, ledger.fields(), 0);
        written.map_err(|err| PinError::io("write pin", &self.path, &chain(&err)))
    }

    /// Records that a [`Tally`] has counted, of all daemons since the map is there.
    pub(super) fn made(&self) -> Result<u64, PinError> {
        let [made, ..] = self.row(MADE)?;
        Ok(made)
    }

    /// Counts on from where the daemons before have come to.
    pub(super) fn tally(&self) -> Result<Tally, PinError> {
        let failed = |cause: &dyn std::fmt::Display| PinError::io("use pin", &self.path, cause);
        let before = self.made()?;
        let same = self.map.map().fd().as_fd().try_clone_to_owned().map_err(|err| failed(&err))?;
        let map = MapData::from_fd(same).and_then(|data| Array::try_from(Map::Array(data)));
        let map = Some(map.map_err(|err| failed(&chain(&err)))?);
        Ok(Tally(Arc::new(Mutex::new(Counting { before, since: 0, map }))))
    }

    fn row(&self, element: u32) -> Result<[u64; Ledger::FIELDS], PinError> {
        let row = self.map.get(&element, 0);
        row.map_err(|err| PinError::io("read pin", &self.path, &chain(&err)))
    }
}

/// Bytes of so many numbers.
fn bytes_of<const NUMBERS: usize>() -> u32 {
    u32::try_from(size_of::<[u64; NUMBERS]>()).unwrap_or(u32::MAX)
}

/// Counts the [records of what the daemon itself does](crate::audit::Body::is_own), those of a change before it is made:
/// where enforcement outlives the daemon, in the kernel, so that the next one knows how many went with this one. Clones
/// count together.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<Counting>>);

#[derive(Default)]
struct Counting {
    /// Those of earlier daemons.
    before: u64,
    /// Those of this one.
    since: u64,
    map: Option<Numbers>,
}

impl Tally {
    /// Says that so many records are to be written.
    pub fn add(&self, number: u64) {
        self.change(|since| since + number);
    }

    /// Says that so many of those are not to be written, since what they would tell has not come to pass.
    pub fn take_back(&self, number: u64) {
        self.change(|since| since.saturating_sub(number));
    }

    /// Records of daemons before this one.
    pub fn before(&self) -> u64 {
        self.counting().before
    }

    /// Records of this daemon.
    pub fn since(&self) -> u64 {
        self.counting().since
    }

    fn change(&self, change: impl FnOnce(u64) -> u64) {
        let mut counting = self.counting();
        counting.since = change(counting.since);
        let mut row = [0; Ledger::FIELDS];
        row[0] = counting.before + counting.since;
        if let Some(map) = &mut counting.map
            && let Err(err) = map.set(MADE, row, 0)
        {
            log::error!("count records in the ledger: {}", chain(&err));
        }
    }

    fn counting(&self) -> MutexGuard<'_, Counting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Tally};

    #[test]
    fn a_ledger_is_read_as_it_was_written() {
        let ledger = Ledger {
            first_open: 1,
            written: 2,
            lost: 3,
            heard_at: 4,
            device: 5,
            inode: 6,
            length: 7,
            own_told: 8,
        };
        assert_eq!(Ledger::of(ledger.fields()), ledger);
        assert_eq!(Ledger::of_before([1, 2, 3, 4, 5, 6, 7]), Ledger { own_told: 0, ..ledger });
    }

    #[test]
    fn what_is_taken_back_was_not_made_and_clones_count_together() {
        let tally = Tally::default();
        let other = tally.clone();
        other.add(5);
        tally.take_back(2);
        assert_eq!((other.before(), other.since()), (0, 3));
    }
}
