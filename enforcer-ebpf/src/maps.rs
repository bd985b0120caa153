//! Every map and global, and the policy's tables as `decide` reads them.

use core::arch::asm;
use core::mem::offset_of;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_spin_lock};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock};
use aya_ebpf::macros::btf_map;
use enforcer_common::claims::{DEAD, MAX_NAME, Transitions, advance};
use enforcer_common::counter::Counter;
use enforcer_common::decide::{Coverage, coverage};
use enforcer_common::event::{CgroupEvent, Event};
use enforcer_common::kept::{KeptVerdict, NO_GENERATION, VerdictKey};
use enforcer_common::layout::{
    Active, Cgroup, Classes, Device, DeviceKey, EdgeKey, EdgeValue, InKey, Keyed, KeyedCgroup, KeyedDevice,
    KeyedPlace, LocalKey, NeighbourKey, Offsets, Owner, Place, PortKey, ProtocolKey, SocketNote, TaskFields,
};
use enforcer_common::limits::{
    MAX_ANCESTORS, MAX_DEVICES, MAX_LOCALS, MAX_NEIGHBOURS, MAX_STRANGERS, MAX_VERDICTS, RING_BYTES,
    VERDICT_PLACE_BYTES,
};
use enforcer_common::{
    Address, Asked, Decision, Facts, Flow, Identity, Mode, Party, Port, Protocol, Tables, decide, decide_flow,
};

use crate::ctx::packet::Headers;
use crate::ctx::task;

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;
/// An inner array need not be as large as the one that stands for its form (kernel 5.10).
const RESIZABLE: usize = BPF_F_INNER_MAP as usize;

/// What `T` is made of, as the form of an inner map describes it to the kernel. From 5.15 to 6.1 a map whose values are
/// described as a struct counts as another form than the host's maps, which come without a description
/// (`bpf_map_meta_equal` compares the `timer_off` that `map_check_btf` sets, in kernel/bpf/syscall.c of v6.1).
type Words<T> = <T as InWords>::Words;

trait InWords {
    type Words;
}

impl InWords for Owner {
    type Words = [u32; 2];
}

impl InWords for KeyedCgroup {
    type Words = [u32; 5];
}

impl InWords for Classes {
    type Words = [u8; 256];
}

impl InWords for EdgeValue {
    type Words = [u32; 13];
}

const _: () = assert!(size_of::<Words<Owner>>() == size_of::<Owner>());
const _: () = assert!(align_of::<Words<Owner>>() == align_of::<Owner>());
const _: () = assert!(size_of::<Words<KeyedCgroup>>() == size_of::<KeyedCgroup>());
const _: () = assert!(align_of::<Words<KeyedCgroup>>() == align_of::<KeyedCgroup>());
const _: () = assert!(size_of::<Words<Classes>>() == size_of::<Classes>());
const _: () = assert!(align_of::<Words<Classes>>() == align_of::<Classes>());
const _: () = assert!(size_of::<Words<EdgeValue>>() == size_of::<EdgeValue>());
const _: () = assert!(align_of::<Words<EdgeValue>>() == align_of::<EdgeValue>());

// Inner maps are created by the host as large as the policy needs; what stands here is only their form.
type Cgroups = HashMap<u64, Words<KeyedCgroup>, 1, SPARSE>;
type ClassesOf = Array<Words<Classes>, 1, RESIZABLE>;
type TransitionsOf = Array<u32, 1, RESIZABLE>;
type Claimants = HashMap<u32, Words<Owner>, 1, SPARSE>;
type Edges = HashMap<EdgeKey, Words<EdgeValue>, 1, 0>;
type Networks = LpmTrie<[u32; 4], u32, 1>;
type Reserved = HashMap<PortKey, Words<Owner>, 1, SPARSE>;
type Protocols = HashMap<ProtocolKey, u32, 1, SPARSE>;

