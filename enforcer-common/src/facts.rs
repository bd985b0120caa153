//! What a hook knows about one attempt: built by the hooks and the command line, consumed by `decide`.

use crate::asked::Asked;

/// An IP protocol number as in the IP header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (1).
    pub const ICMP: Self = Self(1);
    /// TCP (6). MPTCP counts as TCP: its connections pass the same hooks.
    pub const TCP: Self = Self(6);
    /// UDP (17).
    pub const UDP: Self = Self(17);
    /// DCCP (33).
    pub const DCCP: Self = Self(33);
    /// ICMPv6 (58).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (132).
    pub const SCTP: Self = Self(132);
    /// UDP-Lite (136).
    pub const UDPLITE: Self = Self(136);

    /// The protocols that policies, records and the command line know by a word, and whether they have ports.
    pub const NAMED: [(&'static str, Self, bool); 7] = [
        ("tcp", Self::TCP, true),
        ("udp", Self::UDP, true),
        ("sctp", Self::SCTP, true),
        ("dccp", Self::DCCP, true),
        ("udplite", Self::UDPLITE, true),
        ("icmp", Self::ICMP, false),
        ("icmpv6", Self::ICMPV6, false),
    ];

    /// Whether the programs find the socket of this host that a packet of this protocol is from, and the one that is to get it.
    pub const fn tells_ends(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::ICMP | Self::ICMPV6)
    }

    /// The word for the protocol, if it has one.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.into_iter().find_map(|(name, protocol, _)| (protocol == self).then_some(name))
    }
}

/// A port in network byte order, as sockets and packets carry it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Port(pub [u8; 2]);

impl Port {
    /// The port with this number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be_bytes())
    }

    /// The port's number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

/// An IPv6 address; an IPv4 address stands in its mapped form `::ffff:a.b.c.d`.
///
/// The one form for both families is what keeps a v4-mapped destination from being a way around. It is kept in four
/// words, each with four bytes in network order as they lie in memory, because that is how the kernel hands
/// addresses to programs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Address([u32; 4]);

impl Address {
    /// Bits before the IPv4 part of a mapped address.
    pub const V4_PREFIX_BITS: u32 = 96;

    const V4_MARK: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    const LAST_ONE: u32 = u32::from_ne_bytes([0, 0, 0, 1]);

    /// `127.0.0.1`.
    pub const V4_LOOPBACK: Self = Self::from_v4([127, 0, 0, 1]);
    /// `::1`.
    pub const V6_LOOPBACK: Self = Self([0, 0, 0, Self::LAST_ONE]);
    /// `0.0.0.0`.
    pub const V4_UNSPECIFIED: Self = Self::from_v4([0; 4]);
    /// `::`.
    pub const V6_UNSPECIFIED: Self = Self([0; 4]);

    /// The address with these bytes in network order.
    #[inline(always)]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// The address with these words, each with four bytes in network order as they lie in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The address as [`from_words`](Self::from_words) takes it.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The bytes in network order.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.0[0].to_ne_bytes();
        let [e, f, g, h] = self.0[1].to_ne_bytes();
        let [i, j, k, l] = self.0[2].to_ne_bytes();
        let [m, n, o, p] = self.0[3].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The mapped form of an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, Self::V4_MARK, u32::from_ne_bytes(v4)])
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_MARK
    }

    /// The IPv4 address that this one maps, if it does.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        if self.is_v4() { Some(self.0[3].to_ne_bytes()) } else { None }
    }

    /// Whether the address is of one link alone: `169.254.0.0/16`, `fe80::/10`.
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        if self.is_v4() {
            return matches!(self.0[3].to_ne_bytes(), [169, 254, _, _]);
        }
        let [first, second, _, _] = self.0[0].to_ne_bytes();
        first == 0xfe && second & 0xc0 == 0x80
    }

    /// Whether the address stands for many hosts, so that any of them may answer: `224.0.0.0/4`, `255.255.255.255`,
    /// `ff00::/8`. Another broadcast address cannot be told from a host's.
    #[inline(always)]
    pub const fn is_of_many(self) -> bool {
        if self.is_v4() {
            return matches!(self.0[3].to_ne_bytes(), [224..=239, _, _, _] | [255, 255, 255, 255]);
        }
        self.0[0].to_ne_bytes()[0] == 0xff
    }

    /// Whether the address means this host in every network namespace: `127.0.0.0/8`, `::1`, and the unspecified
    /// addresses `0.0.0.0` and `::`, which `connect(2)` takes for loopback.
    #[inline(always)]
    pub const fn is_loopback_or_unspecified(self) -> bool {
        let last = self.0[3];
        if self.is_v4() {
            return last == 0 || last.to_ne_bytes()[0] == 127;
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && (last == 0 || last == Self::LAST_ONE)
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Address {
    /// In the order of the bytes on the wire, whatever the host's own is.
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bytes().cmp(&other.bytes())
    }
}

/// How a hook knows one end of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Known {
    /// A task or socket of the cgroup with this id.
    Cgroup,
    /// A task or socket whose own cgroup is not in the tables; the id is that of its nearest ancestor that is.
    Below,
    /// An address that no socket of this host holds.
    Address,
    /// A local socket whose owner this hook cannot tell, but the ingress hook will.
    LeftToIngress,
    /// An address of this host at which no socket waits.
    Nobody,
    /// An end that should be local and was not found.
    Unknown,
}

