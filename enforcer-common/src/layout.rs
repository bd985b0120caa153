//! What the maps hold: keys and values with no padding, pinned to their sizes and offsets.

use crate::{Address, Asked, Identity, Mode, Port, Protocol, RuleId};

/// Changes with every change to a layout in this file, in [`kept`](crate::kept), in [`event`](crate::event) or of the host's own
/// ledger, or to a name in [`names`](crate::names); a host and an object that differ in it refuse each other.
pub const ABI_VERSION: u32 = 8;

/// The one value of `ACTIVE`: which slot is in force, what is told of decisions and what happens when they cannot be, and which of
/// the kept verdicts hold. What a program changes has a byte of its own, so that it takes one store; the host writes all of them,
/// and looks whether a program did meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Active(pub u32);

impl Active {
    const ARMED: u32 = 1 << 8;
    const RECORDING: u32 = 1 << 9;
    const LOGGING: u32 = 1 << 10;
    const REFUSING: u32 = 1 << 16;
    /// The byte that says that nothing new is permitted at present, and the value that says so.
    pub const REFUSING_BYTE: usize = 2;

    /// The policy in this slot is in force. It is `armed` if it wants nothing new while decisions cannot be told, and
    /// `refusing` if that is now. Of kept verdicts, only those of this `generation` hold.
    pub const fn new(slot: u32, armed: bool, refusing: bool, generation: u8) -> Self {
        let [slot, ..] = slot.to_le_bytes();
        Self(u32::from_le_bytes([slot, armed as u8, refusing as u8, generation]))
    }

    /// The same, where permitted attempts are `recorded` and the programs are to log each decision, or not.
    pub const fn telling(self, recorded: bool, logged: bool) -> Self {
        let recorded = if recorded { Self::RECORDING } else { 0 };
        let logged = if logged { Self::LOGGING } else { 0 };
        Self(self.0 & !(Self::RECORDING | Self::LOGGING) | recorded | logged)
    }

    /// What [`new`](Self::new) says, where as much is told as now.
    pub const fn with(self, slot: u32, armed: bool, refusing: bool, generation: u8) -> Self {
        Self::new(slot, armed, refusing, generation).telling(self.is_recording(), self.is_logging())
    }

    /// The same, but for the generation of kept verdicts that hold.
    pub const fn in_generation(self, generation: u8) -> Self {
        self.with(self.slot(), self.is_armed(), self.is_refusing(), generation)
    }

    /// Whether permitted attempts are recorded.
    #[inline(always)]
    pub const fn is_recording(self) -> bool {
        self.0 & Self::RECORDING != 0
    }

    /// Whether the programs are to log each decision.
    #[inline(always)]
    pub const fn is_logging(self) -> bool {
        self.0 & Self::LOGGING != 0
    }

    /// The generation of kept verdicts that hold.
    #[inline(always)]
    pub const fn generation(self) -> u8 {
        self.0.to_le_bytes()[3]
    }

    /// The slot in force.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 & 0xff
    }

    /// Whether the policy in force wants nothing new while decisions cannot be told.
    #[inline(always)]
    pub const fn is_armed(self) -> bool {
        self.0 & Self::ARMED != 0
    }

    /// Whether nothing new is permitted at present.
    #[inline(always)]
    pub const fn is_refusing(self) -> bool {
        self.0 & Self::REFUSING != 0
    }
}

const _: () = assert!(Active::REFUSING == 1 << (8 * Active::REFUSING_BYTE));
// Where that byte lies in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// Value of `RESERVED` and part of that of `CGROUPS`: the service (or reserved peer) that owns a cgroup or a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Owner {
    identity: u32,
    mode: u8,
    _pad: [u8; 3],
}

const _: () = assert!(size_of::<Owner>() == 8);

impl Owner {
    /// A cgroup of no declared service.
    pub const UNMANAGED: Self = Self::new(Identity::UNMANAGED, Mode::Enforce);

    /// The owner `identity`, whose denials are handled as `mode` says.
    pub const fn new(identity: Identity, mode: Mode) -> Self {
        Self { identity: identity.raw(), mode: mode as u8, _pad: [0; 3] }
    }

    /// The owner in one register: its identity below its mode.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.identity as u64 | (self.mode as u64) << u32::BITS
    }

    /// Undoes [`pack`](Self::pack).
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        let [a, b, c, d, mode, ..] = packed.to_le_bytes();
        Self::new(Identity::from_raw(u32::from_le_bytes([a, b, c, d])), Mode::from_raw(mode))
    }

    /// Who owns it.
    #[inline(always)]
    pub const fn identity(&self) -> Identity {
        Identity::from_raw(self.identity)
    }

    /// The owner's mode; without meaning for a reserved peer.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_raw(self.mode)
    }
}