#[btf_map]
static ACTIVE: Array<u32, 1> = Array::new();
#[btf_map]
static REVISIONS: Array<u32, 2> = Array::new();
#[btf_map]
static CGROUPS: ArrayOfMaps<Cgroups, 2> = ArrayOfMaps::new();
#[btf_map]
static CLASSES: ArrayOfMaps<ClassesOf, 2> = ArrayOfMaps::new();
#[btf_map]
static TRANSITIONS: ArrayOfMaps<TransitionsOf, 2> = ArrayOfMaps::new();
#[btf_map]
static CLAIMANTS: ArrayOfMaps<Claimants, 2> = ArrayOfMaps::new();
#[btf_map]
static EDGES: ArrayOfMaps<Edges, 2> = ArrayOfMaps::new();
#[btf_map]
static VERDICTS: Array<VerdictPlace, { MAX_VERDICTS as usize }> = Array::new();
#[btf_map]
static NETWORKS: ArrayOfMaps<Networks, 2> = ArrayOfMaps::new();
#[btf_map]
static RESERVED: ArrayOfMaps<Reserved, 2> = ArrayOfMaps::new();
#[btf_map]
static PROTOCOLS: ArrayOfMaps<Protocols, 2> = ArrayOfMaps::new();
#[btf_map]
static LOCALS: HashMap<LocalKey, KeyedPlace, { MAX_LOCALS as usize }, SPARSE> = HashMap::new();
#[btf_map]
static DEVICES: HashMap<DeviceKey, KeyedDevice, { MAX_DEVICES as usize }, SPARSE> = HashMap::new();
#[btf_map]
static STRANGERS: HashMap<u64, u32, { MAX_STRANGERS as usize }, SPARSE> = HashMap::new();
#[btf_map]
static NEIGHBOURS: LpmTrie<NeighbourKey, u32, { MAX_NEIGHBOURS as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketNote> = SkStorage::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Where one decision may be kept. What is written takes the kernel's lock (5.1); what is read needs none.
#[repr(C)]
pub(crate) struct VerdictPlace {
    _lock: bpf_spin_lock,
    _pad: u32,
    kept: KeptVerdict,
    /// So that the words lie in one line of the processor's cache (`struct bpf_array` ends eight bytes before one, 6.18).
    _rest: [u64; 2],
}

const _: () = assert!(size_of::<VerdictPlace>() == VERDICT_PLACE_BYTES);
const _: () = assert!(offset_of!(VerdictPlace, _lock) == 0);

/// Where the name of a new cgroup is read to: too large for the stack.
#[btf_map]
static SCRATCH: PerCpuArray<CgroupEvent, 1> = PerCpuArray::new();

/// Where the headers of a packet are read to, by a function that the verifier walks by itself.
#[btf_map]
static HEADERS: PerCpuArray<Headers, 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
static OFFSETS: Global<Offsets> = Global::new(Offsets {
    cgroup_node: 0,
    cgroup_root: 0,
    root_hierarchy: 0,
    node_id: 0,
    node_parent: 0,
    node_name: 0,
});
#[unsafe(no_mangle)]
static TASK_FIELDS: Global<TaskFields> =
    Global::new(TaskFields { process: 0, name: 0, credentials: 0, user: 0 });
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static WHOLE_TREE: Global<u8> = Global::new(0);

/// The number of the check that this object negates, chosen by the test that loads it.
#[cfg(feature = "negated")]
#[unsafe(no_mangle)]
static NEGATED: Global<u32> = Global::new(0);

/// Whether the ingress hook sees every socket of the host.
#[inline(always)]
pub(crate) fn whole_tree() -> bool {
    WHOLE_TREE.load() != 0
}

/// Whether the policy's ports and addresses are those of the network namespace with this cookie.
#[inline(always)]
pub(crate) fn is_host_netns(cookie: u64) -> bool {
    let host = HOST_NETNS.load();
    host == 0 || host == cookie
}

/// Which network namespace of this host `address` belongs to, as seen from the one with the cookie `netns`; `None` if it
/// is not one of this host's.
#[inline(always)]
pub(crate) fn place(netns: u64, address: &Address) -> Option<Place> {
    let netns = if tells_namespaces() { netns } else { 0 };
    let key = LocalKey::new(netns, *address);
    // SAFETY: the memory of an entry stays what it is until the program ends, and whose it is is told by `still`.
    still(unsafe { LOCALS.get(key) }?, &key)
}

/// The value that was found behind `key`, unless it has meanwhile been replaced and its memory become another's.
#[inline(always)]
fn still<const N: usize, V: Copy>(entry: &Keyed<N, V>, key: &impl InKey<N>) -> Option<V> {
    // SAFETY: a live element of a map; volatile, as it may change meanwhile.
    let value = unsafe { read_volatile(entry.value()) };
    // SAFETY: as above; volatile also keeps this read behind that one.
    let found = unsafe { read_volatile(entry.key()) };
    // Word by word without a branch, since the verifier would follow each.
    let differ = found.iter().zip(key.words()).fold(0, |differ, (found, word)| differ | (found ^ word));
    if differ == 0 { Some(value) } else { None }
}

/// Whether the host can tell network namespaces apart (kernel 5.14).
#[inline(always)]
pub(crate) fn tells_namespaces() -> bool {
    HOST_NETNS.load() != 0
}

/// What lies behind a network device; `None` if the host has not taken it in yet.
#[inline(always)]
pub(crate) fn device(netns: u64, index: u32) -> Option<Device> {
    let key = DeviceKey::new(netns, index);
    // SAFETY: as for `place`.
    still(unsafe { DEVICES.get(key) }?, &key)
}

/// Whether the host was not yet told of a network namespace since it last looked around.
#[inline(always)]
pub(crate) fn is_first_word_of(cookie: u64) -> bool {
    STRANGERS.insert(cookie, 1, BPF_NOEXIST.into()).is_ok()
}

#[inline(always)]
fn neighbour(netns: u64, address: &Address) -> Option<u32> {
    NEIGHBOURS.get(&Key::new(NeighbourKey::BITS, NeighbourKey::new(netns, *address))).copied()
}

/// Whether only a network namespace of this host can have `address`, as seen from the namespace of cookie `netns`.
#[inline(always)]
pub(crate) fn is_neighbour(netns: u64, address: &Address) -> bool {
    neighbour(netns, address).is_some()
}

/// The same of one that is called, where the broadcast address of a subnet is not one's alone.
#[inline(always)]
pub(crate) fn is_neighbours_own(netns: u64, address: &Address) -> bool {
    neighbour(netns, address) == Some(NeighbourKey::ONE)
}

/// Where the running kernel keeps what a cgroup is known by.
#[inline(always)]
pub(crate) fn offsets() -> Offsets {
    OFFSETS.load()
}

/// Where the running kernel keeps what a record says of a task.
#[inline(always)]
pub(crate) fn task_fields() -> TaskFields {
    TASK_FIELDS.load()
}

/// This CPU's place for the cgroup that a tracepoint is about. Programs on tracepoints do not interrupt each other.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut CgroupEvent> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a live element of this CPU, which the one program that runs on it now has to itself.
    Some(unsafe { &mut *scratch })
}

