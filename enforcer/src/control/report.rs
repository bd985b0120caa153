//! What the control socket tells, made of what the loop knows, the cgroup tree and `/proc`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Instant, SystemTime};

use enforcer_common::counter::{Counter, Outcome};
use enforcer_common::layout::Owner;
use enforcer_common::{Hook, Identity, Protocol, Reason, Tables as _, limits};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::api;
use super::{Refusal, Snapshot};
use crate::audit;
use crate::cgroups;
use crate::containers::Container;
use crate::ephemeral::Ephemeral;
use crate::kernel::feature;
use crate::netns;
use crate::policy::{self, PortRange, Selector, nearest};
use crate::proc::{Scan, Task, Waiting};
use crate::revision::{Origin, Revision};
use crate::tables::diff::{self, PortSet};

/// Near misses that are told of one cgroup.
const MISSES: usize = 3;

/// Programs that pass on what others say, in their own name, by the name of their executable.
const PROXIES: [(&str, &str); 9] = [
    ("docker-proxy", "answers published ports of Docker's containers"),
    ("rootlessport", "answers published ports of rootless Podman's containers"),
    ("rootlesskit", "answers published ports of rootless containers"),
    ("slirp4netns", "calls for rootless containers"),
    ("pasta", "calls and answers for rootless containers"),
    ("pasta.avx2", "calls and answers for rootless containers"),
    ("passt", "calls and answers for virtual machines"),
    ("passt.avx2", "calls and answers for virtual machines"),
    ("systemd-socket-proxyd", "answers for the service that it is told to call"),
];

/// What the host looks like, read away from the loop.
pub struct Host {
    cgroups: Vec<Node>,
    by_path: HashMap<PathBuf, usize>,
    scan: Scan,
    addresses: Vec<IpAddr>,
    /// Inode number of this process's network namespace.
    netns: u64,
    /// Where the whole tree is, of which `cgroups` may be a part.
    mount: PathBuf,
}

/// A cgroup that is there.
struct Node {
    id: u64,
    path: PathBuf,
    owner: Owner,
    /// The selectors that name it, by number of the service and of its selector.
    claims: Vec<(usize, usize)>,
    /// The cgroup from which it has its owner: itself or one that it lies in.
    claimed_at: Option<usize>,
}

impl Host {
    /// Reads the cgroup tree, and `/proc` until `deadline`.
    ///
    /// # Errors
    ///
    /// One of them cannot be read at all.
    pub fn look(snapshot: &Snapshot, deadline: Instant) -> io::Result<Self> {
        let mount = feature::cgroup2().map_err(io::Error::other)?;
        let mut host = Self {
            cgroups: Vec::new(),
            by_path: HashMap::new(),
            scan: Scan::take(&mount, deadline).map_err(io::Error::other)?,
            addresses: addresses()?,
            netns: std::fs::metadata("/proc/self/ns/net")?.ino(),
            mount: mount.directory,
        };
        let tables = &snapshot.revision.tables;
        let mut states: HashMap<u64, (u32, usize)> = HashMap::new();
        snapshot.subtree.walk(|found| {
            let path = cgroups::bytes(found.path);
            let (state, owner, claimed_at) = match found.parent.and_then(|parent| states.get(&parent)) {
                Some((state, parent)) => {
                    let name = found.path.file_name().unwrap_or_default();
                    let state = tables.claims.child(*state, name.as_encoded_bytes());
                    let parent = &host.cgroups[*parent];
                    (state, parent.owner, parent.claimed_at)
                }
                None => (tables.claims.state(path), tables.owner_of_path(path), None),
            };
            let number = host.cgroups.len();
            let claimant = tables.claims.claimants.get(&state).copied();
            let mut claims = if claimant.is_some() { claims(&snapshot.revision, path) } else { Vec::new() };
            if let Some(container) = snapshot.containers.get(&found.id) {
                claims.extend(selecting(&snapshot.revision, container));
            }
            host.cgroups.push(Node {
                id: found.id,
                path: found.path.to_path_buf(),
                // What the kernel decides by comes first; a runtime may have told whose a container is.
                owner: snapshot.owners.get(&found.id).copied().unwrap_or(claimant.unwrap_or(owner)),
                claims,
                claimed_at: if claimant.is_some() { Some(number) } else { claimed_at },
            });
            host.by_path.insert(found.path.to_path_buf(), number);
            states.insert(found.id, (state, number));
            Ok::<(), io::Error>(())
        })?;
        Ok(host)
    }

