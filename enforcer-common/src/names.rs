//! Names of the maps and globals, once; programs are named by their [`Hook`](crate::Hook).

/// In an object that tests alone load: the number of the check that it negates.
pub const NEGATED: &str = "NEGATED";
/// What is in force: one `u32`, [`Active`](crate::layout::Active).
pub const ACTIVE: &str = "ACTIVE";
/// Per slot: the revision of the policy that it holds.
pub const REVISIONS: &str = "REVISIONS";
/// Per slot: cgroup id → owner, and state of its path in the automaton of selectors.
pub const CGROUPS: &str = "CGROUPS";
/// Per slot: class of every byte in cgroup names.
pub const CLASSES: &str = "CLASSES";
/// Per slot: transitions of the automaton of selectors.
pub const TRANSITIONS: &str = "TRANSITIONS";
/// Per slot: state in which a path is claimed → owner.
pub const CLAIMANTS: &str = "CLAIMANTS";
/// Per slot: pair of identities → port ranges.
pub const EDGES: &str = "EDGES";
/// Which cgroup calls which at which port → what permits it; kept by the programs.
pub const VERDICTS: &str = "VERDICTS";
/// Per slot: address prefix → identity of a network set.
pub const NETWORKS: &str = "NETWORKS";
/// Per slot: reserved port → owner.
pub const RESERVED: &str = "RESERVED";
/// Per slot: service and protocol → permitted to create such sockets.
pub const PROTOCOLS: &str = "PROTOCOLS";
/// Addresses of this host, by the network namespace that sees them; not of the policy, so there is one.
pub const LOCALS: &str = "LOCALS";
/// Network devices that the host has taken in.
pub const DEVICES: &str = "DEVICES";
/// Network namespaces that the host was told of and has not looked at since.
pub const STRANGERS: &str = "STRANGERS";
/// Prefixes of addresses that only this host's own network namespaces can have.
pub const NEIGHBOURS: &str = "NEIGHBOURS";
/// Per CPU: the cgroup that a tracepoint is about; of the programs alone.
pub const SCRATCH: &str = "SCRATCH";
/// Per CPU: what a packet says of its flow; of the programs alone.
pub const HEADERS: &str = "HEADERS";
/// Socket storage: who bound a socket, and whether it asked.
pub const SOCKETS: &str = "SOCKETS";
/// The event ring buffer.
pub const EVENTS: &str = "EVENTS";
/// Per-CPU counters.
pub const COUNTERS: &str = "COUNTERS";
/// What one daemon leaves to the next about the events that it has told of; of the host alone.
pub const LEDGER: &str = "LEDGER";

/// Global, `u64`: the cookie of the network namespace whose addresses and ports the policy speaks of; 0 where the kernel
/// (below 5.14) cannot tell it to the host, which then means every namespace.
pub const HOST_NETNS: &str = "HOST_NETNS";

/// Global, [`Offsets`](crate::layout::Offsets): where the running kernel keeps what a cgroup is known by.
pub const OFFSETS: &str = "OFFSETS";
/// Global, [`TaskFields`](crate::layout::TaskFields): where it keeps what a record says of a task.
pub const TASK_FIELDS: &str = "TASK_FIELDS";
/// The program that identifies a new cgroup, and the tracepoint it is on.
pub const CGROUP_MKDIR: &str = "cgroup_mkdir";
/// The program that forgets a cgroup, and the tracepoint it is on.
pub const CGROUP_RELEASE: &str = "cgroup_release";

/// Global, `u8`: 1 if the programs are attached to the root of the cgroup tree, so that the ingress hook sees every
/// socket of the host. Otherwise a listener whose owner is unknown may be outside of what is judged.
pub const WHOLE_TREE: &str = "WHOLE_TREE";

/// Global, `u8`, of aya-log: the most verbose level that the programs log at; 0 for none.
pub const AYA_LOG_LEVEL: &str = "AYA_LOG_LEVEL";