/// This CPU's place for the headers of the packet that is being judged. Packets are judged with softirqs switched off, so
/// that no other one is meanwhile.
#[inline(always)]
pub(crate) fn headers() -> Option<*mut Headers> {
    HEADERS.get_ptr_mut(0)
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.0) {
        // A packet may be judged in the middle of a task's own decision on the same CPU, so the addition is one
        // instruction. (core has no atomic addition for this target.)
        // SAFETY: `value` points to a live, aligned u64 by the look-up above, which programs only ever change so.
        unsafe { asm!("lock *(u64 *)({value} + 0) += {one}", value = in(reg) value, one = in(reg) 1_u64) };
    }
}

/// Has nothing new permitted from now on, if the policy in force wants that when a decision cannot be told. The host takes it
/// back when it can.
#[inline(always)]
pub(crate) fn refuse_new() {
    let Some(active) = ACTIVE.get_ptr_mut(0) else { return };
    // SAFETY: a live element by the look-up above, which is read as what it is.
    if !Active(unsafe { *active }).is_armed() {
        return;
    }
    // SAFETY: one of the four bytes of that element, by the assertion in `layout`.
    let refusing = unsafe { active.cast::<u8>().add(Active::REFUSING_BYTE) };
    // SAFETY: a byte of its own, so that the slot, which the host may be changing now, is left as it is.
    unsafe { *refusing = 1 };
}