/// In `CGROUPS`: whose a cgroup is, and how far its path has come through the selectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Cgroup {
    /// Who owns it.
    pub owner: Owner,
    /// Its path's state in the automaton of [`claims`](crate::claims), from which its children's go on.
    pub state: u32,
}

const _: () = assert!(size_of::<Cgroup>() == 12);

/// A value with the key that it stands behind, in a table that changes while programs read it: `CGROUPS`, `LOCALS`, `DEVICES`.
///
/// The memory of an entry that is removed or replaced is used for another one at once (`htab_elem_free` in
/// kernel/bpf/hashtab.c, since 6.1). A program that had found it before reads what is another's by then, and sees that by the
/// key, which it reads last. What is left is a read in the very moment in which the kernel copies the other entry there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Keyed<const N: usize, V> {
    key: [u32; N],
    value: V,
}

/// A key of such a table, in words.
pub trait InKey<const N: usize> {
    /// Its words.
    fn words(&self) -> [u32; N];
}

impl<const N: usize, V: Copy> Keyed<N, V> {
    /// `value` behind `key`.
    #[inline(always)]
    pub fn new(key: &impl InKey<N>, value: V) -> Self {
        Self { key: key.words(), value }
    }

    /// Where the value lies.
    #[inline(always)]
    pub const fn value(&self) -> &V {
        &self.value
    }

    /// Where the words of the key lie.
    #[inline(always)]
    pub const fn key(&self) -> &[u32; N] {
        &self.key
    }
}

/// Value of `CGROUPS`.
pub type KeyedCgroup = Keyed<2, Cgroup>;
/// Value of `LOCALS`.
pub type KeyedPlace = Keyed<6, Place>;
/// Value of `DEVICES`.
pub type KeyedDevice = Keyed<4, Device>;

const _: () = assert!(size_of::<KeyedCgroup>() == 20);
const _: () = assert!(size_of::<KeyedPlace>() == 44);
const _: () = assert!(size_of::<KeyedDevice>() == 20);

/// The two words of a number.
#[inline(always)]
const fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

impl InKey<2> for u64 {
    #[inline(always)]
    fn words(&self) -> [u32; 2] {
        halves(*self)
    }
}

impl InKey<6> for LocalKey {
    #[inline(always)]
    fn words(&self) -> [u32; 6] {
        let ([a, b], [c, d, e, f]) = (halves(self.netns), self.address.words());
        [a, b, c, d, e, f]
    }
}

impl InKey<4> for DeviceKey {
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        let [a, b] = halves(self.netns);
        [a, b, self.index, self._pad]
    }
}

/// Value of `CLASSES`: the class of every byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Classes(pub [u8; 256]);

/// Where the running kernel keeps what a cgroup is known by; read from its BTF before the programs are loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Offsets {
    /// `kn` in `struct cgroup`.
    pub cgroup_node: u32,
    /// `root` in `struct cgroup`.
    pub cgroup_root: u32,
    /// `hierarchy_id` in `struct cgroup_root`; 0 is cgroup v2.
    pub root_hierarchy: u32,
    /// `id` in `struct kernfs_node`.
    pub node_id: u32,
    /// `parent` (from 6.15 `__parent`) in `struct kernfs_node`.
    pub node_parent: u32,
    /// `name` in `struct kernfs_node`.
    pub node_name: u32,
}

const _: () = assert!(size_of::<Offsets>() == 24);

/// Where the running kernel keeps what a record says of a task; all 0 where the programs must ask for it by helpers, of which each
/// costs as much as all of it does when it is read where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TaskFields {
    /// `tgid` in `struct task_struct`.
    pub process: u32,
    /// `comm` in `struct task_struct`.
    pub name: u32,
    /// `cred` in `struct task_struct`.
    pub credentials: u32,
    /// `uid` in `struct cred`.
    pub user: u32,
}

const _: () = assert!(size_of::<TaskFields>() == 16);

impl TaskFields {
    /// Whether they are known. None of them is the first of its structure.
    #[inline(always)]
    pub const fn are_known(&self) -> bool {
        self.credentials != 0
    }
}

