//! Overlapping networks, resolved: every prefix to the exact set of networks that its addresses are in.

use std::collections::HashMap;
use std::net::IpAddr;

use enforcer_common::{Address, Identity};

use super::{CapacityError, Limits};
use crate::identities::Identities;
use crate::policy::{Cidr, Network};

/// The first bits of a 128-bit address; the others are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// The first address that begins with these bits; an IPv4 prefix stands in its mapped form.
    pub address: Address,
    /// Leading bits that count, 0 to 128; of an IPv4 prefix 96 more than it is written with.
    pub length: u8,
}

impl Prefix {
    /// Where the IPv4 addresses are: `::ffff:0:0/96`.
    const V4: Self =
        Self { address: Address::from_v4([0; 4]), length: Address::V4_PREFIX_BITS.to_le_bytes()[0] };

    /// Whether `address` begins with these bits.
    pub fn contains(&self, address: &Address) -> bool {
        *self == Self::new(*address, self.length)
    }

    /// The first `length` bits of `address`.
    pub(super) fn new(address: Address, length: u8) -> Self {
        let mask = !u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        Self { address: Address::new((u128::from_be_bytes(address.bytes()) & mask).to_be_bytes()), length }
    }

    /// How many leading bits the first address shares with `address`.
    pub(super) fn common_bits(&self, address: &Address) -> u8 {
        let difference = u128::from_be_bytes(self.address.bytes()) ^ u128::from_be_bytes(address.bytes());
        difference.leading_zeros().to_le_bytes()[0]
    }

    pub(super) fn encloses(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(&other.address)
    }
}

impl From<Cidr> for Prefix {
    fn from(cidr: Cidr) -> Self {
        match cidr.address {
            IpAddr::V4(v4) => Self::new(Address::from_v4(v4.octets()), Self::V4.length + cidr.prefix),
            IpAddr::V6(v6) => Self::new(Address::new(v6.octets()), cidr.prefix),
        }
    }
}

/// What [`compile`] makes of the networks of a policy.
pub(super) struct Compiled {
    /// Sorted. The longest prefix that contains an address leads to the set it is in.
    pub(super) prefixes: Vec<(Prefix, Identity)>,
    /// By number of the network: the sets that contain it.
    pub(super) sets_of: Vec<Vec<Identity>>,
    /// All sets, [`Identity::WORLD`] not among them.
    pub(super) sets: Vec<Identity>,
}

/// Only the prefixes that the policy writes are ever needed: the longest of them around an address is nested in all
/// others around it, and so knows which networks include the address and which make an exception of it.
pub(super) fn compile(
    networks: &[Network],
    identities: &mut Identities,
    limits: &Limits,
) -> Result<Compiled, CapacityError> {
    let mentions = mentions(networks);
    let mut sets = Sets {
        networks,
        identities,
        by_members: HashMap::new(),
        member_count: 0,
        member_limit: limits.network_set_members,
        compiled: Compiled {
            prefixes: Vec::new(),
            sets_of: vec![Vec::new(); networks.len()],
            sets: Vec::new(),
        },
    };
    // The prefixes around the current one, outermost first.
    let mut around: Vec<Nested> = Vec::new();
    let mut prefix_count = 0;
    for group in mentions.chunk_by(|a, b| a.prefix == b.prefix) {
        let Some(Mention { prefix, .. }) = group.first() else { continue };
        while around.last().is_some_and(|outer| !outer.prefix.encloses(prefix)) {
            around.pop();
        }
        let outer = around.last();
        let inherited = outer.filter(|_| *prefix != Prefix::V4);
        let mut members = inherited.map(|outer| outer.members.clone()).unwrap_or_default();
        let mut excepted = inherited.map(|outer| outer.excepted.clone()).unwrap_or_default();
        let named = |wanted: Kind| group.iter().filter(move |m| m.kind == wanted).map(|m| m.network);
        unite(&mut excepted, named(Kind::Except));
        unite(&mut members, named(Kind::Cidr));
        members.retain(|network| excepted.binary_search(network).is_err());
        let identity = sets.identity(&members)?;
        if outer.map_or(Identity::WORLD, |outer| outer.identity) != identity {
            prefix_count += 1;
            if prefix_count <= limits.prefixes {
                sets.compiled.prefixes.push((*prefix, identity));
            }
        }
        around.push(Nested { prefix: *prefix, members, excepted, identity });
    }
    if prefix_count > limits.prefixes {
        return Err(CapacityError::Prefixes { number: prefix_count, limit: limits.prefixes });
    }
    Ok(sets.compiled)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mention {
    prefix: Prefix,
    kind: Kind,
    network: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// No network says it: a prefix of IPv6 does not reach into the addresses that stand for IPv4.
    FamilyBorder,
    Cidr,
    Except,
}

struct Nested {
    prefix: Prefix,
    /// Sorted numbers of the networks that include the prefix.
    members: Vec<usize>,
    /// Sorted numbers of the networks that exclude it, whatever they say about longer prefixes.
    excepted: Vec<usize>,
    identity: Identity,
}

/// Sorted such that a prefix follows those that enclose it.
fn mentions(networks: &[Network]) -> Vec<Mention> {
    let mut mentions = Vec::new();
    for (number, network) in networks.iter().enumerate() {
        let mention = |kind| move |cidr: &Cidr| Mention { prefix: (*cidr).into(), kind, network: number };
        mentions.extend(network.cidrs.iter().map(mention(Kind::Cidr)));
        mentions.extend(network.except.iter().map(mention(Kind::Except)));
    }
    if mentions.iter().any(|mention| mention.prefix.length < Prefix::V4.length) {
        mentions.push(Mention { prefix: Prefix::V4, kind: Kind::FamilyBorder, network: 0 });
    }
    mentions.sort_unstable();
    mentions
}

fn unite(sorted: &mut Vec<usize>, more: impl Iterator<Item = usize>) {
    let before = sorted.len();
    sorted.extend(more);
    if sorted.len() > before {
        sorted.sort_unstable();
        sorted.dedup();
    }
}

struct Sets<'a> {
    networks: &'a [Network],
    identities: &'a mut Identities,
    by_members: HashMap<Vec<usize>, Identity>,
    member_count: usize,
    member_limit: usize,
    compiled: Compiled,
}

impl Sets<'_> {
    fn identity(&mut self, members: &[usize]) -> Result<Identity, CapacityError> {
        if members.is_empty() {
            return Ok(Identity::WORLD);
        }
        if let Some(identity) = self.by_members.get(members) {
            return Ok(*identity);
        }
        self.member_count += members.len();
        if self.member_count > self.member_limit {
            return Err(CapacityError::NetworkSetMembers {
                number: self.member_count,
                limit: self.member_limit,
            });
        }
        let mut names: Vec<&str> =
            members.iter().filter_map(|number| self.networks.get(*number)).map(|n| n.name.as_str()).collect();
        names.sort_unstable();
        let identity = self.identities.intern_network_set(&names).ok_or(CapacityError::Identities)?;
        for number in members {
            if let Some(sets) = self.compiled.sets_of.get_mut(*number) {
                sets.push(identity);
            }
        }
        self.by_members.insert(members.to_vec(), identity);
        self.compiled.sets.push(identity);
        Ok(identity)
    }
}
