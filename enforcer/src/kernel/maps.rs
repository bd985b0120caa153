//! Typed handles over the maps, and the one way to put a policy into them.

use std::borrow::BorrowMut;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, PerCpuArray, PerCpuValues, SkStorage};
use aya::sys::SyscallError;
use aya::{Ebpf, Pod};
use enforcer_common::claims::DEAD;
use enforcer_common::counter::{Counter, Outcome};
use enforcer_common::kept::{KeptVerdict, NO_GENERATION};
use enforcer_common::layout::{
    Active, Cgroup, Classes, Device, DeviceKey, EdgeKey, EdgeValue, Keyed, KeyedCgroup, KeyedDevice,
    KeyedPlace, LocalKey, NeighbourKey, Owner, PortKey, ProtocolKey, SocketNote,
};
use enforcer_common::limits::{MAX_CGROUPS, MAX_VERDICTS, VERDICT_PLACE_BYTES};
use enforcer_common::{Identity, Reason, names};
use thiserror::Error;
use tracing::{debug, error};

use super::{chain, sys};
use crate::failpoint;
use crate::namespaces::Views;
use crate::policy::OnAuditLoss;
use crate::tables::{Claims, Difference, Edges, Prefix, Tables};

/// `BPF_F_NO_PREALLOC`: memory is taken entry by entry, so a map may be declared large.
const SPARSE: u32 = 1;
/// `BPF_F_INNER_MAP` (kernel 5.10): an inner array may be of another size than its template.
const RESIZABLE: u32 = 1 << 12;
/// `BPF_EXIST`: write only what is there already, so that a cgroup that was just released is not entered again.
const KNOWN_ONLY: u64 = 2;
/// `BPF_NOEXIST`: write only what is not there yet.
const NEW_ONLY: u64 = 1;
/// The error it gives for want of memory.
const ENOMEM: i32 = 12;
/// The error a map gives for a key that is not there.
const ENOENT: i32 = 2;
/// The error it gives for one that is, with [`NEW_ONLY`].
const EEXIST: i32 = 17;

/// The generation from which they are counted.
const FIRST_GENERATION: u8 = 1;

/// Why a map could not be read or written.
#[derive(Debug, Error)]
pub enum MapError {
    /// The object has no such map, or one of another type.
    #[error("open map {map}: {cause}")]
    Open {
        /// Its name.
        map: &'static str,
        /// Why not.
        cause: String,
    },
    /// An entry could not be written.
    #[error("write map {map}: {}", chain(.cause))]
    Write {
        /// Its name.
        map: &'static str,
        /// Why not.
        cause: aya::maps::MapError,
    },
    /// An entry could not be read.
    #[error("read map {map}: {}", chain(.cause))]
    Read {
        /// Its name.
        map: &'static str,
        /// Why not.
        cause: aya::maps::MapError,
    },
    /// A cgroup that was read back is not what was written.
    #[error("read back map CGROUPS: cgroup {id} differs from what was written")]
    Cgroup {
        /// Its id.
        id: u64,
    },
    /// What was read back is not what was written.
    #[error("read back map {map}: entry {index} of {entries} differs from what was written")]
    Differs {
        /// Its name.
        map: &'static str,
        /// Which entry, in the order of writing.
        index: usize,
        /// Of how many.
        entries: usize,
    },
}

/// What the programs have counted since they were loaded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts(Vec<u64>);

impl Counts {
    /// One counter, summed over all CPUs.
    pub fn get(&self, counter: Counter) -> u64 {
        usize::try_from(counter.0).ok().and_then(|index| self.0.get(index)).copied().unwrap_or(0)
    }

    /// Decisions with this outcome, whatever their reason.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        Reason::ALL.iter().map(|reason| self.get(Counter::decisions(outcome, *reason))).sum()
    }
}

type Inner<K, V> = HashMap<MapData, K, V>;
type CgroupTable = Inner<u64, KeyedCgroup>;

/// Who owns which cgroup in one revision of the policy, for another thread to ask. The programs keep it up to date as
/// long as the revision is in force.
pub struct CgroupOwners(CgroupTable);

impl CgroupOwners {
    /// The owner of a cgroup; `None` if it is not in the tables.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn owner(&self, id: u64) -> Result<Option<Owner>, MapError> {
        Ok(self.cgroup(id)?.map(|cgroup| cgroup.owner))
    }

    /// A cgroup as the tables have it; `None` if it is not in them.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn cgroup(&self, id: u64) -> Result<Option<Cgroup>, MapError> {
        find(&self.0, id)
    }
}

/// The cgroups of the tables that are about to be in force.
pub struct Entering<'a> {
    next: &'a mut CgroupTable,
    in_force: &'a CgroupTable,
}

impl Entering<'_> {
    /// Enters a cgroup. It may be released before it is read back, and the program on the tracepoint takes it out then: one that
    /// is missing is no failure unless it `is_there` still.
    ///
    /// # Errors
    ///
    /// It cannot be written, or does not read back as it was.
    pub fn enter(
        &mut self,
        id: u64,
        cgroup: Cgroup,
        is_there: impl FnOnce() -> bool,
    ) -> Result<(), MapError> {
        write(names::CGROUPS, self.next.insert(id, Keyed::new(&id, cgroup), 0))?;
        failpoint::pass("cgroup-entered");
        match find(self.next, id)? {
            Some(found) if found == cgroup => Ok(()),
            None if !is_there() => Ok(()),
            Some(_) | None => Err(MapError::Cgroup { id }),
        }
    }

    /// Enters every cgroup that the tables in force have, as they have it: for tables that say the same of each.
    ///
    /// One that is made meanwhile is entered by the program on the tracepoint, if its parent is there already. So what a look
    /// finds to be missing may have children that are missing too, and is looked for again until nothing is.
    ///
    /// # Errors
    ///
    /// They cannot be read or written.
    pub fn carry_over(&mut self) -> Result<(), MapError> {
        loop {
            let there = entries(self.in_force)?;
            let here: BTreeMap<u64, Cgroup> = entries(self.next)?.into_iter().collect();
            let missing = there.into_iter().filter(|(id, cgroup)| here.get(id) != Some(cgroup));
            let (ids, cgroups): (Vec<u64>, Vec<KeyedCgroup>) =
                missing.map(|(id, cgroup)| (id, Keyed::new(&id, cgroup))).unzip();
            if ids.is_empty() {
                return Ok(());
            }
            may_write(names::CGROUPS)?;
            write_entries(names::CGROUPS, self.next.map().fd().as_fd(), &[(&ids, &cgroups)])?;
        }
    }
}