/// Where the words of what is kept at a place begin.
#[inline(always)]
const fn words_at(place: *mut VerdictPlace) -> *mut u64 {
    place.wrapping_byte_add(offset_of!(VerdictPlace, kept)).cast()
}

/// What is kept at a place, which is a live element of `VERDICTS`.
#[inline(always)]
fn read_kept(place: *mut VerdictPlace) -> KeptVerdict {
    let word = |index: usize| {
        // SAFETY: one of its words, which are aligned, so that each is read whole; volatile, as others may be writing.
        unsafe { read_volatile(words_at(place).wrapping_add(index)) }
    };
    KeptVerdict::from_words([word(0), word(1), word(2), word(3), word(4)])
}

/// Keeps a decision, whose words these are, unless its place has one of the same generation already or a later one; returns 1 if it
/// is kept, by whomever. A global function, so that the verifier does not follow it after each way to a decision.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keep_verdict(caller: u64, answerer: u64, place: u64, from: u64, to: u64) -> u32 {
    let kept = KeptVerdict::from_words([caller, answerer, place, from, to]);
    let key = kept.key();
    let Some(place) = VERDICTS.get_ptr_mut(key.index()) else { return 0 };
    // SAFETY: the lock that a live element begins with; nothing is called until it is given back, as the verifier sees to.
    unsafe { lock(place.cast()) };
    let there = read_kept(place);
    let is_free = there.is_older_than(&key);
    if is_free {
        for (index, word) in kept.words().iter().enumerate() {
            // SAFETY: one of its words, which are aligned, so that each is written whole; volatile, as others may be reading.
            unsafe { write_volatile(words_at(place).wrapping_add(index), *word) };
        }
    }
    // SAFETY: it was taken above.
    unsafe { unlock(place.cast()) };
    u32::from(is_free || there.is_of(&key))
}

/// One revision of the policy, chosen when the value is made.
pub(crate) struct KernelTables {
    active: Active,
    /// A cgroup that was looked up already, and what [`cgroup_owner`] said of it; 0 is no cgroup.
    found: (u64, u64),
}

impl KernelTables {
    /// The tables that are in force now, or `None` if the host's promise that both slots are always filled is
    /// broken, in which case nothing can be decided.
    #[inline(always)]
    pub(crate) fn in_force() -> Option<Self> {
        let tables = Self::chosen()?;
        if tables.are_there() { Some(tables) } else { None }
    }

    /// The same, where that is asked for only if nothing was [kept](Self::kept): by [`decide`](Self::decide).
    #[inline(always)]
    pub(crate) fn chosen() -> Option<Self> {
        Some(Self { active: Active(ACTIVE.get(0).copied()?), found: (0, 0) })
    }

    #[inline(always)]
    fn are_there(&self) -> bool {
        CGROUPS.get(self.slot()).is_some()
    }

    /// The tables of a slot that [`in_force`](Self::in_force) has told, for functions that do not decide.
    #[inline(always)]
    pub(crate) const fn of_slot(slot: u32) -> Self {
        Self { active: Active::new(slot, false, false, NO_GENERATION), found: (0, 0) }
    }