/// Key of `EDGES`: a pair of ends, and which part of a long port list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct EdgeKey {
    from: u32,
    to: u32,
    chunk: u32,
}

const _: () = assert!(size_of::<EdgeKey>() == 12);

impl EdgeKey {
    /// The first part of the ports that `from` may reach at `to`.
    #[inline(always)]
    pub const fn new(from: Identity, to: Identity) -> Self {
        Self { from: from.raw(), to: to.raw(), chunk: 0 }
    }

    /// The same pair, part number `chunk`.
    #[inline(always)]
    pub const fn chunk(self, chunk: u32) -> Self {
        Self { from: self.from, to: self.to, chunk }
    }

    /// The caller.
    pub const fn from(self) -> Identity {
        Identity::from_raw(self.from)
    }

    /// The answerer.
    pub const fn to(self) -> Identity {
        Identity::from_raw(self.to)
    }
}

/// Some ports of one protocol, and the rule that lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PortRange {
    low: Port,
    high: Port,
    protocol: u8,
    flags: u8,
    _pad: [u8; 2],
    rule: u32,
}

const _: () = assert!(size_of::<PortRange>() == 12);

impl PortRange {
    const ANY_PROTOCOL: u8 = 1;
    const ANY_PORT: u8 = 2;

    /// What fills the unused places of an [`EdgeValue`]: it covers nothing, since its bounds are crossed.
    pub const UNUSED: Self =
        Self { low: Port::new(1), high: Port::new(0), protocol: 0, flags: 0, _pad: [0; 2], rule: 0 };

    /// Ports `low` to `high`, both included, of `protocol`.
    pub const fn ports(protocol: Protocol, low: u16, high: u16, rule: RuleId) -> Self {
        let (low, high) = (Port::new(low), Port::new(high));
        Self { low, high, protocol: protocol.0, flags: 0, _pad: [0; 2], rule: rule.0 }
    }

    /// Every port of `protocol`, or the protocol itself where it has no ports.
    pub const fn protocol(protocol: Protocol, rule: RuleId) -> Self {
        let (low, high) = (Port::new(0), Port::new(u16::MAX));
        Self { low, high, protocol: protocol.0, flags: Self::ANY_PORT, _pad: [0; 2], rule: rule.0 }
    }

    /// Every port of every protocol.
    pub const fn everything(rule: RuleId) -> Self {
        let flags = Self::ANY_PROTOCOL | Self::ANY_PORT;
        Self { low: Port::new(0), high: Port::new(u16::MAX), protocol: 0, flags, _pad: [0; 2], rule: rule.0 }
    }

    /// Whether `port` of `protocol` is one of them.
    #[inline(always)]
    pub const fn covers(&self, protocol: Protocol, port: Port) -> bool {
        if self.flags & Self::ANY_PROTOCOL == 0 && self.protocol != protocol.0 {
            return false;
        }
        self.flags & Self::ANY_PORT != 0
            || (self.low.number() <= port.number() && port.number() <= self.high.number())
    }

    /// Their protocol; `None` for every one.
    pub const fn of_protocol(&self) -> Option<Protocol> {
        if self.flags & Self::ANY_PROTOCOL == 0 { Some(Protocol(self.protocol)) } else { None }
    }

    /// The first and the last of them; the first is above the last in one that covers nothing.
    pub const fn bounds(&self) -> (u16, u16) {
        (self.low.number(), self.high.number())
    }

    /// The rule that lists them.
    #[inline(always)]
    pub const fn rule(&self) -> RuleId {
        RuleId(self.rule)
    }
}

/// Value of `EDGES`: up to [`EdgeValue::RANGES`] port ranges, and whether a further part follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct EdgeValue {
    more: u8,
    _pad: [u8; 3],
    ranges: [PortRange; Self::RANGES],
}

const _: () = assert!(size_of::<EdgeValue>() == 52);

impl EdgeValue {
    /// Ranges in one part: most pairs of services share one to four ports.
    pub const RANGES: usize = 4;

    /// One part of a port list; `more` says that part number + 1 exists.
    pub const fn new(ranges: [PortRange; Self::RANGES], more: bool) -> Self {
        Self { more: more as u8, _pad: [0; 3], ranges }
    }

    /// The ranges of this part.
    #[inline(always)]
    pub const fn ranges(&self) -> &[PortRange; Self::RANGES] {
        &self.ranges
    }

    /// Whether the list goes on in the next part.
    #[inline(always)]
    pub const fn continues(&self) -> bool {
        self.more != 0
    }
}

