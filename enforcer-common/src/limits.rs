//! Every capacity, each with its reason. What does not fit is refused by the host with the number and the limit.

use crate::layout::EdgeValue;

/// Parts of one pair's port list: bounds the loop that the verifier walks.
pub const MAX_CHUNKS: u32 = 16;

/// Port ranges between one pair of ends, after merging.
pub const MAX_RANGES_PER_PAIR: usize = MAX_CHUNKS as usize * EdgeValue::RANGES;

/// Services in one policy: one host runs hundreds of units; this is two orders of magnitude above.
pub const MAX_SERVICES: usize = 65_536;

/// Selectors in one policy.
pub const MAX_SELECTORS: usize = 65_536;

/// Rules in one policy: what a generator may write for a large fleet.
pub const MAX_RULES: usize = 1_048_576;

/// Entries of `EDGES`: pairs, and further parts of long port lists. An entry takes about 120 bytes of kernel memory.
pub const MAX_EDGES: u32 = 4_194_304;

/// Places of `VERDICTS`: callers and the ports that they call, of which each has one place where it may be kept. If another one is
/// kept there, it is decided anew each time.
pub const MAX_VERDICTS: u32 = 16_384;

/// Bytes of such a place.
pub const VERDICT_PLACE_BYTES: usize = 64;

/// Prefixes of all networks together: a longest-prefix trie slows down past this.
pub const MAX_PREFIXES: u32 = 65_536;

/// Entries of `CGROUPS`: every cgroup of the host stands in it, declared or not.
pub const MAX_CGROUPS: u32 = 262_144;

/// Transitions of the automaton of selectors, each four bytes: 4,096 selectors of forty bytes take about a quarter.
pub const MAX_TRANSITIONS: u32 = 16 * 1024 * 1024;

/// States in which a path is claimed: a few for each selector.
pub const MAX_CLAIMANTS: u32 = 1024 * 1024;

/// Entries of `RESERVED`: every port of two protocols.
pub const MAX_RESERVED: u32 = 131_072;

/// Entries of `PROTOCOLS`.
pub const MAX_PROTOCOLS: u32 = 262_144;

/// Entries of `LOCALS`: each address of this host, once for every network namespace that sees it. 500 containers of two
/// addresses each make half a million.
pub const MAX_LOCALS: u32 = 1_048_576;

/// Entries of `DEVICES`: network devices in all network namespaces.
pub const MAX_DEVICES: u32 = 65_536;

/// Entries of `STRANGERS`: network namespaces that the host has been told of since it last looked around.
pub const MAX_STRANGERS: u32 = 4096;

/// Entries of `NEIGHBOURS`: prefixes behind the devices that lead to this host alone.
pub const MAX_NEIGHBOURS: u32 = 65_536;

/// Ancestors that a hook asks for a cgroup that is not in `CGROUPS`, where the kernel does not enter new ones itself; a
/// deeper one is unknown, which is denied.
pub const MAX_ANCESTORS: u32 = 16;

/// IPv6 extension headers that are walked before a packet counts as unparsable: RFC 8200 allows each kind once, and
/// hosts in practice send one or two.
pub const MAX_EXTENSION_HEADERS: u32 = 8;

/// Bytes of the event ring buffer: 8 MiB hold about 50,000 events, a second's worth under a flood of refusals.
pub const RING_BYTES: u32 = 8 * 1024 * 1024;