    fn node(&self, path: &Path) -> Option<&Node> {
        self.by_path.get(path).and_then(|number| self.cgroups.get(*number))
    }

    /// Whether there is such a cgroup, also outside of what is judged.
    fn exists(&self, path: &Path) -> bool {
        let below = path.strip_prefix("/").unwrap_or(path);
        // Whoever may ask for a cgroup is not told of other directories.
        let is_below = below.components().all(|name| matches!(name, Component::Normal(_)));
        self.node(path).is_some() || is_below && self.mount.join(below).is_dir()
    }
}

/// The addresses of this network namespace's interfaces.
fn addresses() -> nix::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| interface.address);
    let ip = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(addresses.filter_map(ip).collect())
}

/// The selectors that name a cgroup, by number of the service and of its selector.
fn claims(revision: &Revision, path: &[u8]) -> Vec<(usize, usize)> {
    let services = revision.tables.services.iter().enumerate();
    services
        .flat_map(|(service, declared)| {
            let selectors = declared.selectors.iter().enumerate();
            selectors.filter(|(_, selector)| selector.matches(path)).map(move |(number, _)| (service, number))
        })
        .collect()
}

fn selector_of(revision: &Revision, (service, selector): (usize, usize)) -> Option<api::SelectorOf> {
    let service = revision.tables.services.get(service)?;
    let selector = service.selectors.get(selector)?.to_string();
    Some(api::SelectorOf { service: service.name.clone(), selector })
}

