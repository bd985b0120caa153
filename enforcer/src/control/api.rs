//! What goes over the control socket: the bodies of requests and answers, as `openapi.yaml` describes them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Every path, with the method that it is for. `openapi.yaml` has the same ones.
pub const ENDPOINTS: [(&str, &str); 12] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/services"),
    ("GET", "/v1/identity"),
    ("GET", "/v1/connections"),
    ("GET", "/v1/mode"),
    ("GET", "/v1/policy"),
    ("POST", "/v1/policy/diff"),
    ("POST", "/v1/policy/apply"),
    ("POST", "/v1/policy/confirm"),
    ("POST", "/v1/reload"),
    ("GET", "/v1/events"),
    ("GET", "/v1/openapi.yaml"),
];

/// Seconds within which a policy may be to be confirmed: up to a year.
pub const CONFIRM_WITHIN: RangeInclusive<u64> = 1..=31_536_000;

/// Answer to everything that is refused or failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// What could not be done, and why.
    pub error: String,
    /// What may help.
    pub hint: Option<String>,
}

/// Answer of `GET /v1/status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When this daemon began to enforce: RFC 3339, UTC.
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// The cgroup whose subtree is judged; `/` is the whole tree.
    pub cgroup_root: String,
    /// The policy in force.
    pub policy: PolicyState,
    /// What the kernel offers.
    pub kernel: Kernel,
    /// How many decisions there were since then, by outcome and reason; those that are zero are left out. What was decided before,
    /// also while no daemon ran, is not among them.
    pub decisions: Vec<Decisions>,
    /// What became of the events that the programs told of.
    pub events: Events,
    /// The kernel's table of cgroups.
    pub cgroups: Cgroups,
    /// What became of the records of what daemons themselves did.
    pub records: Records,
    /// What is not as it should be.
    pub degraded: Vec<Degradation>,
    /// What is not under control.
    pub coverage: Coverage,
}

/// The policy in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyState {
    /// Counts its changes, from 1.
    pub revision: u32,
    /// Where a reload reads it from.
    pub directory: String,
    /// `directory`, `applied` through this socket, or `adopted` from an earlier daemon while the directory cannot be used.
    pub origin: String,
    /// SHA-256 of its documents one after the other.
    pub sha256: String,
    /// Since when it is in force: RFC 3339, UTC. None if an earlier daemon has put it in force, so that it is older than this one.
    pub since: Option<String>,
    /// How many documents, services, networks and rules it has.
    pub documents: usize,
    /// Likewise.
    pub services: usize,
    /// Likewise.
    pub networks: usize,
    /// Likewise.
    pub rules: usize,
    /// Services in audit mode. What is denied passes where no end of it is a service in enforce mode.
    pub audited: Vec<String>,
    /// Seconds that are left to confirm it, before the policy before comes back.
    pub confirm_within_seconds: Option<u64>,
}

/// What the kernel offers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// `kernel`: no process ever runs unidentified; `daemon`: it is unknown for the first moment of its cgroup.
    pub cgroups_identified_by: String,
    /// Whether it describes its own types (BTF).
    pub btf: bool,
    /// Whether BPF is among its security modules. Nothing here needs it.
    pub bpf_lsm: bool,
    /// The hooks that decide.
    pub hooks: Vec<String>,
}

/// How often an attempt ended in the same way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decisions {
    /// `allowed`, `denied` or `would-deny`.
    pub outcome: String,
    /// The word for the reason, as records have it.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// What became of the events that the programs told of, since this daemon runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Events {
    /// How many there were, with those that were recovered.
    pub produced: u64,
    /// How many of them were left by earlier daemons, in whose time or after which they were decided, and were written by this one.
    pub recovered: u64,
    /// How many this daemon has written to the audit log.
    pub written: u64,
    /// How many are lost, whatever the cause.
    pub lost: u64,
    /// Bytes of the ring buffer between kernel and daemon.
    pub ring_bytes: u32,
    /// Where the audit log is; `-` is the daemon's standard output.
    pub audit: String,
}