/// Key of `RESERVED`: a port that only one service may bind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct PortKey {
    port: [u8; 2],
    protocol: u8,
    _pad: u8,
}

const _: () = assert!(size_of::<PortKey>() == 4);

impl PortKey {
    /// The key of `port` of `protocol`.
    #[inline(always)]
    pub const fn new(protocol: Protocol, port: Port) -> Self {
        Self { port: port.0, protocol: protocol.0, _pad: 0 }
    }

    /// The port.
    pub const fn port(&self) -> Port {
        Port(self.port)
    }

    /// Its protocol.
    pub const fn protocol(&self) -> Protocol {
        Protocol(self.protocol)
    }
}

/// Key of `PROTOCOLS`: a service and a protocol that one of its rules names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct ProtocolKey {
    service: u32,
    protocol: u8,
    flags: u8,
    _pad: [u8; 2],
}

const _: () = assert!(size_of::<ProtocolKey>() == 8);

impl ProtocolKey {
    /// `protocol` as used by `service`.
    #[inline(always)]
    pub const fn new(service: Identity, protocol: Protocol) -> Self {
        Self { service: service.raw(), protocol: protocol.0, flags: 0, _pad: [0; 2] }
    }

    /// Every protocol, as a rule without `ports` grants it.
    #[inline(always)]
    pub const fn any(service: Identity) -> Self {
        Self { service: service.raw(), protocol: 0, flags: 1, _pad: [0; 2] }
    }
}

/// Key of `LOCALS`: an address of this host, as one network namespace sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct LocalKey {
    netns: u64,
    address: Address,
}

const _: () = assert!(size_of::<LocalKey>() == 24);

impl LocalKey {
    /// `address` as seen from the network namespace of cookie `netns`.
    #[inline(always)]
    pub const fn new(netns: u64, address: Address) -> Self {
        Self { netns, address }
    }

    /// The namespace that sees it.
    pub const fn netns(&self) -> u64 {
        self.netns
    }
}

/// In `LOCALS`: which network namespace of this host an address belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct Place {
    netns: i32,
    source: Address,
}

const _: () = assert!(size_of::<Place>() == 20);

impl Place {
    /// What socket look-ups take for the namespace that looks (`BPF_F_CURRENT_NETNS`).
    pub const HERE_NETNS: i32 = -1;
    /// The namespace that looks.
    pub const HERE: Self = Self { netns: Self::HERE_NETNS, source: Address::V6_UNSPECIFIED };
    /// More than one namespace has the address, so that it tells nobody's identity.
    pub const AMBIGUOUS: Self = Self { netns: -2, source: Address::V6_UNSPECIFIED };

    /// The namespace that the one that looks knows by the id `nsid` (`RTM_NEWNSID`), which a socket of that one that
    /// is bound to no address reaches from `source`.
    pub const fn namespace(nsid: u32, source: Address) -> Self {
        // An id is a positive int in the kernel; the highest bit would make it one of the values above.
        let [a, b, c, d] = nsid.to_ne_bytes();
        Self { netns: i32::from_ne_bytes([a, b, c, d]) & i32::MAX, source }
    }

    /// The network namespace as socket look-ups take it; `None` if there is more than one.
    #[inline(always)]
    pub const fn netns(&self) -> Option<i32> {
        if self.netns == Self::AMBIGUOUS.netns { None } else { Some(self.netns) }
    }

    /// Whether it is the namespace that looks.
    #[inline(always)]
    pub const fn is_here(&self) -> bool {
        self.netns == Self::HERE_NETNS
    }

    /// The address that an unbound socket reaches it from.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        self.source
    }
}

/// Key of `DEVICES`: a network device that the host has taken in, with the addresses and neighbours behind it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct DeviceKey {
    netns: u64,
    index: u32,
    _pad: u32,
}

const _: () = assert!(size_of::<DeviceKey>() == 16);

impl DeviceKey {
    /// The device of number `index` in the network namespace of cookie `netns`.
    #[inline(always)]
    pub const fn new(netns: u64, index: u32) -> Self {
        Self { netns, index, _pad: 0 }
    }

    /// The namespace that it is in.
    pub const fn netns(&self) -> u64 {
        self.netns
    }
}

/// In `DEVICES`: what lies behind a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Device(u32);