fn name(revision: &Revision, identity: Identity) -> String {
    revision.identities.name(identity).unwrap_or("unknown").to_owned()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn process(task: &Task) -> api::Process {
    api::Process { pid: task.pid, comm: task.comm.clone(), exe: task.exe.as_deref().map(text) }
}

fn endpoint(waiting: &Waiting) -> api::Endpoint {
    api::Endpoint {
        protocol: audit::protocol(waiting.protocol).into_owned(),
        address: waiting.at.ip(),
        port: waiting.at.port(),
        netns: waiting.netns,
    }
}

/// Seconds until a moment, rounded up; 0 if it is over.
fn seconds_until(moment: Instant) -> u64 {
    let left = moment.saturating_duration_since(Instant::now());
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// How the policy in force stands.
pub fn policy_state(snapshot: &Snapshot) -> api::PolicyState {
    let Revision { policy, tables, documents, .. } = &*snapshot.revision;
    api::PolicyState {
        revision: tables.revision,
        directory: text(&snapshot.directory),
        origin: String::from(match snapshot.revision.origin {
            Origin::Directory => "directory",
            Origin::Applied => "applied",
            Origin::Adopted => "adopted",
        }),
        sha256: snapshot.revision.sha256(),
        since: snapshot.revision.since.map(time),
        documents: documents.len(),
        services: policy.services.len(),
        networks: policy.networks.len(),
        rules: policy.rules.len(),
        audited: policy
            .services
            .iter()
            .filter(|service| service.mode == enforcer_common::Mode::Audit)
            .map(|service| service.name.clone())
            .collect(),
        confirm_within_seconds: snapshot.confirm_by.map(seconds_until),
    }
}

/// The policy in force, with its text.
pub fn policy(snapshot: &Snapshot) -> api::Policy {
    let documents = snapshot.revision.documents.iter();
    api::Policy {
        state: policy_state(snapshot),
        documents: documents
            .map(|document| api::Document { file: text(&document.file), text: document.text.to_string() })
            .collect(),
    }
}

/// The mode of every service.
pub fn modes(snapshot: &Snapshot) -> api::Modes {
    let services = snapshot.revision.policy.services.iter();
    api::Modes {
        revision: snapshot.revision.tables.revision,
        services: services
            .map(|service| api::ModeOf {
                service: service.name.clone(),
                mode: audit::mode(service.mode).to_owned(),
            })
            .collect(),
    }
}

/// How everything stands.
pub fn status(snapshot: &Snapshot, host: &Host) -> api::Status {
    let count = |counter| snapshot.counts.get(counter);
    let kernel = kernel(snapshot);
    let coverage = coverage(snapshot, host);
    let outcomes = Reason::ALL.iter().flat_map(|reason| Outcome::ALL.map(|outcome| (outcome, *reason)));
    let mut status = api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: time(snapshot.started_at),
        uptime_seconds: snapshot.started.elapsed().as_secs(),
        cgroup_root: text(&snapshot.subtree.path),
        policy: policy_state(snapshot),
        kernel,
        decisions: outcomes
            .map(|(outcome, reason)| api::Decisions {
                outcome: outcome.code().to_owned(),
                reason: reason.code().to_owned(),
                count: count(Counter::decisions(outcome, reason)),
            })
            .filter(|decisions| decisions.count > 0)
            .collect(),
        events: api::Events {
            produced: snapshot.log.recovered + count(Counter::EVENTS_WRITTEN) + count(Counter::EVENTS_LOST),
            recovered: snapshot.log.recovered,
            written: snapshot.log.written,
            lost: count(Counter::EVENTS_LOST) + snapshot.log.lost,
            ring_bytes: limits::RING_BYTES,
            audit: text(&snapshot.log.path),
        },
        records: snapshot.records,
        cgroups: api::Cgroups {
            known: u64::try_from(snapshot.owners.len()).unwrap_or(u64::MAX),
            failed: count(Counter::CGROUPS_FAILED),
            notes_failed: count(Counter::NOTES_FAILED),
            news_lost: count(Counter::CGROUP_NEWS_LOST),
            verdicts_not_kept: count(Counter::VERDICTS_NOT_KEPT),
        },
        degraded: Vec::new(),
        coverage,
    };
    status.degraded = degraded(&status, snapshot);
    let policy = &snapshot.revision.policy;
    if let Some(text) = Ephemeral::read().ok().and_then(|ephemeral| ephemeral.advice(policy)) {
        status.degraded.push(api::Degradation { code: String::from("reserved-ports-ephemeral"), text });
    }
    status
}

fn kernel(snapshot: &Snapshot) -> api::Kernel {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    api::Kernel {
        release: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cgroups_identified_by: String::from(if snapshot.kernel_identifies { "kernel" } else { "daemon" }),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        bpf_lsm: read("/sys/kernel/security/lsm").split(',').any(|module| module.trim() == "bpf"),
        hooks: Hook::ALL.iter().map(|hook| hook.name().to_owned()).collect(),
    }
}

/// What is not as it should be, and what to do about it.
fn degraded(status: &api::Status, snapshot: &Snapshot) -> Vec<api::Degradation> {
    let mut degraded = Vec::new();
    let mut tell = |code: &str, text: String| {
        degraded.push(api::Degradation { code: code.to_owned(), text });
    };
    if let Some(seconds) = status.policy.confirm_within_seconds {
        tell(
            "unconfirmed",
            format!("the policy before comes back in {seconds} s; `enforcer policy confirm` keeps this one"),
        );
    } else if status.policy.origin == "applied" {
        let directory = &status.policy.directory;
        tell("applied", format!("a reload or a restart brings back what is in {directory}"));
    }
    if let Some(refused) = &snapshot.refused {
        let first = refused.lines().next().unwrap_or_default();
        tell("reload-refused", format!("the policy in {} cannot be used: {first}", status.policy.directory));
    }
    if status.kernel.cgroups_identified_by == "daemon" {
        let text = "a process is unknown, which is denied, for the first moment of its cgroup; a kernel with BTF \
                    leaves no such moment";
        tell("identified-by-daemon", text.to_owned());
    }
    if status.cgroups.failed > 0 {
        let failed = status.cgroups.failed;
        tell(
            "cgroups-failed",
            format!(
                "{failed} cgroups could not be entered and are unknown; a reload enters those that there is room for"
            ),
        );
    }
    if status.cgroups.notes_failed > 0 {
        let failed = status.cgroups.notes_failed;
        tell("notes-failed", format!("the owners of {failed} sockets could not be noted for want of memory"));
    }
    if status.events.lost > 0 {
        let lost = status.events.lost;
        tell("events-lost", format!("{lost} decisions are counted and not in the audit log"));
    }
    if status.records.lost > 0 {
        let lost = status.records.lost;
        let text = format!("{lost} records of what the daemon did are counted and not in the audit log");
        tell("records-lost", text);
    }
    if snapshot.log.stuck {
        tell("audit-log", format!("the audit log {} takes nothing", super::audit_name(&status.events.audit)));
    }
    if let Some(err) = &snapshot.log.not_opened {
        let audit = super::audit_name(&status.events.audit);
        tell(
            "audit-log-not-opened",
            format!("{audit} cannot be opened again, and the file before is written to: {err}"),
        );
    }
    for tampering in &snapshot.tampering {
        let (objects, error) = (tampering.objects.join(", "), tampering.error.as_deref().unwrap_or_default());
        tell(tampering.deed.code(), format!("what somebody has done to {objects} is not put back: {error}"));
    }
    if snapshot.refuses_new {
        let text = "nothing new is permitted to services until decisions are written down again, as \
                    `on_audit_loss: deny_new` wants it";
        tell("refusing-new", text.to_owned());
    }
    if !status.coverage.overlapping_claims.is_empty() {
        let number = status.coverage.overlapping_claims.len();
        tell(
            "overlapping-claims",
            format!("{number} cgroups are claimed by more than one service and so unknown"),
        );
    }
    if !status.coverage.pending_containers.is_empty() {
        let number = status.coverage.pending_containers.len();
        tell(
            "containers-pending",
            format!("{number} containers are denied everything until their runtime tells what they are"),
        );
    }
    if !status.coverage.complete {
        let text = "not every process could be looked at, for want of time or since its cgroup is nested too deep to be \
                    named; the coverage is of those that were seen";
        tell("coverage-incomplete", text.to_owned());
    }
    degraded
}

fn coverage(snapshot: &Snapshot, host: &Host) -> api::Coverage {
    let revision = &snapshot.revision;
    let matched: HashSet<(usize, usize)> = host.cgroups.iter().flat_map(|node| node.claims.clone()).collect();
    let declared = revision.tables.services.iter().enumerate();
    let unmatched_selectors = declared
        .flat_map(|(service, declared)| {
            (0..declared.selectors.len()).map(move |selector| (service, selector))
        })
        .filter(|place| !matched.contains(place))
        .filter_map(|place| selector_of(revision, place))
        .collect();
    let overlapping_claims = host
        .cgroups
        .iter()
        .filter(|node| node.claimed_at.is_some() && node.owner.identity() == Identity::UNKNOWN)
        .filter(|node| !node.claims.is_empty())
        .map(|node| api::Overlap {
            cgroup: text(&node.path),
            claims: node.claims.iter().filter_map(|place| selector_of(revision, *place)).collect(),
        })
        .collect();
    api::Coverage {
        complete: host.scan.complete,
        unmatched_selectors,
        unknown_listeners: unknown_listeners(snapshot, host),
        overlapping_claims,
        pending_containers: pending(host).map(|node| text(&node.path)).collect(),
        foreign_programs: snapshot
            .foreign_programs
            .iter()
            .map(|(hook, program)| api::ForeignProgram { hook: (*hook).to_owned(), program: *program })
            .collect(),
        proxies: proxies(snapshot, host),
        limits: limits_of_design(),
    }
}

/// The selectors that select a container, by number of the service and of its selector.
fn selecting(revision: &Revision, container: &Container) -> Vec<(usize, usize)> {
    let services = revision.tables.services.iter().enumerate();
    let selectors = services.flat_map(|(service, declared)| {
        declared.selectors.iter().enumerate().map(move |(number, selector)| ((service, number), selector))
    });
    let selecting = selectors.filter(|(_, selector)| match selector {
        Selector::Container(selector) => selector.matches(container),
        Selector::Systemd(_) | Selector::Cgroup(_) => false,
    });
    selecting.map(|(place, _)| place).collect()
}

/// The cgroups of containers of which no runtime has told yet, without what lies below them.
fn pending(host: &Host) -> impl Iterator<Item = &Node> {
    let is_pending = |node: &Node| node.owner.identity() == Identity::PENDING;
    let above = |node: &Node| node.path.parent().and_then(|parent| host.node(parent));
    host.cgroups.iter().filter(move |node| is_pending(node) && !above(node).is_some_and(is_pending))
}

fn unknown_listeners(snapshot: &Snapshot, host: &Host) -> Vec<api::UnknownListener> {
    let holders = host.scan.holders();
    // With a part of the tree only, the rest of the host is none of its business unless it shares a network.
    let shared: HashSet<u64> = host
        .scan
        .tasks
        .iter()
        .filter(|task| host.by_path.contains_key(&task.cgroup))
        .map(|task| task.netns)
        .collect();
    let mut unknown = Vec::new();
    for waiting in host.scan.waiting.iter().filter(|waiting| shared.contains(&waiting.netns)) {
        let tasks = holders.get(&waiting.inode).map(Vec::as_slice).unwrap_or_default();
        // The first process holds the sockets that it hands to units.
        let handed = tasks.len() > 1;
        let tasks = tasks.iter().filter(|task| !(handed && task.pid == 1));
        let cgroups: BTreeSet<&Path> = tasks.map(|task| task.cgroup.as_path()).collect();
        let owners: BTreeSet<Option<Identity>> =
            cgroups.iter().map(|path| host.node(path).map(|node| node.owner.identity())).collect();
        let why = match owners.iter().collect::<Vec<_>>().as_slice() {
            [] => String::from("no process has it"),
            [None] => format!("its processes are outside of {}", snapshot.subtree.path.display()),
            [Some(Identity::UNKNOWN)] => String::from("more than one service claims its cgroup"),
            [Some(_)] => continue,
            _ => String::from("processes of different owners have it"),
        };
        let cgroups = cgroups.into_iter().map(text).collect();
        unknown.push(api::UnknownListener { at: endpoint(waiting), why, cgroups });
    }
    unknown.sort_by(|a, b| a.at.cmp(&b.at));
    unknown
}

fn limits_of_design() -> Vec<api::Limit> {
    let limit = |(code, text): (&str, &str)| api::Limit { code: code.to_owned(), text: text.to_owned() };
    api::Limit::ALL.map(limit).to_vec()
}

fn proxies(snapshot: &Snapshot, host: &Host) -> Vec<api::Proxy> {
    let mut found = Vec::new();
    for task in &host.scan.tasks {
        let Some(node) = host.node(&task.cgroup) else { continue };
        let Some(program) = task.exe.as_deref().and_then(proxy) else { continue };
        let ports = host.scan.waiting.iter().filter(|waiting| task.sockets.contains(&waiting.inode));
        found.push(api::Proxy {
            name: program.to_owned(),
            process: process(task),
            cgroup: text(&task.cgroup),
            service: name(&snapshot.revision, node.owner.identity()),
            ports: ports.map(endpoint).collect(),
        });
    }
    found
}

/// What a proxy is known as, by its executable.
fn proxy(exe: &Path) -> Option<&'static str> {
    let file = exe.file_name().and_then(OsStr::to_str)?;
    // The kernel marks an executable that was replaced, as by an upgrade.
    let file = file.strip_suffix(" (deleted)").unwrap_or(file);
    PROXIES.iter().find(|(program, _)| *program == file).map(|(program, _)| *program)
}