/// What became of the records of what daemons themselves did or noticed: live connections, policies, containers, tampering.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Records {
    /// How many this daemon had to write, with those that are lost with earlier ones.
    pub made: u64,
    /// How many are in the audit log; those that wait for it are on neither side.
    pub written: u64,
    /// How many are lost, with an earlier daemon or since the log took nothing.
    pub lost: u64,
}

/// The kernel's table of cgroups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cgroups {
    /// How many it holds.
    pub known: u64,
    /// How many could not be entered, and so are unknown, which is denied.
    pub failed: u64,
    /// Sockets whose owner could not be noted for want of memory.
    pub notes_failed: u64,
    /// Cgroups whose coming or going was not told for want of room in the ring buffer; their names were read again.
    pub news_lost: u64,
    /// Verdicts that could not be kept, for want of room or of memory, and were made anew.
    pub verdicts_not_kept: u64,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Degradation {
    /// A stable word for it.
    pub code: String,
    /// What is the matter, and what to do.
    pub text: String,
}

/// What is not under control.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Whether the whole host was looked at before the deadline.
    pub complete: bool,
    /// Selectors that no cgroup answers to at present.
    pub unmatched_selectors: Vec<SelectorOf>,
    /// Sockets that wait for somebody and whose owner cannot be told.
    pub unknown_listeners: Vec<UnknownListener>,
    /// Cgroups that more than one service claims: they are unknown, which is denied.
    pub overlapping_claims: Vec<Overlap>,
    /// Cgroups of containers of which no runtime has told yet: they are denied everything.
    pub pending_containers: Vec<String>,
    /// Programs of others on the hooks that decide: they can refuse what the policy permits, and permit nothing that it refuses.
    pub foreign_programs: Vec<ForeignProgram>,
    /// Processes that pass on what others say, in their own name.
    pub proxies: Vec<Proxy>,
    /// What no enforcer of this kind has under control, on any host.
    pub limits: Vec<Limit>,
}

/// What stays open by design.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// A stable word for it.
    pub code: String,
    /// Who may do what.
    pub text: String,
}

impl Limit {
    /// Every limit. The bypass corpus tries each but the last two, and demands that it is open.
    pub const ALL: [(&str, &str); 7] = [
        (
            "handed-over-socket",
            "whoever is handed an open connection or a listener, moves with it, or takes it by pidfd_getfd, has its rights",
        ),
        (
            "shared-ring",
            "whoever may fill another's io_uring that a kernel thread empties (SQPOLL) calls in that one's name",
        ),
        ("proxy", "a proxy in user space calls in its own name, whoever asks it"),
        ("forged-packets", "whoever has CAP_NET_RAW can write packets in another's name with AF_PACKET"),
        (
            "shared-rxrpc",
            "calls by RxRPC without a port of their own leave by one socket of the kernel's, in the name of its first user",
        ),
        ("other-sockets", "AF_UNIX, vsock, TIPC and RDS are not judged"),
        (
            "root",
            "root, and whoever has CAP_BPF, CAP_SYS_ADMIN or CAP_NET_ADMIN or writes to others' cgroups, can defeat it",
        ),
    ];
}

/// A selector of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SelectorOf {
    /// The service.
    pub service: String,
    /// The selector.
    pub selector: String,
}

/// A socket that waits for somebody and whose owner cannot be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnknownListener {
    /// Where it waits.
    pub at: Endpoint,
    /// Why its owner cannot be told.
    pub why: String,
    /// The cgroups of the processes that have it.
    pub cgroups: Vec<String>,
}

/// Where a socket waits for somebody.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address; `0.0.0.0` and `::` are every one.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Inode number of the network namespace.
    pub netns: u64,
}

/// A cgroup that more than one service claims.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Overlap {
    /// Its path.
    pub cgroup: String,
    /// The selectors that name it.
    pub claims: Vec<SelectorOf>,
}