impl Device {
    /// Nothing that is known: no device has this in the map.
    pub const UNKNOWN: Self = Self(0);
    /// Other hosts, or who knows who.
    pub const OUTSIDE: Self = Self(1);
    /// Only network namespaces of this host, and what they forward.
    pub const INSIDE: Self = Self(2);
    /// Other hosts, and no network namespace of this one.
    pub const OTHERS: Self = Self(3);

    /// Whether other hosts may be there.
    #[inline(always)]
    pub const fn leads_out(self) -> bool {
        self.0 == Self::OUTSIDE.0 || self.0 == Self::OTHERS.0
    }
}

/// Key of `NEIGHBOURS` without its length: addresses that only namespaces of this host can have, as seen from one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct NeighbourKey {
    netns: [u8; 8],
    address: [u8; 16],
}

const _: () = assert!(size_of::<NeighbourKey>() == 24);

impl NeighbourKey {
    /// Bits of the key before the address.
    pub const NETNS_BITS: u32 = 64;
    /// Bits of a whole key.
    pub const BITS: u32 = 192;
    /// The value of a subnet.
    pub const ONE: u32 = 1;
    /// The value of its broadcast address.
    pub const MANY: u32 = 2;

    /// `address` as seen from the network namespace of cookie `netns`.
    #[inline(always)]
    pub const fn new(netns: u64, address: Address) -> Self {
        Self { netns: netns.to_ne_bytes(), address: address.bytes() }
    }

    /// The namespace that sees it.
    pub const fn netns(&self) -> u64 {
        u64::from_ne_bytes(self.netns)
    }

    /// What it sees.
    pub const fn address(&self) -> Address {
        Address::new(self.address)
    }
}

/// Value of `SOCKETS`, the socket storage: what is remembered about one socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SocketNote {
    /// The cgroup id of the process that bound the socket, or sent from it first; 0 if neither was seen.
    pub owner: u64,
    /// The cookie of its network namespace; 0 if it was not seen.
    pub netns: u64,
    /// Whom it has sent to without being connected, so that answers can be told from calls.
    pub asked: Asked,
    /// 1 while it is being bound to whatever port the kernel chooses.
    pub any_port: u32,
    _pad: u32,
}

const _: () = assert!(size_of::<SocketNote>() == 32);

impl SocketNote {
    /// A socket of which nothing is known yet.
    pub const BLANK: Self = Self::of(0, 0);

    /// A socket that belongs to this cgroup, in the network namespace of this cookie.
    pub const fn of(owner: u64, netns: u64) -> Self {
        Self { owner, netns, asked: Asked::NOBODY, any_port: 0, _pad: 0 }
    }
}

/// Pinned beside each other so that a drift of either side is a compile error.
#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya's maps take only types that are marked as plain old data")]

    use super::{
        Cgroup, Classes, Device, DeviceKey, EdgeKey, EdgeValue, Keyed, LocalKey, NeighbourKey, Offsets,
        Owner, Place, PortKey, ProtocolKey, SocketNote, TaskFields,
    };

    // SAFETY: repr(C), integers only, padding spelt out as fields; the size assertion above holds it to that.
    unsafe impl aya::Pod for Owner {}
    // SAFETY: repr(C) of an Owner and a u32, no padding by its size assertion.
    unsafe impl aya::Pod for Cgroup {}
    // SAFETY: repr(C) of words and of a value that is itself of words, without padding by the size assertions of those that
    // there are.
    unsafe impl<const N: usize, V: aya::Pod> aya::Pod for Keyed<N, V> {}
    // SAFETY: bytes only.
    unsafe impl aya::Pod for Classes {}
    // SAFETY: repr(C), six u32.
    unsafe impl aya::Pod for Offsets {}
    // SAFETY: repr(C), four u32.
    unsafe impl aya::Pod for TaskFields {}
    // SAFETY: repr(C), three u32, no padding by its size assertion.
    unsafe impl aya::Pod for EdgeKey {}
    // SAFETY: repr(C) of bytes and of PortRange, which is itself without padding by its size assertion.
    unsafe impl aya::Pod for EdgeValue {}
    // SAFETY: repr(C), bytes only.
    unsafe impl aya::Pod for PortKey {}
    // SAFETY: repr(C), u32 and bytes, no padding by its size assertion.
    unsafe impl aya::Pod for ProtocolKey {}
    // SAFETY: repr(C), u64 and bytes, no padding by its size assertion.
    unsafe impl aya::Pod for LocalKey {}
    // SAFETY: repr(C), i32 and bytes, no padding by its size assertion.
    unsafe impl aya::Pod for Place {}
    // SAFETY: repr(C), integers only, padding spelt out; 16 bytes by its size assertion.
    unsafe impl aya::Pod for DeviceKey {}
    // SAFETY: one u32.
    unsafe impl aya::Pod for Device {}
    // SAFETY: repr(C), bytes only.
    unsafe impl aya::Pod for NeighbourKey {}
    // SAFETY: repr(C), integers only, padding spelt out; 32 bytes by its size assertion.
    unsafe impl aya::Pod for SocketNote {}
}