/// Every service, and what it consists of at present.
pub fn services(snapshot: &Snapshot, host: &Host) -> api::Services {
    let revision = &snapshot.revision;
    let mut processes: HashMap<&Path, Vec<&Task>> = HashMap::new();
    for task in &host.scan.tasks {
        processes.entry(&task.cgroup).or_default().push(task);
    }
    let waiting: HashMap<u64, &Waiting> =
        host.scan.waiting.iter().map(|waiting| (waiting.inode, waiting)).collect();
    let mut matches: HashMap<(usize, usize), usize> = HashMap::new();
    let mut of_service: BTreeMap<Identity, Vec<api::Cgroup>> = BTreeMap::new();
    for node in &host.cgroups {
        for place in &node.claims {
            *matches.entry(*place).or_default() += 1;
        }
        let Some(matched) = node.claimed_at.and_then(|at| matched(revision, host.cgroups.get(at)?)) else {
            continue;
        };
        let tasks = processes.get(node.path.as_path()).map(Vec::as_slice).unwrap_or_default();
        let ports: BTreeSet<api::Endpoint> = tasks
            .iter()
            .flat_map(|task| &task.sockets)
            .filter_map(|inode| waiting.get(inode))
            .map(|waiting| endpoint(waiting))
            .collect();
        of_service.entry(node.owner.identity()).or_default().push(api::Cgroup {
            path: text(&node.path),
            id: node.id,
            matched,
            processes: tasks.iter().map(|task| process(task)).collect(),
            ports: ports.into_iter().collect(),
        });
    }
    let declared = revision.tables.services.iter().zip(&revision.policy.services).enumerate();
    let services = declared
        .map(|(number, (owner, declared))| {
            let mut cgroups = of_service.remove(&owner.owner.identity()).unwrap_or_default();
            cgroups.sort_by(|a, b| a.path.cmp(&b.path));
            let selectors = owner.selectors.iter().enumerate();
            api::Service {
                name: owner.name.clone(),
                mode: audit::mode(owner.owner.mode()).to_owned(),
                selectors: selectors
                    .map(|(selector, text)| api::Selector {
                        selector: text.to_string(),
                        matches: matches.get(&(number, selector)).copied().unwrap_or(0),
                    })
                    .collect(),
                reserves: declared.listens.iter().map(ports).collect(),
                cgroups,
            }
        })
        .collect();
    api::Services { revision: revision.tables.revision, complete: host.scan.complete, services }
}

