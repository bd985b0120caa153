//! Every map and global, and the policy's tables as `decide` reads them.

use core::arch::asm;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::macros::btf_map;
use enforcer_common::claims::{DEAD, MAX_NAME, Transitions, advance};
use enforcer_common::counter::Counter;
use enforcer_common::decide::{Coverage, coverage};
use enforcer_common::event::{CgroupEvent, Event};
use enforcer_common::layout::{
    Cgroup, Classes, EdgeKey, EdgeValue, LocalKey, Offsets, Owner, PortKey, ProtocolKey, SocketNote,
};
use enforcer_common::limits::{MAX_ANCESTORS, MAX_LOCALS, RING_BYTES};
use enforcer_common::{Address, Identity, Mode, Port, Protocol, Tables};

use crate::ctx::task;

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;
/// An inner array need not be as large as the one that stands for its form (kernel 5.10).
const RESIZABLE: usize = BPF_F_INNER_MAP as usize;

// Inner maps are created by the host as large as the policy needs; what stands here is only their form.
type Cgroups = HashMap<u64, Cgroup, 1, SPARSE>;
type ClassesOf = Array<Classes, 1, RESIZABLE>;
type TransitionsOf = Array<u32, 1, RESIZABLE>;
type Claimants = HashMap<u32, Owner, 1, SPARSE>;
type Edges = HashMap<EdgeKey, EdgeValue, 1, SPARSE>;
type Networks = LpmTrie<[u8; 16], u32, 1>;
type Reserved = HashMap<PortKey, Owner, 1, SPARSE>;
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
static NETWORKS: ArrayOfMaps<Networks, 2> = ArrayOfMaps::new();
#[btf_map]
static RESERVED: ArrayOfMaps<Reserved, 2> = ArrayOfMaps::new();
#[btf_map]
static PROTOCOLS: ArrayOfMaps<Protocols, 2> = ArrayOfMaps::new();
#[btf_map]
static LOCALS: HashMap<LocalKey, u32, { MAX_LOCALS as usize }, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketNote> = SkStorage::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Where the name of a new cgroup is read to: too large for the stack.
#[btf_map]
static SCRATCH: PerCpuArray<CgroupEvent, 1> = PerCpuArray::new();

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
static HOST_NETNS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static LOG_ALLOWED: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static WHOLE_TREE: Global<u8> = Global::new(0);

/// Whether permitted attempts are recorded.
#[inline(always)]
pub(crate) fn log_allowed() -> bool {
    LOG_ALLOWED.load() != 0
}

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

/// Whether `address` is one of the host's own in the network namespace `netns`.
#[inline(always)]
pub(crate) fn is_local(netns: u64, address: &Address) -> bool {
    let netns = if HOST_NETNS.load() == 0 { 0 } else { netns };
    LOCALS.get_ptr(LocalKey::new(netns, *address)).is_some()
}

/// Where the running kernel keeps what a cgroup is known by.
#[inline(always)]
pub(crate) fn offsets() -> Offsets {
    OFFSETS.load()
}

/// This CPU's place for the cgroup that a tracepoint is about. Programs on tracepoints do not interrupt each other.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut CgroupEvent> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a live element of this CPU, which the one program that runs on it now has to itself.
    Some(unsafe { &mut *scratch })
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

/// One revision of the policy, chosen when the value is made.
pub(crate) struct KernelTables {
    slot: u32,
}

impl KernelTables {
    /// The tables that are in force now, or `None` if the host's promise that both slots are always filled is
    /// broken, in which case nothing can be decided.
    #[inline(always)]
    pub(crate) fn in_force() -> Option<Self> {
        let slot = *ACTIVE.get(0)?;
        CGROUPS.get(slot)?;
        Some(Self { slot })
    }

    /// The nearest ancestor of the current task's cgroup that these tables know; 0 if they know none.
    #[inline(always)]
    pub(crate) fn nearest_ancestor(&self) -> u64 {
        nearest_ancestor(self.slot)
    }

    /// The revision of these tables.
    #[inline(always)]
    pub(crate) fn revision(&self) -> u32 {
        REVISIONS.get(self.slot).copied().unwrap_or(0)
    }
}

/// [`coverage`] as a global function, so that the verifier walks its loops once and by themselves. It takes and
/// returns plain numbers, all that such a function may before kernel 5.12.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn port_coverage(slot: u32, from: u32, to: u32, protocol: u32, port: u32) -> u64 {
    let tables = KernelTables { slot };
    let pair = EdgeKey::new(Identity::from_raw(from), Identity::from_raw(to));
    let port = Port::new((port & 0xffff) as u16);
    coverage(pair, Protocol((protocol & 0xff) as u8), port, &tables).pack()
}

/// A global function for the same reason; only a cgroup that was made a moment ago comes here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nearest_ancestor(slot: u32) -> u64 {
    let tables = KernelTables { slot };
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
        let packed = port_coverage(self.slot, from, to, u32::from(protocol.0), u32::from(port.number()));
        Coverage::unpack(packed)
    }

    #[inline(always)]
    fn cgroup(&self, id: u64) -> Option<Owner> {
        // SAFETY: the value is eight bytes that are copied out at once; an entry that is replaced meanwhile stays
        // readable until the program ends, since hash elements are freed after an RCU grace period.
        unsafe { CGROUPS.get(self.slot)?.get(id) }.map(|cgroup| cgroup.owner)
    }

    #[inline(always)]
    fn network(&self, address: &Address) -> Option<Identity> {
        let key = Key::new(128, address.bytes());
        NETWORKS.get(self.slot)?.get(&key).copied().map(Identity::from_raw)
    }

    #[inline(always)]
    fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        // SAFETY: nothing writes to a slot that is in force, and a slot that is replaced stays readable until the
        // program ends, since inner maps are freed after an RCU grace period.
        unsafe { EDGES.get(self.slot)?.get(key) }
    }

    #[inline(always)]
    fn reserved(&self, key: &PortKey) -> Option<Owner> {
        let Some(reserved) = RESERVED.get(self.slot) else {
            // Without the table every port counts as somebody else's.
            return Some(Owner::new(Identity::UNKNOWN, Mode::Enforce));
        };
        // SAFETY: as for `edge`.
        unsafe { reserved.get(key) }.copied()
    }

    #[inline(always)]
    fn names_protocol(&self, key: &ProtocolKey) -> bool {
        PROTOCOLS.get(self.slot).is_some_and(|protocols| protocols.get_ptr(key).is_some())
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
        if let Some(cgroups) = CGROUPS.get(self.slot) {
            // One that was never entered is not there to be removed, and that is all that can fail.
            let _: Result<(), i32> = cgroups.remove(id);
        }
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
        classes.map_or(0, |classes| u32::from(classes.0[usize::from(byte)]))
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
    // SAFETY: copied out at once; hash elements are freed after an RCU grace period.
    let Some(parent) = (unsafe { cgroups.get(cgroup.parent) }).copied() else { return 0 };
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
    // SAFETY: as above.
    let claimant = CLAIMANTS.get(slot).and_then(|claimants| unsafe { claimants.get(state) }.copied());
    let entry = Cgroup { owner: claimant.unwrap_or(parent.owner), state };
    if cgroups.insert(cgroup.id, entry, 0).is_ok() { 0 } else { 1 }
}