/// Every cgroup of a table.
fn entries(cgroups: &CgroupTable) -> Result<Vec<(u64, Cgroup)>, MapError> {
    const BLANK: Cgroup = Cgroup { owner: Owner::UNMANAGED, state: DEAD };
    let blank = (0, Keyed::new(&0, BLANK));
    let mut entries = Vec::new();
    each_batch(names::CGROUPS, cgroups.map().fd().as_fd(), blank, LEAST_AT_ONCE, |ids, cgroups| {
        entries.extend(ids.iter().copied().zip(cgroups.iter().map(|cgroup| *cgroup.value())));
        Ok(())
    })?;
    Ok(entries)
}

/// A cgroup as a table has it; `None` if it is not in it.
fn find(cgroups: &CgroupTable, id: u64) -> Result<Option<Cgroup>, MapError> {
    match cgroups.get(&id, 0) {
        Ok(cgroup) => Ok(Some(*cgroup.value())),
        Err(aya::maps::MapError::KeyNotFound) => Ok(None),
        Err(cause) => Err(MapError::Read { map: names::CGROUPS, cause }),
    }
}

/// What was written into a slot, and read back, with the maps that it is in.
pub struct Held {
    claims: Arc<Claims>,
    automaton: Automaton,
    edges: Edges,
    edge_map: Inner<EdgeKey, EdgeValue>,
    /// How many edges there is room for.
    room: usize,
    networks: Vec<(Prefix, Identity)>,
    network_map: Arc<LpmTrie<MapData, [u8; 16], u32>>,
    reserved: BTreeMap<PortKey, Owner>,
    reserved_map: Arc<Inner<PortKey, Owner>>,
    protocols: BTreeSet<ProtocolKey>,
    protocol_map: Arc<Inner<ProtocolKey, u32>>,
}

/// The maps of the automaton of selectors. Slots that hold the same do not share them: a map is in one slot.
type Automaton = Arc<(Array<MapData, Classes>, Array<MapData, u32>, Inner<u32, Owner>)>;

impl Held {
    /// Reads all of it back again, but for the cgroups. It is the same as long as nobody writes to the slot.
    ///
    /// # Errors
    ///
    /// A map cannot be read, or holds something else.
    pub fn check(&self) -> Result<(), MapError> {
        let pieces: Vec<_> = self.edges.pieces().collect();
        check(names::EDGES, &self.edge_map, &pieces)?;
        let (classes, transitions, claimants) = &*self.automaton;
        read_back_array(names::CLASSES, classes, std::slice::from_ref(&self.claims.classes))?;
        read_back_array(names::TRANSITIONS, transitions, &self.claims.transitions)?;
        let (states, owners): (Vec<u32>, Vec<Owner>) = self.claims.claimants.iter().unzip();
        check(names::CLAIMANTS, claimants, &[(&states, &owners)])?;
        read_back_networks(&self.network_map, &self.networks)?;
        let (ports, owners): (Vec<PortKey>, Vec<Owner>) = self.reserved.iter().unzip();
        check(names::RESERVED, &self.reserved_map, &[(&ports, &owners)])?;
        let keys: Vec<ProtocolKey> = self.protocols.iter().copied().collect();
        check(names::PROTOCOLS, &self.protocol_map, &[(&keys, &vec![1; keys.len()])])
    }
}

/// All maps that the host writes.
pub(super) struct Maps {
    active: Array<MapData, u32>,
    revisions: Array<MapData, u32>,
    cgroups: ArrayOfMaps<MapData, CgroupTable>,
    classes: ArrayOfMaps<MapData, Array<MapData, Classes>>,
    transitions: ArrayOfMaps<MapData, Array<MapData, u32>>,
    claimants: ArrayOfMaps<MapData, Inner<u32, Owner>>,
    edges: ArrayOfMaps<MapData, Inner<EdgeKey, EdgeValue>>,
    networks: ArrayOfMaps<MapData, LpmTrie<MapData, [u8; 16], u32>>,
    reserved: ArrayOfMaps<MapData, Inner<PortKey, Owner>>,
    protocols: ArrayOfMaps<MapData, Inner<ProtocolKey, u32>>,
    verdicts: Array<MapData, [u8; VERDICT_PLACE_BYTES]>,
    locals: HashMap<MapData, LocalKey, KeyedPlace>,
    devices: HashMap<MapData, DeviceKey, KeyedDevice>,
    neighbours: LpmTrie<MapData, NeighbourKey, u32>,
    strangers: HashMap<MapData, u64, u32>,
    /// What `locals`, `devices` and `neighbours` hold.
    views: Views,
    sockets: SkStorage<MapData, SocketNote>,
    counters: PerCpuArray<MapData, u64>,
    /// How many could not be kept when there was last made room for them.
    verdicts_not_kept: u64,
    /// Which slot is in force.
    slot: u32,
    /// What each slot holds, but for its cgroups; nothing if that is not known, so that it is written in full.
    held: [Option<Arc<Held>>; 2],
    /// The slot that was emptied last and not filled since, with its cgroups, of which there are none.
    emptied: Option<(u32, CgroupTable)>,
    /// The cgroups of the slot in force, kept open because they change between policies.
    cgroups_in_force: CgroupTable,
    /// Whether they are those of the slot in force. An earlier daemon's cannot always be opened.
    knows_cgroups: bool,
    /// Whether a cgroup got another owner, and verdicts by the one before are still obeyed.
    owes_generation: bool,
}