impl Known {
    /// What stands for a number; a number that stands for nothing is of an end that is not known.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Cgroup,
            1 => Self::Below,
            2 => Self::Address,
            3 => Self::LeftToIngress,
            4 => Self::Nobody,
            _ => Self::Unknown,
        }
    }
}

/// One end of an attempt, as far as a hook can tell it.
///
/// A plain struct and not an enum with values in its variants: the bytes that a variant leaves unset may hold a
/// pointer inside a program, and the verifier refuses arithmetic on those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party {
    known: Known,
    cgroup: u64,
    address: Address,
}

impl Party {
    /// See [`Known::LeftToIngress`].
    pub const LEFT_TO_INGRESS: Self = Self::bare(Known::LeftToIngress);
    /// See [`Known::Nobody`].
    pub const NOBODY: Self = Self::bare(Known::Nobody);
    /// See [`Known::Unknown`].
    pub const UNKNOWN: Self = Self::bare(Known::Unknown);

    const fn bare(known: Known) -> Self {
        Self { known, cgroup: 0, address: Address::V6_UNSPECIFIED }
    }

    /// A task or socket of this cgroup v2 id.
    #[inline(always)]
    pub const fn cgroup(id: u64) -> Self {
        Self { known: Known::Cgroup, cgroup: id, address: Address::V6_UNSPECIFIED }
    }

    /// A task or socket somewhere below the cgroup with this id.
    #[inline(always)]
    pub const fn below(ancestor: u64) -> Self {
        Self { known: Known::Below, cgroup: ancestor, address: Address::V6_UNSPECIFIED }
    }

    /// An address that no socket of this host holds.
    #[inline(always)]
    pub const fn address(address: Address) -> Self {
        Self { known: Known::Address, cgroup: 0, address }
    }

    /// How it is known.
    #[inline(always)]
    pub const fn known(&self) -> Known {
        self.known
    }

    /// The cgroup id that goes with [`Known::Cgroup`] and [`Known::Below`]; otherwise 0.
    #[inline(always)]
    pub const fn cgroup_id(&self) -> u64 {
        self.cgroup
    }

    /// The address that goes with [`Known::Address`].
    #[inline(always)]
    pub const fn remote_address(&self) -> &Address {
        &self.address
    }
}

/// Everything that decides about one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Who opens the flow.
    pub caller: Party,
    /// Who would answer.
    pub answerer: Party,
    /// The protocol of the flow.
    pub protocol: Protocol,
    /// The answerer's port; 0 for a protocol without ports.
    pub port: Port,
    /// Whom the receiving end has asked before, over a connectionless protocol: what one of them sends from
    /// `reply_port` may be the answer, so that a rule that runs the other way covers it.
    pub asked: Asked,
    /// The port the caller sends from, where this may be an answer.
    pub reply_port: Port,
}

/// Which way an attempt crosses the hook that saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Seen at the caller.
    Egress,
    /// Seen at the answerer.
    Ingress,
    /// Not a flow: a socket was created or bound.
    Local,
}