fn matched(revision: &Revision, node: &Node) -> Option<api::Match> {
    let selector = selector_of(revision, *node.claims.first()?)?.selector;
    Some(api::Match { selector, cgroup: text(&node.path) })
}

/// Ports as policies write them.
fn ports(range: &PortRange) -> String {
    match *range {
        PortRange::Protocol(protocol) => audit::protocol(protocol).into_owned(),
        PortRange::Ports { protocol, low, high } if low == high => {
            format!("{low}/{}", audit::protocol(protocol))
        }
        PortRange::Ports { protocol, low, high } => format!("{low}-{high}/{}", audit::protocol(protocol)),
    }
}

/// What somebody wants to know the identity of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A process.
    Process(i32),
    /// A cgroup, by its path from the top of the tree.
    Cgroup(PathBuf),
    /// Whoever answers at an address, over a protocol or any.
    Address(SocketAddr, Option<Protocol>),
}

impl Subject {
    /// Reads `PID`, `/CGROUP/PATH` or `ADDRESS:PORT[/PROTOCOL]`. A path of the file system at which the tree is
    /// mounted, `mount`, is taken for the cgroup that it is.
    ///
    /// # Errors
    ///
    /// What it should look like.
    pub fn parse(text: &str, mount: &Path) -> Result<Self, String> {
        if text.starts_with('/') {
            let path = Path::new(text);
            let below = path.strip_prefix(mount).ok().filter(|_| mount != Path::new("/"));
            let path = below.map_or_else(|| path.to_path_buf(), |below| Path::new("/").join(below));
            return cgroups::as_named(&path).map(Self::Cgroup).ok_or_else(|| {
                format!(
                    "read `{text}`: no cgroup has `..` behind a name\n\
                     hint: write it like /system.slice/nginx.service"
                )
            });
        }
        if let Ok(pid) = text.parse::<i32>()
            && pid > 0
        {
            return Ok(Self::Process(pid));
        }
        let (address, protocol) = text.split_once('/').map_or((text, None), |(at, word)| (at, Some(word)));
        let protocol = match protocol {
            None => Some(None),
            Some("tcp") => Some(Some(Protocol::TCP)),
            Some("udp") => Some(Some(Protocol::UDP)),
            Some(_) => None,
        };
        match (address.parse(), protocol) {
            (Ok(at), Some(protocol)) => Ok(Self::Address(at, protocol)),
            _ => Err(format!(
                "read `{text}`: not a process id, a cgroup or an address\n\
                 hint: write it like 4711, /system.slice/nginx.service, 127.0.0.1:5432 or [::1]:53/udp"
            )),
        }
    }
}