impl Maps {
    /// Takes the maps out of a loaded object and fills both slots with an empty policy, so that no program ever
    /// finds a slot without tables.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, MapError> {
        let mut maps = Self::open(object)?;
        let empty = Tables::default();
        let (_, held) = maps.fill(0, &empty)?;
        maps.hold(0, held);
        let (cgroups, held) = maps.fill(1, &empty)?;
        maps.hold(1, held);
        maps.cgroups_in_force = cgroups;
        maps.knows_cgroups = true;
        maps.slot = 1;
        write(names::ACTIVE, maps.active.set(0, Active::new(1, false, false, FIRST_GENERATION).0, 0))?;
        failpoint::pass("maps-emptied");
        Ok(maps)
    }

    fn open(object: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            active: take(object, names::ACTIVE)?,
            revisions: take(object, names::REVISIONS)?,
            cgroups: take(object, names::CGROUPS)?,
            classes: take(object, names::CLASSES)?,
            transitions: take(object, names::TRANSITIONS)?,
            claimants: take(object, names::CLAIMANTS)?,
            edges: take(object, names::EDGES)?,
            networks: take(object, names::NETWORKS)?,
            reserved: take(object, names::RESERVED)?,
            protocols: take(object, names::PROTOCOLS)?,
            verdicts: take(object, names::VERDICTS)?,
            locals: take(object, names::LOCALS)?,
            devices: take(object, names::DEVICES)?,
            neighbours: take(object, names::NEIGHBOURS)?,
            strangers: take(object, names::STRANGERS)?,
            views: Views::default(),
            sockets: take(object, names::SOCKETS)?,
            counters: take(object, names::COUNTERS)?,
            verdicts_not_kept: 0,
            slot: 0,
            held: [None, None],
            emptied: None,
            cgroups_in_force: sparse(names::CGROUPS, 1)?,
            knows_cgroups: false,
            owes_generation: false,
        })
    }

    /// Takes the maps that an earlier daemon has left, with its policy in force.
    pub(super) fn adopt(object: &mut Ebpf) -> Result<Self, MapError> {
        let mut maps = Self::open(object)?;
        let map = names::ACTIVE;
        maps.slot = maps.active()?.slot();
        match maps.slot {
            0 | 1 => {
                // Only who has CAP_SYS_ADMIN opens a map by its number (`bpf_map_get_fd_by_id` in kernel/bpf/syscall.c).
                // Without it nothing is known of cgroups that have vanished, and those that are there are found again.
                match maps.cgroups.get(&maps.slot, 0) {
                    Ok(cgroups) => {
                        maps.cgroups_in_force = cgroups;
                        maps.knows_cgroups = true;
                    }
                    Err(err) => debug!("read the cgroups in force: {}", chain(&err)),
                }
                maps.views = maps.read_views()?;
                Ok(maps)
            }
            slot => Err(MapError::Open { map, cause: format!("slot {slot} is in force, and there are two") }),
        }
    }

    fn read_views(&self) -> Result<Views, MapError> {
        let failed = |map| move |cause| MapError::Read { map, cause };
        let locals: Result<_, _> =
            self.locals.iter().map(|entry| entry.map(|(key, place)| (key, *place.value()))).collect();
        let devices: Result<_, _> =
            self.devices.iter().map(|entry| entry.map(|(key, device)| (key, *device.value()))).collect();
        let neighbours: Result<_, _> =
            self.neighbours.keys().map(|key| key.map(|key| (key.prefix_len(), key.data()))).collect();
        Ok(Views {
            locals: locals.map_err(failed(names::LOCALS))?,
            devices: devices.map_err(failed(names::DEVICES))?,
            neighbours: neighbours.map_err(failed(names::NEIGHBOURS))?,
            ..Views::default()
        })
    }

    fn active(&self) -> Result<Active, MapError> {
        let active = self.active.get(&0, 0);
        active.map(Active).map_err(|cause| MapError::Read { map: names::ACTIVE, cause })
    }

    /// Whether nothing new is permitted at present, since decisions cannot be told.
    pub(super) fn refuses_new(&self) -> Result<bool, MapError> {
        Ok(self.active()?.is_refusing())
    }

    /// Permits nothing new from now on, if the policy in force wants that while decisions cannot be told, or again what it
    /// permits. Returns whether this changes anything.
    pub(super) fn refuse_new(&mut self, refuse: bool) -> Result<bool, MapError> {
        let active = self.active()?;
        let next =
            active.with(active.slot(), active.is_armed(), active.is_armed() && refuse, active.generation());
        if next != active {
            write(names::ACTIVE, self.active.set(0, next.0, 0))?;
        }
        Ok(next != active)
    }

    /// Says what the programs are to tell: whether permitted attempts are `recorded`, and whether they are to log each decision.
    pub(super) fn tell(&mut self, recorded: bool, logged: bool) -> Result<(), MapError> {
        self.set_active(|active| active.telling(recorded, logged))
    }

    /// The revision of the policy in force.
    pub(super) fn revision(&self) -> Result<u32, MapError> {
        self.revisions.get(&self.slot, 0).map_err(|cause| MapError::Read { map: names::REVISIONS, cause })
    }

    /// Waits until no program runs any longer that ran before the call: a change of an outer map does
    /// (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c, since 4.20).
    pub(super) fn await_programs(&mut self) -> Result<(), MapError> {
        if self.knows_cgroups {
            // It is replaced by itself.
            write(names::CGROUPS, self.cgroups.set(self.slot, &self.cgroups_in_force, 0))?;
        } else {
            // What is in force cannot be put into its own place, which must never be without it.
            let idle = 1 - self.slot;
            self.emptied = Some((idle, self.empty(idle)?));
        }
        Ok(())
    }

    /// Puts `tables` in force: fills the idle slot, reads it back, and flips `ACTIVE` with one store. Until that
    /// store every decision is made by the tables before; if it is not reached, they stay.
    ///
    /// `enter_cgroups` is called when the slot has everything else. It enters every cgroup into what it is given, a parent
    /// before its children are listed: from then on the programs on the cgroup tracepoints enter the children that are made.
    pub(super) fn install<E: From<MapError>>(
        &mut self,
        tables: &Tables,
        enter_cgroups: impl FnOnce(&mut Entering<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let idle = 1 - self.slot;
        failpoint::begin_writes();
        // It may empty the idle slot.
        let generation = self.next_generation()?;
        let (mut cgroups, held) = self.fill(idle, tables)?;
        failpoint::pass("slot-filled");
        enter_cgroups(&mut Entering { next: &mut cgroups, in_force: &self.cgroups_in_force })?;
        failpoint::pass("cgroups-entered");
        may_write(names::ACTIVE)?;
        let armed = tables.on_audit_loss == OnAuditLoss::DenyNew;
        self.set_active(|active| active.with(idle, armed, armed && active.is_refusing(), generation))?;
        failpoint::pass("flipped");
        self.slot = idle;
        // What does not come into force is written in full by whoever comes next.
        self.hold(idle, held);
        self.cgroups_in_force = cgroups;
        self.knows_cgroups = true;
        self.owes_generation = false;
        Ok(())
    }

    fn hold(&mut self, slot: u32, held: Held) {
        if let Some(place) = place(slot).and_then(|place| self.held.get_mut(place)) {
            *place = Some(Arc::new(held));
        }
    }

    /// What the slot in force holds, to be checked beside; nothing if it was filled by an earlier daemon.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        place(self.slot).and_then(|place| self.held.get(place)?.clone())
    }

    /// Has the next policies written in full, since it is not known any longer what the slots hold.
    pub(super) fn distrust(&mut self) {
        self.held = [None, None];
    }

    /// Takes every cgroup out of the slot that is not in force, so that it need not be done when the next policy is known.
    pub(super) fn empty_idle(&mut self) -> Result<(), MapError> {
        let idle = 1 - self.slot;
        if self.emptied.as_ref().is_none_or(|(slot, _)| *slot != idle) {
            self.emptied = Some((idle, self.empty(idle)?));
        }
        Ok(())
    }

    /// Takes every cgroup out of a slot that is not in force. The programs begin to use a slot with its first cgroup. This also
    /// waits for every program that began when the slot was in force, which takes some 10 ms, so that what is changed in its
    /// place afterwards is read by none.
    fn empty(&mut self, slot: u32) -> Result<CgroupTable, MapError> {
        let no_cgroups = sparse(names::CGROUPS, MAX_CGROUPS)?;
        write(names::CGROUPS, self.cgroups.set(slot, &no_cgroups, 0))?;
        failpoint::pass("slot-emptied");
        Ok(no_cgroups)
    }

    /// Has every verdict made anew that was kept so far.
    pub(super) fn forget_verdicts(&mut self) -> Result<(), MapError> {
        let generation = self.next_generation()?;
        self.put_generation(generation)?;
        self.owes_generation = false;
        Ok(())
    }

    /// Writes what is in force, which a program may meanwhile have said of that nothing new is permitted: it counts the event that
    /// was lost before, so that this is said again if one was.
    fn set_active(&mut self, next: impl FnOnce(Active) -> Active) -> Result<(), MapError> {
        let lost = self.count(Counter::EVENTS_LOST)?;
        let next = next(self.active()?);
        write(names::ACTIVE, self.active.set(0, next.0, 0))?;
        // It is in force by now, whatever comes of this.
        let is_as_before = self.count(Counter::EVENTS_LOST).is_ok_and(|count| count == lost);
        if next.is_armed()
            && !next.is_refusing()
            && !is_as_before
            && let Err(err) = self.refuse_new(true)
        {
            error!("permit nothing new while decisions cannot be told: {err}");
        }
        Ok(())
    }

    /// A generation of which nothing is kept yet, later than all of which something is.
    fn next_generation(&mut self) -> Result<u8, MapError> {
        // An earlier daemon may have ended while it cleared them.
        if [NO_GENERATION, u8::MAX].contains(&self.active()?.generation()) {
            self.clear_verdicts()?;
        }
        Ok(self.active()?.generation() + 1)
    }

    /// Clears what was kept, and begins to count generations anew. Meanwhile nothing is kept and nothing found: a place must not
    /// be written to twice in a generation while a program may be reading it.
    fn clear_verdicts(&mut self) -> Result<(), MapError> {
        self.put_generation(NO_GENERATION)?;
        self.await_programs()?;
        let places: Vec<u32> = (0..MAX_VERDICTS).collect();
        let nothing = vec![[0; VERDICT_PLACE_BYTES]; places.len()];
        write_entries(names::VERDICTS, self.verdicts.map().fd().as_fd(), &[(&places, &nothing)])?;
        self.put_generation(FIRST_GENERATION)
    }

    fn put_generation(&mut self, generation: u8) -> Result<(), MapError> {
        self.set_active(|active| active.in_generation(generation))
    }

    /// Brings a slot that is not in force up to `tables`. What it is known to hold already is left as it is; of edges, the
    /// difference alone is written and read back, unless it is large.
    fn fill(&mut self, slot: u32, tables: &Tables) -> Result<(CgroupTable, Held), MapError> {
        // Until it is in force it is not known to hold anything.
        let held = place(slot).and_then(|place| self.held.get_mut(place)?.take());
        // The automaton comes before the cgroups.
        let no_cgroups = match self.emptied.take() {
            Some((emptied, no_cgroups)) if emptied == slot => no_cgroups,
            _ => self.empty(slot)?,
        };
        let held = held.as_deref();
        let same = |is_same: fn(&Held, &Tables) -> bool| held.filter(|held| is_same(held, tables));
        let claims = &tables.claims;
        let (automaton, is_other_automaton) =
            match same(|held, tables| Arc::ptr_eq(&held.claims, &tables.claims)) {
                Some(held) => (held.automaton.clone(), false),
                None => {
                    let classes = array(names::CLASSES, std::slice::from_ref(&claims.classes))?;
                    let transitions = array(names::TRANSITIONS, &claims.transitions)?;
                    let (states, owners): (Vec<u32>, Vec<Owner>) = claims.claimants.iter().unzip();
                    let claimants = filled(names::CLAIMANTS, &[(&states, &owners)])?;
                    (Arc::new((classes, transitions, claimants)), true)
                }
            };
        failpoint::pass("slot-automaton");
        let (network_map, are_other_networks) = match same(|held, tables| held.networks == tables.networks) {
            Some(held) => (held.network_map.clone(), false),
            None => (Arc::new(networks(tables)?), true),
        };
        let (reserved_map, is_other_reserved) = match same(|held, tables| held.reserved == tables.reserved) {
            Some(held) => (held.reserved_map.clone(), false),
            None => {
                let (ports, owners): (Vec<PortKey>, Vec<Owner>) = tables.reserved.iter().unzip();
                (Arc::new(filled(names::RESERVED, &[(&ports, &owners)])?), true)
            }
        };
        let (protocol_map, are_other_protocols) =
            match same(|held, tables| held.protocols == tables.protocols) {
                Some(held) => (held.protocol_map.clone(), false),
                None => {
                    let keys: Vec<ProtocolKey> = tables.protocols.iter().copied().collect();
                    (Arc::new(filled(names::PROTOCOLS, &[(&keys, &vec![1; keys.len()])])?), true)
                }
            };
        let (edge_map, room, are_other_edges) = edges(held, &tables.edges)?;
        failpoint::pass("slot-edges");
        // Each of these waits for every program that may have seen what it replaces, which takes some 10 ms: side by side.
        let outer = &mut *self;
        thread::scope(|scope| {
            let mut writes = Vec::new();
            if is_other_automaton {
                let (classes, transitions, claimants) = &*automaton;
                writes.push((names::CLASSES, scope.spawn(|| outer.classes.set(slot, classes, 0))));
                writes
                    .push((names::TRANSITIONS, scope.spawn(|| outer.transitions.set(slot, transitions, 0))));
                writes.push((names::CLAIMANTS, scope.spawn(|| outer.claimants.set(slot, claimants, 0))));
            }
            if are_other_edges {
                writes.push((names::EDGES, scope.spawn(|| outer.edges.set(slot, &edge_map, 0))));
            }
            if are_other_networks {
                writes.push((names::NETWORKS, scope.spawn(|| outer.networks.set(slot, &network_map, 0))));
            }
            if is_other_reserved {
                writes.push((names::RESERVED, scope.spawn(|| outer.reserved.set(slot, &reserved_map, 0))));
            }
            if are_other_protocols {
                writes.push((names::PROTOCOLS, scope.spawn(|| outer.protocols.set(slot, &protocol_map, 0))));
            }
            writes.into_iter().try_for_each(|(map, write)| match write.join() {
                Ok(written) => written.map_err(|cause| MapError::Write { map, cause }),
                Err(_panic) => {
                    Err(MapError::Open { map, cause: String::from("the thread that writes has failed") })
                }
            })
        })?;
        write(names::REVISIONS, self.revisions.set(slot, tables.revision, 0))?;
        let held = Held {
            claims: tables.claims.clone(),
            automaton,
            edges: tables.edges.clone(),
            edge_map,
            room,
            networks: tables.networks.clone(),
            network_map,
            reserved: tables.reserved.clone(),
            reserved_map,
            protocols: tables.protocols.clone(),
            protocol_map,
        };
        Ok((no_cgroups, held))
    }

    /// Says in the tables in force whose a cgroup is.
    pub(super) fn set_cgroup(&mut self, id: u64, owner: Owner) -> Result<(), MapError> {
        self.enter_cgroup(id, Cgroup { owner, state: DEAD })
    }

    /// What the tables in force say of a cgroup.
    pub(super) fn cgroup(&self, id: u64) -> Option<Cgroup> {
        // What cannot be read counts as not there; who asks does so to change it, and that error is told.
        find(&self.cgroups_in_force, id).ok().flatten()
    }

    /// Enters a cgroup into the tables in force, with the state of its path.
    pub(super) fn enter_cgroup(&mut self, id: u64, cgroup: Cgroup) -> Result<(), MapError> {
        self.expect_owner(id, Some(cgroup.owner))?;
        write(names::CGROUPS, self.cgroups_in_force.insert(id, Keyed::new(&id, cgroup), 0))?;
        self.take_back()
    }

    /// Gives a cgroup that the tables in force know another owner.
    pub(super) fn set_owner(&mut self, id: u64, owner: Owner) -> Result<(), MapError> {
        let Some(Cgroup { state, .. }) = self.expect_owner(id, Some(owner))? else { return Ok(()) };
        let changed = Keyed::new(&id, Cgroup { owner, state });
        let changed = self.cgroups_in_force.insert(id, changed, KNOWN_ONLY);
        unless_missing(names::CGROUPS, changed)?;
        self.take_back()
    }

    /// Forgets a cgroup in the tables in force.
    pub(super) fn remove_cgroup(&mut self, id: u64) -> Result<(), MapError> {
        self.expect_owner(id, None)?;
        unless_missing(names::CGROUPS, self.cgroups_in_force.remove(&id))?;
        self.take_back()
    }

    /// What the tables say of a cgroup that is about to get this owner. If verdicts about it may be kept they are to be taken back
    /// after that, however it ends.
    fn expect_owner(&mut self, id: u64, owner: Option<Owner>) -> Result<Option<Cgroup>, MapError> {
        let before = find(&self.cgroups_in_force, id)?;
        if before.is_some_and(|before| {
            Some(before.owner) != owner && KeptVerdict::can_be_of(before.owner.identity())
        }) {
            self.owes_generation = true;
        }
        Ok(before)
    }

    /// Has verdicts made anew if a cgroup has got another owner since.
    fn take_back(&mut self) -> Result<(), MapError> {
        if self.owes_generation { self.forget_verdicts() } else { Ok(()) }
    }

    /// Lets verdicts be kept again where there was no room for some since the last call; returns whether there was none.
    pub(super) fn make_room_for_verdicts(&mut self) -> Result<bool, MapError> {
        // What could not be done when a cgroup got another owner is tried again.
        self.take_back()?;
        let not_kept = self.count(Counter::VERDICTS_NOT_KEPT)?;
        if not_kept == self.verdicts_not_kept {
            return Ok(false);
        }
        self.forget_verdicts()?;
        self.verdicts_not_kept = not_kept;
        Ok(true)
    }

    /// Says what the network namespaces see of each other. A device is the last thing that is added and the first that
    /// is removed: through one that is not there comes nobody who could be taken for another host. So where an address cannot be
    /// added, the devices of who is to see it are not there either, but for those that lead out of this host.
    pub(super) fn set_views(&mut self, next: &Views) -> Result<(), MapError> {
        self.remove_devices(|key, _| !next.devices.contains_key(key))?;
        let (blind, written) = self.set_places(next);
        let is_blind = |key: &DeviceKey, device| device == Device::INSIDE && blind.contains(&key.netns());
        self.remove_devices(is_blind)?;
        let now = &mut self.views;
        for (key, device) in next.devices.iter().filter(|(key, device)| !is_blind(key, **device)) {
            if now.devices.get(key) != Some(device) {
                write(names::DEVICES, self.devices.insert(key, Keyed::new(key, *device), 0))?;
                now.devices.insert(*key, *device);
            }
        }
        for (bits, key) in now.neighbours.difference(&next.neighbours).copied().collect::<Vec<_>>() {
            unless_missing(names::NEIGHBOURS, self.neighbours.remove(&Key::new(bits, key)))?;
            now.neighbours.remove(&(bits, key));
        }
        written
    }

    fn remove_devices(&mut self, goes: impl Fn(&DeviceKey, Device) -> bool) -> Result<(), MapError> {
        let gone: Vec<_> = self
            .views
            .devices
            .iter()
            .filter(|(key, device)| goes(key, **device))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            unless_missing(names::DEVICES, self.devices.remove(&key))?;
            self.views.devices.remove(&key);
        }
        Ok(())
    }

    /// Adds neighbours, and replaces addresses, of which those that are no longer there go first to make room. Returns the
    /// namespaces that do not see all they should, and the last cause of it.
    fn set_places(&mut self, next: &Views) -> (BTreeSet<u64>, Result<(), MapError>) {
        let now = &mut self.views;
        let mut failed = None;
        let mut blind = BTreeSet::new();
        for (bits, key) in &next.neighbours {
            if now.neighbours.contains(&(*bits, *key)) {
                continue;
            }
            let value = if *bits < NeighbourKey::BITS { NeighbourKey::ONE } else { NeighbourKey::MANY };
            match write(names::NEIGHBOURS, self.neighbours.insert(&Key::new(*bits, *key), value, 0)) {
                Ok(()) => drop(now.neighbours.insert((*bits, *key))),
                Err(err) => {
                    blind.insert(key.netns());
                    failed = Some(err);
                }
            }
        }
        for key in now.locals.keys().copied().filter(|key| !next.locals.contains_key(key)).collect::<Vec<_>>()
        {
            match unless_missing(names::LOCALS, self.locals.remove(&key)) {
                Ok(()) => drop(now.locals.remove(&key)),
                // What is known of an address that is nobody's admits nobody.
                Err(err) => failed = Some(err),
            }
        }
        for (key, place) in &next.locals {
            if now.locals.get(key) != Some(place) {
                match write(names::LOCALS, self.locals.insert(key, Keyed::new(key, *place), 0)) {
                    Ok(()) => drop(now.locals.insert(*key, *place)),
                    Err(err) => {
                        blind.insert(key.netns());
                        failed = Some(err);
                    }
                }
            }
        }
        (blind, failed.map_or(Ok(()), Err))
    }

    /// The network namespaces of which the programs have told since [`forget_strangers`](Self::forget_strangers).
    pub(super) fn strangers(&self) -> Result<Vec<u64>, MapError> {
        let keys: Result<Vec<u64>, aya::maps::MapError> = self.strangers.keys().collect();
        keys.map_err(|cause| MapError::Read { map: names::STRANGERS, cause })
    }

    /// Lets the programs tell of these again.
    pub(super) fn forget_strangers(&mut self, cookies: &[u64]) -> Result<(), MapError> {
        cookies.iter().try_for_each(|cookie| unless_missing(names::STRANGERS, self.strangers.remove(cookie)))
    }

    /// Says whose a socket is, unless the programs know already.
    pub(super) fn note_socket(&mut self, socket: &OwnedFd, note: SocketNote) -> Result<(), MapError> {
        match self.sockets.insert(socket, note, NEW_ONLY) {
            Err(aya::maps::MapError::SyscallError(err)) if err.io_error.raw_os_error() == Some(EEXIST) => {
                Ok(())
            }
            result => write(names::SOCKETS, result),
        }
    }

    /// The owners of cgroups in the tables in force, through a descriptor of its own.
    pub(super) fn owners(&self) -> Result<CgroupOwners, MapError> {
        let inner = again(names::CGROUPS, &self.cgroups_in_force)?;
        Ok(CgroupOwners(inner))
    }

    /// The ids of the cgroups that the tables in force hold.
    pub(super) fn cgroups(&self) -> Result<Vec<u64>, MapError> {
        let keys: Result<Vec<u64>, aya::maps::MapError> = self.cgroups_in_force.keys().collect();
        keys.map_err(|cause| MapError::Read { map: names::CGROUPS, cause })
    }

    /// Reads all counters.
    pub(super) fn counts(&self) -> Result<Counts, MapError> {
        (0..Counter::COUNT)
            .map(|index| self.count(Counter(index)))
            .collect::<Result<Vec<u64>, _>>()
            .map(Counts)
    }

    /// Reads one.
    pub(super) fn count(&self, counter: Counter) -> Result<u64, MapError> {
        let per_cpu: PerCpuValues<u64> = self
            .counters
            .get(&counter.0, 0)
            .map_err(|cause| MapError::Read { map: names::COUNTERS, cause })?;
        Ok(per_cpu.iter().sum())
    }
}