/// A program of somebody else on a hook that decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForeignProgram {
    /// The hook.
    pub hook: String,
    /// The program's id in the kernel.
    pub program: u32,
}

/// A process that passes on what others say, in its own name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proxy {
    /// What it is known as.
    pub name: String,
    /// The process.
    pub process: Process,
    /// Its cgroup.
    pub cgroup: String,
    /// In whose name it calls.
    pub service: String,
    /// The ports that it answers.
    pub ports: Vec<Endpoint>,
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
    /// Its executable, if that could be read.
    pub exe: Option<String>,
}

/// Answer of `GET /v1/services`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Services {
    /// The revision that declares them.
    pub revision: u32,
    /// Whether the whole host was looked at before the deadline.
    pub complete: bool,
    /// In the order of their names.
    pub services: Vec<Service>,
}

/// A service, and what it consists of at present.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// What selects its cgroups.
    pub selectors: Vec<Selector>,
    /// Ports that only it may bind.
    pub reserves: Vec<String>,
    /// Its cgroups, in the order of their paths.
    pub cgroups: Vec<Cgroup>,
}

/// A selector, and how many cgroups it names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Selector {
    /// As it is written.
    pub selector: String,
    /// How many cgroups it names at present, those below them not counted.
    pub matches: usize,
}

/// A cgroup of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its path from the top of the tree.
    pub path: String,
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// What makes it the service's.
    pub matched: Match,
    /// The processes in it.
    pub processes: Vec<Process>,
    /// Where they wait for somebody.
    pub ports: Vec<Endpoint>,
}

/// What makes a cgroup a service's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Match {
    /// The selector.
    pub selector: String,
    /// The cgroup that it names: this one, or one that this one lies in.
    pub cgroup: String,
}

/// Answer of `GET /v1/identity`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// What was asked for.
    pub of: String,
    /// Who it may be: one, or more where several sockets answer at one address.
    pub answers: Vec<Identified>,
}

/// Who something is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identified {
    /// A service, `unmanaged`, `unknown`, `world`, or networks.
    pub service: String,
    /// `enforce` or `audit`, of a service.
    pub mode: Option<String>,
    /// The cgroup, from the top of the tree; none for an address of another host.
    pub cgroup: Option<String>,
    /// Whether there is such a cgroup at present.
    pub exists: bool,
    /// What makes it the service's.
    pub matched: Option<Match>,
    /// Selectors that nearly match, and what they miss.
    pub nearest: Vec<Miss>,
    /// The socket, if an address was asked for.
    pub at: Option<Endpoint>,
    /// The processes that have it, or the one that was asked for.
    pub processes: Vec<Process>,
    /// All that in a sentence.
    pub explanation: String,
}

/// A selector that nearly matches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Miss {
    /// Its service.
    pub service: String,
    /// The selector.
    pub selector: String,
    /// What it misses.
    pub why: String,
}

/// Answer of `GET /v1/connections`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connections {
    /// The revision by which they are judged.
    pub revision: u32,
    /// Network namespaces that could not be read, and why.
    pub unreadable: Vec<String>,
    /// Those that concern a declared service.
    pub connections: Vec<Connection>,
}

/// A live connection, judged as if it were opened now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Who opened it, as far as can be told.
    pub from: ConnectionEnd,
    /// Who answers.
    pub to: ConnectionEnd,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// How far it has come: `opening`, `answering`, `open` or `closing`.
    pub state: String,
    /// `allow` or `deny`.
    pub verdict: String,
    /// `enforce`, or `audit` where every declared end is in that mode.
    pub mode: String,
    /// The word for the reason, as records have it.
    pub reason: String,
    /// The rule that permits it.
    pub rule: Option<String>,
    /// Whether it is older than the policy, which would refuse it.
    pub outdated: bool,
    /// Milliseconds that it is old at least; the kernel does not tell more. None for UDP.
    pub age_ms_at_least: Option<u64>,
    /// Bytes that went from the one that opened it and were confirmed; none for UDP.
    pub sent: Option<u64>,
    /// Bytes that came back.
    pub received: Option<u64>,
}