/// Who `subject` is.
///
/// # Errors
///
/// There is no such process.
pub fn identity(
    of: &str,
    subject: &Subject,
    snapshot: &Snapshot,
    host: &Host,
) -> Result<api::Identity, String> {
    let answers = match subject {
        Subject::Process(pid) => {
            let task = host.scan.tasks.iter().find(|task| task.pid == *pid);
            let task = task.ok_or_else(|| not_seen(*pid))?;
            let mut answer = of_cgroup(&task.cgroup, snapshot, host);
            answer.processes.push(process(task));
            vec![answer]
        }
        Subject::Cgroup(path) => vec![of_cgroup(path, snapshot, host)],
        Subject::Address(at, protocol) => of_address(*at, *protocol, snapshot, host),
    };
    Ok(api::Identity { of: of.to_owned(), answers })
}

/// Why a process was not seen.
fn not_seen(pid: i32) -> String {
    let group =
        procfs::process::Process::new(pid).and_then(|process| process.status()).map(|status| status.tgid);
    match group {
        Err(_) => format!("look up process {pid}: there is none"),
        Ok(group) if group != pid => {
            format!("look up process {pid}: it is a thread\nhint: ask for its process, {group}")
        }
        Ok(_) => format!("look up process {pid}: it cannot be told in which cgroup it is"),
    }
}