/// A kernel attach point that this project uses, by its number in events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// `BPF_CGROUP_INET4_CONNECT`.
    Connect4 = 1,
    /// `BPF_CGROUP_INET6_CONNECT`.
    Connect6 = 2,
    /// `BPF_CGROUP_UDP4_SENDMSG`.
    Sendmsg4 = 3,
    /// `BPF_CGROUP_UDP6_SENDMSG`.
    Sendmsg6 = 4,
    /// `BPF_CGROUP_INET_INGRESS`.
    Ingress = 5,
    /// `BPF_CGROUP_INET4_BIND`.
    Bind4 = 6,
    /// `BPF_CGROUP_INET6_BIND`.
    Bind6 = 7,
    /// `BPF_CGROUP_INET4_POST_BIND`.
    PostBind4 = 8,
    /// `BPF_CGROUP_INET6_POST_BIND`.
    PostBind6 = 9,
    /// `BPF_CGROUP_INET_SOCK_CREATE`.
    SockCreate = 10,
    /// `BPF_CGROUP_INET_EGRESS`.
    Egress = 11,
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 11] = [
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Ingress,
        Self::Bind4,
        Self::Bind6,
        Self::PostBind4,
        Self::PostBind6,
        Self::SockCreate,
        Self::Egress,
    ];

    /// The hook behind a number in an event.
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| *hook as u8 == raw)
    }

    /// The name of the hook, which is also its program's and its link's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Ingress => "ingress",
            Self::Bind4 => "bind4",
            Self::Bind6 => "bind6",
            Self::PostBind4 => "post_bind4",
            Self::PostBind6 => "post_bind6",
            Self::SockCreate => "sock_create",
            Self::Egress => "egress",
        }
    }

    /// Which end of an attempt the hook sees.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Connect4 | Self::Connect6 | Self::Sendmsg4 | Self::Sendmsg6 | Self::Egress => {
                Direction::Egress
            }
            Self::Ingress => Direction::Ingress,
            Self::Bind4 | Self::Bind6 | Self::PostBind4 | Self::PostBind6 | Self::SockCreate => {
                Direction::Local
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Hook, Port};

    #[test]
    fn only_addresses_of_every_host_are_loopback() {
        let v4 = |a, b, c, d| Address::from_v4([a, b, c, d]);
        let mut v6 = [0_u8; 16];
        for (address, expected) in [
            (v4(127, 0, 0, 1), true),
            (v4(127, 255, 255, 255), true),
            (v4(0, 0, 0, 0), true),
            (v4(0, 0, 0, 1), false),
            (v4(128, 0, 0, 1), false),
            (v4(126, 0, 0, 1), false),
            (Address::new(v6), true),
        ] {
            assert_eq!(address.is_loopback_or_unspecified(), expected, "{address:?}");
        }
        v6[15] = 1;
        assert!(Address::new(v6).is_loopback_or_unspecified());
        v6[15] = 2;
        assert!(!Address::new(v6).is_loopback_or_unspecified());
        v6[15] = 1;
        v6[0] = 0xfe;
        assert!(!Address::new(v6).is_loopback_or_unspecified());
    }

    #[test]
    fn only_broadcast_and_multicast_are_of_many() {
        for (address, expected) in [
            (Address::from_v4([223, 255, 255, 255]), false),
            (Address::from_v4([224, 0, 0, 0]), true),
            (Address::from_v4([239, 255, 255, 255]), true),
            (Address::from_v4([240, 0, 0, 0]), false),
            (Address::from_v4([255, 255, 255, 254]), false),
            (Address::from_v4([255, 255, 255, 255]), true),
            (Address::new([0xff; 16]), true),
            (Address::new([0xfe; 16]), false),
        ] {
            assert_eq!(address.is_of_many(), expected, "{address:?}");
        }
    }

    #[test]
    fn v4_round_trips_through_its_mapped_form() {
        assert_eq!(Address::from_v4([10, 1, 2, 3]).to_v4(), Some([10, 1, 2, 3]));
        assert_eq!(Address::new([0; 16]).to_v4(), None);
    }

    #[test]
    fn hooks_are_found_by_their_number_and_no_other() {
        for hook in Hook::ALL {
            assert_eq!(Hook::from_raw(hook as u8), Some(hook));
        }
        assert_eq!(Hook::from_raw(0), None);
        assert_eq!(Hook::from_raw(12), None);
    }

    #[test]
    fn ports_are_big_endian() {
        assert_eq!(Port::new(0x1234).0, [0x12, 0x34]);
        assert_eq!(Port::new(443).number(), 443);
    }
}