#[cfg(test)]
mod tests {
    use super::{Active, DeviceKey, EdgeValue, InKey as _, LocalKey, PortRange};
    use crate::{Address, Port, Protocol, RuleId};

    const RULE: RuleId = RuleId(7);

    #[test]
    fn keys_that_differ_have_other_words() {
        let cgroups = [0, 1, 1 << 32, u64::MAX].map(|id: u64| id.words());
        let [a, b] = [Address::V4_LOOPBACK, Address::V6_LOOPBACK];
        let locals =
            [(1, a), (1, b), (2, a), (1 << 32, a)].map(|(netns, ip)| LocalKey::new(netns, ip).words());
        let devices =
            [(1, 1), (1, 2), (2, 1), (1 << 32, 1)].map(|(netns, at)| DeviceKey::new(netns, at).words());
        for at in 0..4 {
            for other in (0..4).filter(|other| *other != at) {
                assert_ne!(cgroups[at], cgroups[other]);
                assert_ne!(locals[at], locals[other]);
                assert_ne!(devices[at], devices[other]);
            }
        }
    }

    #[test]
    fn every_part_of_what_is_in_force_is_read_as_it_was_written() {
        for (slot, armed, refusing, generation) in
            [(0, false, false, 0), (1, true, false, 255), (0, true, true, 1), (1, false, true, 128)]
        {
            for (recorded, logged) in [(false, false), (true, false), (false, true), (true, true)] {
                let active = Active::new(slot, armed, refusing, generation).telling(recorded, logged);
                let read = (active.slot(), active.is_armed(), active.is_refusing(), active.generation());
                assert_eq!(read, (slot, armed, refusing, generation));
                assert_eq!((active.is_recording(), active.is_logging()), (recorded, logged));
                // What is told outlasts another policy, and says nothing else.
                let next = active.with(1 - slot, !armed, !refusing, !generation);
                assert_eq!((next.is_recording(), next.is_logging()), (recorded, logged));
                assert_eq!(next.telling(false, false), Active::new(1 - slot, !armed, !refusing, !generation));
                assert_eq!(
                    active.in_generation(!generation),
                    active.with(slot, armed, refusing, !generation)
                );
            }
        }
    }

    #[test]
    fn ranges_cover_their_bounds_and_nothing_beyond() {
        let range = PortRange::ports(Protocol::TCP, 9000, 9010, RULE);
        for (protocol, port, expected) in [
            (Protocol::TCP, 8999, false),
            (Protocol::TCP, 9000, true),
            (Protocol::TCP, 9005, true),
            (Protocol::TCP, 9010, true),
            (Protocol::TCP, 9011, false),
            (Protocol::UDP, 9005, false),
        ] {
            assert_eq!(range.covers(protocol, Port::new(port)), expected, "{protocol:?} {port}");
        }
    }

    #[test]
    fn port_zero_is_a_port_and_not_a_wildcard() {
        let zero = PortRange::ports(Protocol::TCP, 0, 0, RULE);
        assert!(zero.covers(Protocol::TCP, Port::new(0)));
        assert!(!zero.covers(Protocol::TCP, Port::new(1)));
    }

    #[test]
    fn unused_places_cover_nothing() {
        let value = EdgeValue::new([PortRange::UNUSED; EdgeValue::RANGES], false);
        for range in value.ranges() {
            for protocol in 0..=u8::MAX {
                for port in [0, 1, 2, 443, u16::MAX] {
                    assert!(!range.covers(Protocol(protocol), Port::new(port)));
                }
            }
        }
    }

    #[test]
    fn a_whole_protocol_and_everything() {
        assert!(PortRange::protocol(Protocol::ICMP, RULE).covers(Protocol::ICMP, Port::new(0)));
        assert!(!PortRange::protocol(Protocol::ICMP, RULE).covers(Protocol::TCP, Port::new(0)));
        assert!(PortRange::everything(RULE).covers(Protocol::SCTP, Port::new(65535)));
    }
}