/// One end of a live connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ConnectionEnd {
    /// A service, `unmanaged`, `unknown`, `world`, or networks.
    pub service: String,
    /// Its cgroup; none for an address of another host.
    pub cgroup: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Answer of `GET /v1/mode`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Modes {
    /// The revision that says so.
    pub revision: u32,
    /// In the order of their names.
    pub services: Vec<ModeOf>,
}

/// The mode of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModeOf {
    /// The service.
    pub service: String,
    /// `enforce` or `audit`.
    pub mode: String,
}

/// Answer of `GET /v1/policy`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// How it stands.
    pub state: PolicyState,
    /// Its text.
    pub documents: Vec<Document>,
}

/// A policy file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its name.
    pub file: String,
    /// What is in it.
    pub text: String,
}

/// Body of `POST /v1/policy/diff` and `POST /v1/policy/apply`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// All the documents of the policy.
    pub documents: Vec<Document>,
    /// Only for `apply`: after so many seconds without a confirmation the policy before comes back, see [`CONFIRM_WITHIN`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_seconds: Option<u64>,
}

/// Answer of `POST /v1/policy/diff`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Diff {
    /// The revision that is compared with.
    pub revision: u32,
    /// What is questionable about the new policy.
    pub warnings: Vec<String>,
    /// What may be done that was denied, and the other way round, between ends that a rule of either policy names.
    pub pairs: Vec<PairChange>,
    /// Services that come, go or change.
    pub services: Vec<ServiceChange>,
    /// Ports that are reserved otherwise.
    pub reserved: Vec<ReservedChange>,
    /// Defaults that change, but for the mode, which is told of each service.
    pub defaults: Vec<DefaultChange>,
    /// Live connections that the new policy would close, as they were a moment ago; none is told where it is in force
    /// already, since records tell what it has closed.
    pub dying: Option<Vec<Connection>>,
}

/// Ports that are opened or closed between two ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PairChange {
    /// Who calls.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// `opened` or `closed`.
    pub change: String,
    /// The ports, as policies write them.
    pub ports: Vec<String>,
    /// The rules that open them, or that opened them before; none where nothing is denied between the two by one of the policies.
    pub rules: Vec<String>,
    /// `enforce`, or `audit` where the policy that denies them lets them pass and records it.
    pub mode: String,
}

/// A service that comes, goes or changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceChange {
    /// Its name.
    pub service: String,
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// Its mode before.
    pub mode_before: Option<String>,
    /// Its mode after.
    pub mode_after: Option<String>,
    /// Who those of its cgroups are from then on that it has no longer, as far as can be told without them: other services, `unmanaged`, `unknown`.
    pub becomes: Vec<String>,
    /// Selectors that it gets.
    pub selectors_added: Vec<String>,
    /// Selectors that it loses.
    pub selectors_removed: Vec<String>,
}

/// Ports that are reserved otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReservedChange {
    /// The ports, as policies write them.
    pub ports: String,
    /// Who may bind them before; everybody if none.
    pub before: Option<String>,
    /// Who may bind them after.
    pub after: Option<String>,
}

/// A default of the whole policy that changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DefaultChange {
    /// `existing`, `on_audit_loss` or `on_unsupported`.
    pub name: String,
    /// What it was.
    pub before: String,
    /// What it becomes.
    pub after: String,
}

/// Answer of `POST /v1/policy/apply`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The revision that is in force now.
    pub revision: u32,
    /// Seconds within which it must be confirmed.
    pub confirm_within_seconds: Option<u64>,
    /// What it changed.
    pub changes: Diff,
}

/// Answer of `POST /v1/policy/confirm` and `POST /v1/reload`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InForce {
    /// The revision that is in force.
    pub revision: u32,
}