    /// Which of the two slots they are.
    #[inline(always)]
    pub(crate) const fn slot(&self) -> u32 {
        self.active.slot()
    }

    /// What is to be told of decisions.
    #[inline(always)]
    pub(crate) const fn active(&self) -> Active {
        self.active
    }

    /// Under what a verdict about two cgroups is kept as long as these tables are in force and say the same of both.
    #[inline(always)]
    pub(crate) fn key(&self, caller: u64, answerer: &Party, protocol: Protocol, port: Port) -> VerdictKey {
        VerdictKey::new(self.active, caller, answerer.cgroup_id(), protocol, port)
    }

    /// What was decided before about the same, if that still holds where the answerer has `asked`.
    #[inline(always)]
    pub(crate) fn kept(&self, key: &VerdictKey, asked: Asked) -> Option<Decision> {
        if self.active.is_refusing() {
            return None;
        }
        read_kept(VERDICTS.get_ptr_mut(key.index())?).decision(key, asked)
    }

    /// Decides, and keeps what is decided of two cgroups if it holds as long as these tables do. Where there is no room for it,
    /// it is decided anew each time.
    /// `None` if the tables are not there.
    #[inline(always)]
    pub(crate) fn decide(&self, facts: &Facts, key: &VerdictKey) -> Option<Decision> {
        if !self.are_there() {
            return None;
        }
        let decision = decide(facts, self);
        if task::is_exact(&facts.caller)
            && task::is_exact(&facts.answerer)
            && let Some(kept) = KeptVerdict::of(&decision, facts.asked, key)
            && {
                let [caller, answerer, place, from, to] = *kept.words();
                keep_verdict(caller, answerer, place, from, to) == 0
            }
        {
            count(Counter::VERDICTS_NOT_KEPT);
        }
        Some(decision)
    }

    /// Looks a cgroup up once, for all who ask about it later; returns whether these tables know it.
    #[inline(always)]
    pub(crate) fn find(&mut self, id: u64) -> bool {
        let packed = cgroup_owner(self.slot(), id);
        self.found = (id, packed);
        packed != 0
    }

    /// Whoever is in a cgroup, which is looked up once.
    #[inline(always)]
    pub(crate) fn party(&mut self, id: u64) -> Party {
        if self.find(id) { Party::cgroup(id) } else { Party::UNKNOWN }
    }

    /// The nearest ancestor of the current task's cgroup that these tables know; 0 if they know none.
    #[inline(always)]
    pub(crate) fn nearest_ancestor(&self) -> u64 {
        nearest_ancestor(self.slot())
    }
}

/// No slot, of which nothing is told.
pub(crate) const NO_SLOT: u32 = 2;

/// The revision that a slot holds; 0 for none.
#[inline(always)]
pub(crate) fn revision(slot: u32) -> u32 {
    REVISIONS.get(slot).copied().unwrap_or(0)
}

/// [`coverage`] as a global function, so that the verifier walks its loops once and by themselves. It takes and
/// returns plain numbers, all that such a function may before kernel 5.12.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn port_coverage(slot: u32, from: u32, to: u32, protocol: u32, port: u32) -> u64 {
    let tables = KernelTables::of_slot(slot);
    let pair = EdgeKey::new(Identity::from_raw(from), Identity::from_raw(to));
    let port = Port::new((port & 0xffff) as u16);
    coverage(pair, Protocol((protocol & 0xff) as u8), port, &tables).pack()
}

/// [`decide_flow`] as a global function for the same reason: the flow is what its words are packed of.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_decision(active: u32, from: u64, to: u64, asked: u64, rest: u64) -> u64 {
    let tables = KernelTables { active: Active(active), found: (0, 0) };
    decide_flow(&Flow::unpack([from, to, asked, rest]), &tables).pack()
}