fn of_cgroup(path: &Path, snapshot: &Snapshot, host: &Host) -> api::Identified {
    let revision = &snapshot.revision;
    let owner = revision.tables.owner_of_path(cgroups::bytes(path));
    // The nearest cgroup that a selector names decides.
    let claim = path.ancestors().find_map(|at| {
        let claims = claims(revision, cgroups::bytes(at));
        (!claims.is_empty()).then_some((at, claims))
    });
    let service = name(revision, owner.identity());
    let exists = host.exists(path);
    let outside = !path.starts_with(&snapshot.subtree.path);
    let mut matched = None;
    let mut nearest = Vec::new();
    let explanation = match &claim {
        Some((at, claims)) if owner.identity() == Identity::UNKNOWN => {
            let claims = claims.iter().filter_map(|place| selector_of(revision, *place));
            let claims: Vec<String> =
                claims.map(|claim| format!("`{}` by {}", claim.service, claim.selector)).collect();
            format!("{} is claimed by {}: it is unknown, which is denied", at.display(), claims.join(" and "))
        }
        Some((at, claims)) => {
            let selector = claims.first().and_then(|place| selector_of(revision, *place));
            let selector = selector.map(|claim| claim.selector).unwrap_or_default();
            let explanation = if *at == path {
                format!("`{selector}` of service `{service}` names it")
            } else {
                format!("it lies in {}, which `{selector}` of service `{service}` names", at.display())
            };
            matched = Some(api::Match { selector, cgroup: text(at) });
            explanation
        }
        None => {
            nearest = misses(path, revision);
            let hint = nearest.first().map(|miss: &api::Miss| {
                format!(
                    "; the nearest is `{}` of service `{}`, but {}",
                    miss.selector, miss.service, miss.why
                )
            });
            format!("no selector names it or a cgroup that it lies in{}", hint.unwrap_or_default())
        }
    };
    let explanation = if outside {
        format!("{explanation}; it is outside of {}, and so unknown here", snapshot.subtree.path.display())
    } else {
        explanation
    };
    let is_service = owner.identity().is_service() && !outside;
    api::Identified {
        service: if outside { String::from("unknown") } else { service },
        mode: is_service.then(|| audit::mode(owner.mode()).to_owned()),
        cgroup: Some(text(path)),
        exists,
        matched,
        nearest,
        at: None,
        processes: Vec::new(),
        explanation,
    }
}

fn misses(path: &Path, revision: &Revision) -> Vec<api::Miss> {
    let path = path.to_string_lossy();
    let mut misses = Vec::new();
    for service in &revision.tables.services {
        for selector in &service.selectors {
            if let Some(miss) = nearest::miss(selector, &path) {
                misses.push((miss, service.name.clone(), selector.to_string()));
            }
        }
    }
    misses.sort();
    let nearest = misses.into_iter().take(MISSES);
    nearest.map(|(miss, service, selector)| api::Miss { service, selector, why: miss.why }).collect()
}

/// Who waits at an address of this host, or what networks another host's is in.
fn of_address(
    at: SocketAddr,
    protocol: Option<Protocol>,
    snapshot: &Snapshot,
    host: &Host,
) -> Vec<api::Identified> {
    let ip = at.ip().to_canonical();
    let holders = host.scan.holders();
    let answers = |waiting: &&Waiting| {
        let bound = waiting.at.ip().to_canonical();
        waiting.at.port() == at.port()
            && protocol.is_none_or(|protocol| protocol == waiting.protocol)
            && (bound == ip || (bound.is_unspecified() && (bound.is_ipv6() || ip.is_ipv4())))
    };
    let local = ip.is_loopback() || ip.is_unspecified() || host.addresses.contains(&ip);
    let bound_to_it = |waiting: &Waiting| waiting.at.ip().to_canonical() == ip;
    let mut found = Vec::new();
    for waiting in host.scan.waiting.iter().filter(answers) {
        // Loopback is each namespace's own, and a listener for every address says nothing about addresses of others.
        let is_here = local && waiting.netns == host.netns;
        if !is_here && (local || !bound_to_it(waiting)) {
            continue;
        }
        let mut of_cgroups: BTreeMap<&Path, Vec<&Task>> = BTreeMap::new();
        for task in holders.get(&waiting.inode).into_iter().flatten() {
            of_cgroups.entry(&task.cgroup).or_default().push(task);
        }
        if of_cgroups.is_empty() {
            let explanation = "a socket waits there, but no process that can be seen has it";
            found.push(api::Identified { at: Some(endpoint(waiting)), ..nobody("unknown", explanation) });
        }
        for (cgroup, tasks) in of_cgroups {
            let mut answer = of_cgroup(cgroup, snapshot, host);
            answer.at = Some(endpoint(waiting));
            answer.processes = tasks.into_iter().map(process).collect();
            found.push(answer);
        }
    }
    if !found.is_empty() {
        return found;
    }
    let address = match ip {
        IpAddr::V4(v4) => enforcer_common::Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => enforcer_common::Address::new(v6.octets()),
    };
    let revision = &snapshot.revision;
    let network = revision.tables.network(&address).unwrap_or(Identity::WORLD);
    let service = name(revision, network);
    if local {
        let mut explanation = format!("{ip} is this host's, and nobody waits at port {}", at.port());
        if !ip.is_loopback() && !ip.is_unspecified() {
            explanation += &format!("; a call to it is judged as one to {}", service.replace(',', " and "));
        }
        return vec![nobody("unknown", &explanation)];
    }
    if netns::cookie().is_ok_and(|own| snapshot.neighbours.have(own, &address)) {
        let explanation = format!(
            "only a network namespace of this host can have {ip}, and none is seen to wait there at port {}",
            at.port()
        );
        return vec![nobody("unknown", &explanation)];
    }
    let explanation = if network == Identity::WORLD {
        format!("{ip} is not of this host and in no declared network")
    } else {
        format!("{ip} is not of this host and in {}", service.replace(',', " and in "))
    };
    vec![nobody(&service, &explanation)]
}

