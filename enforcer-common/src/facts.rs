//! What a hook knows about one attempt: built by the hooks and the command line, consumed by `decide`.

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

/// An IPv6 address in network byte order; an IPv4 address stands in its mapped form `::ffff:a.b.c.d`.
///
/// The one form for both families is what keeps a v4-mapped destination from being a way around.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// Bits before the IPv4 part of a mapped address.
    pub const V4_PREFIX_BITS: u32 = 96;

    /// The mapped form of an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]])
    }

    /// The IPv4 address that this one maps, if it does.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// Whether the address means this host in every network namespace: `127.0.0.0/8`, `::1`, and the unspecified
    /// addresses `0.0.0.0` and `::`, which `connect(2)` takes for loopback.
    #[inline(always)]
    pub const fn is_loopback_or_unspecified(self) -> bool {
        match self.to_v4() {
            Some([127, _, _, _]) | Some([0, 0, 0, 0]) => true,
            Some(_) => false,
            None => matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 | 1]),
        }
    }
}

/// One end of an attempt, as far as a hook can tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party {
    /// A task or socket of this cgroup v2 id.
    Cgroup(u64),
    /// A task or socket whose own cgroup is not in the tables; this is the id of its nearest ancestor that is.
    Below(u64),
    /// An address that no socket of this host holds.
    Address(Address),
    /// A local socket whose owner this hook cannot tell, but the ingress hook will.
    LeftToIngress,
    /// An address of this host at which no socket waits.
    Nobody,
    /// An end that should be local and was not found.
    Unknown,
}

impl Party {
    /// The id of the party's own cgroup, where it is known.
    #[inline(always)]
    pub const fn cgroup(&self) -> Option<u64> {
        match self {
            Self::Cgroup(id) => Some(*id),
            Self::Below(_) | Self::Address(_) | Self::LeftToIngress | Self::Nobody | Self::Unknown => None,
        }
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
    /// The port the caller sends from, where this may be a reply of a connectionless protocol: the receiving end
    /// asked before (or this end is bound to that port), so a rule that runs the other way covers it.
    pub reply_port: Option<Port>,
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
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 10] = [
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
        }
    }

    /// Which end of an attempt the hook sees.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Connect4 | Self::Connect6 | Self::Sendmsg4 | Self::Sendmsg6 => Direction::Egress,
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
            (Address(v6), true),
        ] {
            assert_eq!(address.is_loopback_or_unspecified(), expected, "{address:?}");
        }
        v6[15] = 1;
        assert!(Address(v6).is_loopback_or_unspecified());
        v6[15] = 2;
        assert!(!Address(v6).is_loopback_or_unspecified());
        v6[15] = 1;
        v6[0] = 0xfe;
        assert!(!Address(v6).is_loopback_or_unspecified());
    }

    #[test]
    fn v4_round_trips_through_its_mapped_form() {
        assert_eq!(Address::from_v4([10, 1, 2, 3]).to_v4(), Some([10, 1, 2, 3]));
        assert_eq!(Address([0; 16]).to_v4(), None);
    }

    #[test]
    fn hooks_are_found_by_their_number_and_no_other() {
        for hook in Hook::ALL {
            assert_eq!(Hook::from_raw(hook as u8), Some(hook));
        }
        assert_eq!(Hook::from_raw(0), None);
        assert_eq!(Hook::from_raw(11), None);
    }

    #[test]
    fn ports_are_big_endian() {
        assert_eq!(Port::new(0x1234).0, [0x12, 0x34]);
        assert_eq!(Port::new(443).number(), 443);
    }
}