/// What a slot knows of a cgroup.
#[inline(always)]
fn cgroup_in(slot: u32, id: u64) -> Option<Cgroup> {
    // SAFETY: as for `place`.
    let words: *const Words<KeyedCgroup> = unsafe { CGROUPS.get(slot)?.get(id) }?;
    // SAFETY: nothing but such values is written, of the size and alignment asserted above.
    still(unsafe { &*words.cast::<KeyedCgroup>() }, &id)
}

/// Whose a cgroup is, packed; 0 if it is not in the tables, where no cgroup has the identity 0. A
/// global function for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cgroup_owner(slot: u32, id: u64) -> u64 {
    let Some(cgroup) = cgroup_in(slot, id) else { return 0 };
    cgroup.owner.pack()
}

/// The set of networks that an address, given by its words, belongs to; 0 if it belongs to none, since no set has that
/// identity. A global function for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn address_network(slot: u32, a: u32, b: u32, c: u32, d: u32) -> u32 {
    let Some(networks) = NETWORKS.get(slot) else { return 0 };
    let key = Key::new(128, [a, b, c, d]);
    networks.get(&key).copied().unwrap_or(0)
}

/// A global function for the same reason; only a cgroup that was made a moment ago comes here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nearest_ancestor(slot: u32) -> u64 {
    let tables = KernelTables::of_slot(slot);
    let mut nearest = 0;
    let mut level = 0;
    while level < MAX_ANCESTORS {
        let id = task::ancestor(level);
        if id == 0 {
            break;
        }
        if tables.cgroup(id).is_some() {
            nearest = id;
        }
        level += 1;
    }
    nearest
}

impl Tables for KernelTables {
    #[inline(always)]
    fn coverage(&self, pair: EdgeKey, protocol: Protocol, port: Port) -> Coverage {
        let (from, to) = (pair.from().raw(), pair.to().raw());
        let packed = port_coverage(self.slot(), from, to, u32::from(protocol.0), u32::from(port.number()));
        Coverage::unpack(packed)
    }

    #[inline(always)]
    fn decide_flow(&self, flow: &Flow) -> Decision {
        let [from, to, asked, rest] = flow.pack();
        let packed = flow_decision(self.active.0, from, to, asked, rest);
        Decision::unpack(packed, flow.from.identity(), flow.to.identity())
    }

    #[inline(always)]
    fn cgroup(&self, id: u64) -> Option<Owner> {
        let packed = if id == self.found.0 { self.found.1 } else { cgroup_owner(self.slot(), id) };
        match packed {
            0 => None,
            packed => Some(Owner::unpack(packed)),
        }
    }

    #[inline(always)]
    fn network(&self, address: &Address) -> Option<Identity> {
        let [a, b, c, d] = address.words();
        match address_network(self.slot(), a, b, c, d) {
            0 => None,
            identity => Some(Identity::from_raw(identity)),
        }
    }

    #[inline(always)]
    fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        // SAFETY: nothing writes to a slot that is in force, and a slot that is replaced stays readable until the
        // program ends, since inner maps are freed after an RCU grace period.
        let words: *const Words<EdgeValue> = unsafe { EDGES.get(self.slot())?.get(key) }?;
        // SAFETY: the host writes nothing but such values, of the size and alignment asserted above.
        Some(unsafe { &*words.cast::<EdgeValue>() })
    }

    #[inline(always)]
    fn reserved(&self, key: &PortKey) -> Option<Owner> {
        let Some(reserved) = RESERVED.get(self.slot()) else {
            // Without the table every port counts as somebody else's.
            return Some(Owner::new(Identity::UNKNOWN, Mode::Enforce));
        };
        // SAFETY: as for `edge`.
        let words: *const Words<Owner> = unsafe { reserved.get(key) }?;
        // SAFETY: as for `cgroup`.
        Some(unsafe { *words.cast::<Owner>() })
    }

    #[inline(always)]
    fn names_protocol(&self, key: &ProtocolKey) -> bool {
        PROTOCOLS.get(self.slot()).is_some_and(|protocols| protocols.get_ptr(key).is_some())
    }

    #[inline(always)]
    fn refuses_new(&self) -> bool {
        self.active.is_refusing()
    }

    #[cfg(feature = "negated")]
    #[inline(always)]
    fn holds(&self, check: enforcer_common::Check, found: bool) -> bool {
        found != (NEGATED.load() == check as u32)
    }
}