/// Somebody of whom no cgroup is known.
fn nobody(service: &str, explanation: &str) -> api::Identified {
    api::Identified {
        service: service.to_owned(),
        mode: None,
        cgroup: None,
        exists: false,
        matched: None,
        nearest: Vec::new(),
        at: None,
        processes: Vec::new(),
        explanation: explanation.to_owned(),
    }
}

/// What a new policy opens and closes.
pub fn changes(before: &Revision, after: &Revision) -> api::Diff {
    let diff = diff::diff(&before.tables, &after.tables, &after.identities);
    let rule = |revision: &Revision, rule: &enforcer_common::RuleId| {
        let number = usize::try_from(rule.0).ok()?;
        revision.tables.rules.get(number).map(|rule| rule.name.to_string())
    };
    let end = |end: &diff::End| {
        if end.before == end.after {
            end.after.clone()
        } else {
            format!("{} (now {})", end.before, end.after)
        }
    };
    let mode = |mode: Option<enforcer_common::Mode>| mode.map(|mode| audit::mode(mode).to_owned());
    api::Diff {
        revision: before.tables.revision,
        warnings: after.warnings.clone(),
        pairs: diff
            .pairs
            .iter()
            .map(|pair| {
                let revision = if pair.opened { after } else { before };
                api::PairChange {
                    from: end(&pair.from),
                    to: end(&pair.to),
                    change: String::from(if pair.opened { "opened" } else { "closed" }),
                    ports: pair.ports.words(),
                    rules: pair.rules.iter().filter_map(|id| rule(revision, id)).collect(),
                    mode: audit::mode(pair.mode).to_owned(),
                }
            })
            .collect(),
        services: diff
            .services
            .iter()
            .map(|change| api::ServiceChange {
                service: change.name.clone(),
                change: String::from(match (change.before, change.after) {
                    (None, _) => "added",
                    (_, None) => "removed",
                    (Some(_), Some(_)) => "changed",
                }),
                mode_before: mode(change.before),
                mode_after: mode(change.after),
                becomes: change.becomes.clone(),
                selectors_added: change.selectors_added.clone(),
                selectors_removed: change.selectors_removed.clone(),
            })
            .collect(),
        reserved: diff
            .reserved
            .iter()
            .map(|change| api::ReservedChange {
                ports: PortSet::words(&change.ports).join(", "),
                before: change.before.clone(),
                after: change.after.clone(),
            })
            .collect(),
        defaults: diff::defaults(&before.policy, &after.policy)
            .into_iter()
            .map(|change| api::DefaultChange {
                name: change.name.to_owned(),
                before: change.before.to_owned(),
                after: change.after.to_owned(),
            })
            .collect(),
        dying: None,
    }
}

/// The documents of a proposal, as the policy reader takes them.
///
/// # Errors
///
/// There are none.
pub fn documents(proposal: &api::Proposal) -> Result<Vec<policy::Document>, Refusal> {
    if proposal.documents.is_empty() {
        let text = "read policy: no document\nhint: a policy that changes nothing is `version: 1`";
        return Err(Refusal::Failed(String::from(text)));
    }
    let mut documents: Vec<policy::Document> = proposal
        .documents
        .iter()
        .map(|document| policy::Document::new(&document.file, document.text.as_str()))
        .collect();
    // As a directory is read, so that rules have the same order and the hash is the same.
    documents.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(documents)
}