fn take<T: TryFrom<Map>>(object: &mut Ebpf, map: &'static str) -> Result<T, MapError>
where
    T::Error: std::fmt::Display,
{
    let taken = object
        .take_map(map)
        .ok_or_else(|| MapError::Open { map, cause: String::from("the object does not define it") })?;
    T::try_from(taken).map_err(|err| MapError::Open { map, cause: err.to_string() })
}

/// As many entries as are to be written, and at least the one that the kernel insists on.
fn capacity(entries: usize) -> u32 {
    // The compiler of tables refuses what is above its limits, which are below this type's.
    u32::try_from(entries.max(1)).unwrap_or(u32::MAX)
}

fn sparse<K: Pod, V: Pod>(map: &'static str, capacity: u32) -> Result<Inner<K, V>, MapError> {
    Inner::create(capacity, SPARSE).map_err(|cause| MapError::Write { map, cause })
}

/// Of so many edges one may be another one, or all are written anew.
const FEW: usize = 8;

/// So many may be others in any case.
const MANY: usize = 1024;

/// The place of a slot in a list of the two.
fn place(slot: u32) -> Option<usize> {
    usize::try_from(slot).ok()
}

/// Entries that are written or read in one call: enough that calls do not count.
const AT_ONCE: usize = 65_536;
/// More than stand at any one place of a table, or a call would find no room for them.
const LEAST_AT_ONCE: usize = 1024;

/// Sorted entries in pieces: keys, and what stands behind each.
type Pieces<'a, K, V> = [(&'a [K], &'a [V])];

/// A table of these entries, written and read back.
fn filled<K: Pod + Ord + Sync, V: Pod + PartialEq + Sync>(
    name: &'static str,
    pieces: &Pieces<'_, K, V>,
) -> Result<Inner<K, V>, MapError> {
    let entries = pieces.iter().map(|(keys, _)| keys.len()).sum();
    fill(name, sparse(name, capacity(entries))?, pieces)
}

/// Writes these entries into a table that has none, and reads them back.
fn fill<K: Pod + Ord + Sync, V: Pod + PartialEq + Sync>(
    name: &'static str,
    map: Inner<K, V>,
    pieces: &Pieces<'_, K, V>,
) -> Result<Inner<K, V>, MapError> {
    // Of an empty one too, which is about to be put into its place.
    may_write(name)?;
    write_entries(name, map.map().fd().as_fd(), pieces)?;
    read_back(name, map.map().fd().as_fd(), pieces)?;
    Ok(map)
}

/// The map with these edges, how many it has room for, and whether it is another one than that which holds others.
fn edges(held: Option<&Held>, edges: &Edges) -> Result<(Inner<EdgeKey, EdgeValue>, usize, bool), MapError> {
    if let Some(held) = held
        && edges.len() <= held.room
        && let Some(difference) = held.edges.difference(edges, (edges.len() / FEW).max(MANY))
    {
        let mut map = again(names::EDGES, &held.edge_map)?;
        change(&mut map, &difference)?;
        Ok((map, held.room, false))
    } else {
        // Some for edges that are added. All memory is taken at once, in which a million entries are written and found faster
        // than where each has its own.
        let room = edges.len() + edges.len() / 32 + MANY;
        let map =
            Inner::create(capacity(room), 0).map_err(|cause| MapError::Write { map: names::EDGES, cause })?;
        let pieces: Vec<_> = edges.pieces().collect();
        Ok((fill(names::EDGES, map, &pieces)?, room, true))
    }
}

/// The same map, through a descriptor of its own.
fn again<K: Pod, V: Pod>(map: &'static str, inner: &Inner<K, V>) -> Result<Inner<K, V>, MapError> {
    let open = |cause: String| MapError::Open { map, cause };
    let fd = inner.map().fd().as_fd().try_clone_to_owned();
    let data = MapData::from_fd(fd.map_err(|err| open(err.to_string()))?);
    let data = data.map_err(|cause| open(chain(&cause)))?;
    Inner::try_from(Map::HashMap(data)).map_err(|cause| open(chain(&cause)))
}

/// Makes a table of edges another one, which is read back as far as it is.
fn change(
    map: &mut Inner<EdgeKey, EdgeValue>,
    Difference { removed, keys, values }: &Difference,
) -> Result<(), MapError> {
    let name = names::EDGES;
    let failed = |cause| MapError::Read { map: name, cause };
    // First, since there may be no room for both.
    for key in removed {
        // It was read back when it was written, so that somebody else has removed it if it is not there.
        write(name, map.remove(key))?;
    }
    may_write(name)?;
    write_entries(name, map.map().fd().as_fd(), &[(keys, values)])?;
    let entries = removed.len() + keys.len();
    for (index, (key, value)) in keys.iter().zip(values).enumerate() {
        if map.get(key, 0).map_err(failed)? != *value {
            return Err(MapError::Differs { map: name, index, entries });
        }
    }
    for (index, key) in removed.iter().enumerate() {
        match map.get(key, 0) {
            Err(aya::maps::MapError::KeyNotFound) => {}
            Ok(_) => return Err(MapError::Differs { map: name, index: keys.len() + index, entries }),
            Err(cause) => return Err(failed(cause)),
        }
    }
    Ok(())
}

/// Writes entries, with every CPU if they are many.
fn write_entries<K: Pod + Sync, V: Pod + Sync>(
    name: &'static str,
    map: BorrowedFd<'_>,
    pieces: &Pieces<'_, K, V>,
) -> Result<(), MapError> {
    let parts: Vec<(&[K], &[V])> =
        pieces.iter().flat_map(|(keys, values)| keys.chunks(AT_ONCE).zip(values.chunks(AT_ONCE))).collect();
    let entries: usize = pieces.iter().map(|(keys, _)| keys.len()).sum();
    let threads =
        if entries > 2 * AT_ONCE { thread::available_parallelism().map_or(1, NonZero::get) } else { 1 };
    let write = |first: usize| -> std::io::Result<()> {
        let mut own = parts.iter().skip(first).step_by(threads);
        own.try_for_each(|(keys, values)| sys::update_batch(map, keys, values))
    };
    let written = thread::scope(|scope| {
        let write = &write;
        let others: Vec<_> = (1..threads).map(|first| scope.spawn(move || write(first))).collect();
        others.into_iter().fold(write(0), |written, thread| {
            let ended = thread
                .join()
                .unwrap_or_else(|_panic| Err(std::io::Error::other("the thread that writes has failed")));
            written.and(ended)
        })
    });
    written.map_err(|io_error| failed_batch(name, "bpf_map_update_batch", io_error))
}

/// Reads a table, and compares it with what was to be written: nothing less, nothing else, and nothing more.
fn read_back<K: Pod + Ord, V: Pod + PartialEq>(
    name: &'static str,
    map: BorrowedFd<'_>,
    pieces: &Pieces<'_, K, V>,
) -> Result<(), MapError> {
    let mut wanted = pieces.iter().filter_map(|(keys, values)| keys.first().zip(values.first()));
    let Some((key, value)) = wanted.next() else { return Ok(()) };
    let entries: usize = pieces.iter().map(|(keys, _)| keys.len()).sum();
    let differs = |index| MapError::Differs { map: name, index, entries };
    let room = entries.clamp(LEAST_AT_ONCE, AT_ONCE);
    let mut order: Vec<usize> = Vec::with_capacity(room);
    let mut number = 0;
    each_batch(name, map, (*key, *value), room, |found_keys, found_values| {
        // In the order of what they are compared with: a million searches that jump about take most of a second.
        order.clear();
        order.extend(0..found_keys.len());
        order.sort_unstable_by_key(|at| found_keys.get(*at));
        // How many stand in the pieces before, and where in this one to go on.
        let (mut before, mut index) = (0, 0);
        let mut rest = pieces;
        for at in &order {
            let (Some(key), value) = (found_keys.get(*at), found_values.get(*at)) else {
                return Err(differs(before + index));
            };
            while let Some(((keys, _), others)) = rest.split_first()
                && keys.last().is_none_or(|last| last < key)
            {
                (before, index, rest) = (before + keys.len(), 0, others);
            }
            let Some((keys, values)) = rest.first() else { return Err(differs(before)) };
            index += position(keys.get(index..).unwrap_or_default(), key);
            if keys.get(index) != Some(key) || values.get(index) != value {
                return Err(differs(before + index));
            }
        }
        // No key is told twice, since nobody else writes: as many as there are are all.
        number += found_keys.len();
        Ok(())
    })?;
    if number == entries { Ok(()) } else { Err(differs(number)) }
}

/// Reads a table, `room` entries to a call, and hands them over. `blank` stands where nothing was read yet.
fn each_batch<K: Pod, V: Pod>(
    name: &'static str,
    map: BorrowedFd<'_>,
    blank: (K, V),
    room: usize,
    mut take: impl FnMut(&[K], &[V]) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let (mut keys, mut values) = (vec![blank.0; room], vec![blank.1; room]);
    let mut position_of_call = None;
    loop {
        let found = sys::lookup_batch(map, &mut position_of_call, &mut keys, &mut values);
        let found = found.map_err(|io_error| MapError::Read {
            map: name,
            cause: SyscallError { call: "bpf_map_lookup_batch", io_error }.into(),
        })?;
        take(keys.get(..found).unwrap_or_default(), values.get(..found).unwrap_or_default())?;
        if position_of_call.is_none() {
            return Ok(());
        }
    }
}

/// Reads a table that was read back when it was written; one in which nothing is to be may have got something.
fn check<K: Pod + Ord, V: Pod + PartialEq>(
    name: &'static str,
    map: &Inner<K, V>,
    pieces: &Pieces<'_, K, V>,
) -> Result<(), MapError> {
    if pieces.iter().any(|(keys, _)| !keys.is_empty()) {
        return read_back(name, map.map().fd().as_fd(), pieces);
    }
    match map.keys().next() {
        None => Ok(()),
        Some(Ok(_)) => Err(MapError::Differs { map: name, index: 0, entries: 0 }),
        Some(Err(cause)) => Err(MapError::Read { map: name, cause }),
    }
}

/// Where `key` stands among sorted keys, or would; looked for from the beginning on, near which it is.
fn position<K: Ord>(keys: &[K], key: &K) -> usize {
    let mut end = 1;
    while keys.get(end).is_some_and(|other| other <= key) {
        end *= 2;
    }
    let start = end / 2;
    let near = keys.get(start..keys.len().min(end + 1)).unwrap_or_default();
    start + near.partition_point(|other| other < key)
}

fn array<V: Pod + PartialEq + Sync>(name: &'static str, values: &[V]) -> Result<Array<MapData, V>, MapError> {
    let map = Array::create(capacity(values.len()), RESIZABLE)
        .map_err(|cause| MapError::Write { map: name, cause })?;
    may_write(name)?;
    let keys: Vec<u32> = (0..).take(values.len()).collect();
    write_entries(name, map.map().fd().as_fd(), &[(&keys, values)])?;
    read_back_array(name, &map, values)?;
    Ok(map)
}

fn read_back_array<V: Pod + PartialEq>(
    name: &'static str,
    map: &Array<MapData, V>,
    values: &[V],
) -> Result<(), MapError> {
    for (index, value) in (0..).zip(values) {
        let found: V = map.get(&index, 0).map_err(|cause| MapError::Read { map: name, cause })?;
        if found != *value {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            return Err(MapError::Differs { map: name, index, entries: values.len() });
        }
    }
    Ok(())
}

fn networks(tables: &Tables) -> Result<LpmTrie<MapData, [u8; 16], u32>, MapError> {
    let map = names::NETWORKS;
    let mut trie = LpmTrie::create(capacity(tables.networks.len()), SPARSE)
        .map_err(|cause| MapError::Write { map, cause })?;
    for (prefix, identity) in &tables.networks {
        let key = Key::new(u32::from(prefix.length), prefix.address.bytes());
        write(map, trie.insert(&key, identity.raw(), 0))?;
    }
    read_back_networks(&trie, &tables.networks)?;
    Ok(trie)
}

fn read_back_networks(
    trie: &LpmTrie<MapData, [u8; 16], u32>,
    networks: &[(Prefix, Identity)],
) -> Result<(), MapError> {
    let map = names::NETWORKS;
    for (index, (prefix, identity)) in networks.iter().enumerate() {
        // A look-up of a prefix finds the longest one that contains it, which is itself.
        let key = Key::new(u32::from(prefix.length), prefix.address.bytes());
        match trie.get(&key, 0) {
            Ok(found) if found == identity.raw() => {}
            Ok(_) | Err(aya::maps::MapError::KeyNotFound) => {
                return Err(MapError::Differs { map, index, entries: networks.len() });
            }
            Err(cause) => return Err(MapError::Read { map, cause }),
        }
    }
    let number = trie.keys().count();
    if number == networks.len() {
        Ok(())
    } else {
        Err(MapError::Differs { map, index: number, entries: networks.len() })
    }
}

fn write<T>(map: &'static str, result: Result<T, aya::maps::MapError>) -> Result<T, MapError> {
    may_write(map)?;
    result.map_err(|cause| MapError::Write { map, cause })
}

/// Fails where a test wants it to.
fn may_write(map: &'static str) -> Result<(), MapError> {
    if !failpoint::write_fails(map) {
        return Ok(());
    }
    Err(failed_batch(map, "bpf_map_update_elem", std::io::Error::from_raw_os_error(ENOMEM)))
}

fn failed_batch(map: &'static str, call: &'static str, io_error: std::io::Error) -> MapError {
    MapError::Write { map, cause: SyscallError { call, io_error }.into() }
}

/// Removing what is not there is no failure: the end is the same.
fn unless_missing(map: &'static str, result: Result<(), aya::maps::MapError>) -> Result<(), MapError> {
    match result {
        Err(aya::maps::MapError::SyscallError(err)) if err.io_error.raw_os_error() == Some(ENOENT) => Ok(()),
        other => write(map, other),
    }
}

/// The ring buffer of a loaded object.
pub(super) fn ring<T: BorrowMut<Ebpf>>(mut object: T) -> Result<aya::maps::RingBuf<MapData>, MapError> {
    take(object.borrow_mut(), names::EVENTS)
}
