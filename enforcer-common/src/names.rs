//! Names of the maps and globals, once; programs are named by their [`Hook`](crate::Hook).

/// Which slot is in force: one `u32`, 0 or 1.
pub const ACTIVE: &str = "ACTIVE";
/// Per slot: what is true of the whole slot.
pub const META: &str = "META";
/// Per slot: cgroup id → owner.
pub const CGROUPS: &str = "CGROUPS";
/// Per slot: pair of identities → port ranges.
pub const EDGES: &str = "EDGES";
/// Per slot: address prefix → identity of a network set.
pub const NETWORKS: &str = "NETWORKS";
/// Per slot: reserved port → owner.
pub const RESERVED: &str = "RESERVED";
/// Per slot: service and protocol → permitted to create such sockets.
pub const PROTOCOLS: &str = "PROTOCOLS";
/// Addresses of this host; not of the policy, so there is one.
pub const LOCALS: &str = "LOCALS";
/// Socket storage: who bound a socket, and whether it asked.
pub const SOCKETS: &str = "SOCKETS";
/// The event ring buffer.
pub const EVENTS: &str = "EVENTS";
/// Per-CPU counters.
pub const COUNTERS: &str = "COUNTERS";

/// The cookie of the network namespace whose addresses and ports the policy speaks of; 0 where the kernel
/// (below 5.14) cannot tell it to the host, which then means every namespace.
pub const HOST_NETNS: &str = "HOST_NETNS";