/// One slot's automaton of selectors, and the cgroups that went through it.
pub(crate) struct Claims {
    slot: u32,
}

impl Claims {
    /// Those of both slots: the one in force, and the one that may be about to be.
    pub(crate) const BOTH: [Self; 2] = [Self { slot: 0 }, Self { slot: 1 }];

    /// Enters the cgroup in this CPU's scratch into this slot. One whose parent is not in the slot is not entered: it
    /// lies outside of the subtree, or the host is still filling the slot and has yet to come to the parent.
    #[inline(always)]
    pub(crate) fn enter(&self) -> bool {
        enter_cgroup(self.slot) == 0
    }

    /// Forgets a cgroup that nothing refers to any more.
    #[inline(always)]
    pub(crate) fn forget(&self, id: u64) {
        // One that was never entered is not there to be removed, and that is all that can fail.
        CGROUPS.get(self.slot).map(|cgroups| cgroups.remove(id));
    }

    /// Whether this slot knows a cgroup.
    #[inline(always)]
    pub(crate) fn knows(&self, id: u64) -> bool {
        CGROUPS.get(self.slot).is_some_and(|cgroups| cgroups.get_ptr(id).is_some())
    }
}

impl Transitions for Claims {
    #[inline(always)]
    fn class(&self, byte: u8) -> u32 {
        let classes = CLASSES.get(self.slot).and_then(|classes| classes.get(0));
        classes.map_or(0, |classes| u32::from(classes[usize::from(byte)]))
    }

    #[inline(always)]
    fn next(&self, index: u32) -> u32 {
        TRANSITIONS.get(self.slot).and_then(|transitions| transitions.get(index)).copied().unwrap_or(DEAD)
    }
}

/// A global function, so that the verifier walks the loop over the name once and by itself. Returns 0 if the cgroup was
/// entered or is not this slot's, 1 if it could not be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enter_cgroup(slot: u32) -> u32 {
    let claims = Claims { slot };
    let (Some(cgroups), Some(cgroup)) = (CGROUPS.get(slot), scratch()) else { return 1 };
    let Some(parent) = cgroup_in(slot, cgroup.parent) else { return 0 };
    let mut state = advance(parent.state, b'/', &claims);
    let mut index = 0;
    while index < MAX_NAME && state != DEAD {
        let byte = cgroup.name[index];
        if byte == 0 {
            break;
        }
        state = advance(state, byte, &claims);
        index += 1;
    }
    let entry = Cgroup { owner: claimant(slot, state).unwrap_or(parent.owner), state };
    let entry = Keyed::new(&cgroup.id, entry);
    let words: *const KeyedCgroup = &entry;
    // SAFETY: such values are as large as what they are made of, by the assertions above.
    let words = unsafe { *words.cast::<Words<KeyedCgroup>>() };
    if cgroups.insert(cgroup.id, words, 0).is_ok() { 0 } else { 1 }
}

/// The service that claims a path that ends in this state.
#[inline(always)]
fn claimant(slot: u32, state: u32) -> Option<Owner> {
    // SAFETY: nothing writes to the automaton of a slot that programs use.
    let words: *const Words<Owner> = unsafe { CLAIMANTS.get(slot)?.get(state) }?;
    // SAFETY: the host writes nothing but owners, of the size and alignment asserted above.
    Some(unsafe { *words.cast::<Owner>() })
}
