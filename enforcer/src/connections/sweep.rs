//! Closes the live connections that a policy denies, in a thread of its own: entering network namespaces is a thread's
//! affair, and events must be read meanwhile.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use enforcer_common::layout::Owner;
use enforcer_common::{Decision, Mode, Reason, Verdict};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc as reports;
use tracing::error;

use super::in_force::InForce;
use super::survey::Survey;
use super::{Connection, Judgement, Snapshot, judge};
use crate::failpoint;
use crate::kernel::{CgroupOwners, MapError, Tally};
use crate::namespaces::Neighbours;
use crate::policy::Existing;
use crate::privileges;
use crate::revision::Revision;
use crate::vital;

/// Looks at most that one order takes: each finds what the one before could not see yet.
const MAX_LOOKS: u32 = 16;

/// After this time a call that an earlier policy permitted has become a socket that a look finds, a socket whose other
/// end was missing has it, and the owner of a new cgroup is in the tables.
const SETTLING: Duration = Duration::from_millis(100);

/// How long to wait before everything is judged again where not all could be read.
const AGAIN: Duration = Duration::from_secs(5);

/// Connections that are told of at once.
const BATCH: usize = 256;

/// Batches that wait to be written; then the sweep waits.
const MAX_WAITING: usize = 64;

/// Why connections are judged, in the order in which they are if more than one is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The enforcer has started.
    Start,
    /// A new policy is in force.
    Reload,
    /// A container is somebody else than it was, by its runtime's word.
    Container,
}

impl Cause {
    /// The stable word for it in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Container => "container",
        }
    }
}

/// What was done with a connection that the policy denies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// It was closed at both ends.
    Closed,
    /// It stays, as the policy says of older connections.
    Kept,
    /// It stays, but would be closed outside of audit.
    WouldClose,
    /// It stays, since the kernel did not close it.
    Failed,
}

impl Action {
    /// The stable word for it in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Kept => "kept",
            Self::WouldClose => "would-close",
            Self::Failed => "failed",
        }
    }
}

/// What is to be done with a connection; nothing if it is permitted, or was spared when the enforcer started.
///
/// `spared` tells that it is older than the enforcer and was let live then. It stays so as long as the policy says so.
pub fn action(cause: Cause, existing: Existing, spared: bool, decision: &Decision) -> Option<Action> {
    match (decision.verdict, decision.mode) {
        (Verdict::Allow, _) => return None,
        (Verdict::Deny, Mode::Audit | Mode::Enforce) => {}
    }
    let treatment = match (cause, spared) {
        (Cause::Start, _) => existing,
        (Cause::Reload | Cause::Container, false) => Existing::Close,
        (Cause::Reload | Cause::Container, true) if existing == Existing::Close => Existing::Close,
        (Cause::Reload | Cause::Container, true) => return None,
    };
    Some(match (treatment, decision.mode) {
        (Existing::Keep, _) => Action::Kept,
        (Existing::Audit, _) | (Existing::Close, Mode::Audit) => Action::WouldClose,
        (Existing::Close, Mode::Enforce) => Action::Closed,
    })
}

/// Whether a connection is denied only until a runtime tells what a container is; whoever that is, it is judged then.
fn is_pending(decision: &Decision) -> bool {
    matches!(decision.reason, Reason::SourcePending | Reason::DestinationPending)
}

/// Something to write down.
#[derive(Debug)]
pub enum Report {
    /// Connections that the policy of this revision denies.
    Denied(Cause, u32, Vec<Told>),
    /// Something kept connections from being judged or closed.
    Trouble(String),
    /// All connections have been judged by the policy of this revision.
    Done {
        /// Why.
        cause: Cause,
        /// Which.
        revision: u32,
        /// How long it took.
        took: Duration,
        /// The sockets that are older than the enforcer.
        older: Older,
    },
}

/// What became of one connection.
#[derive(Debug)]
pub struct Told {
    /// The connection.
    pub connection: Connection,
    /// What was done.
    pub action: Action,
    /// Why it failed.
    pub error: Option<String>,
}

/// Sockets that are older than the enforcer, by their cookies, which are good until the next boot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Older {
    /// Those that were let live.
    pub spared: HashSet<u64>,
    /// Those with an end of which it is not known yet who it is.
    pub undecided: HashSet<u64>,
}

/// The thread, as the daemon speaks with it.
pub struct Sweeper {
    orders: mpsc::Sender<Order>,
    reports: reports::Receiver<Report>,
    ending: Arc<AtomicBool>,
    /// The revision that is in force, or about to be.
    in_force: Arc<AtomicU32>,
}

enum Order {
    Judge(Sentence),
    /// Leave everything alone until the next order.
    Wait,
}

/// By what connections are judged.
struct Sentence {
    cause: Cause,
    revision: Arc<Revision>,
    owners: CgroupOwners,
    neighbours: Arc<Neighbours>,
}

impl Sweeper {
    /// Starts the thread. It judges connections of the cgroups in the subtree at `subtree`, the path from the top of the
    /// cgroup tree. `older` is what an earlier daemon knew of sockets that are older than the enforcer; in `tally` each
    /// record is counted that is to be written of them.
    ///
    /// # Errors
    ///
    /// There is no room for a thread.
    pub fn start(subtree: PathBuf, older: Older, tally: Tally) -> io::Result<Self> {
        let (orders, incoming) = mpsc::channel();
        let (outgoing, reports) = reports::channel(MAX_WAITING);
        let ending = Arc::new(AtomicBool::new(false));
        let in_force = Arc::new(AtomicU32::new(0));
        let worker = Worker {
            subtree,
            incoming,
            outgoing,
            ending: ending.clone(),
            in_force: in_force.clone(),
            older,
            tally,
            unreadable: HashSet::new(),
        };
        vital::spawn("connections", move || {
            // It was made before the daemon gave up what only starting takes.
            match privileges::keep_only(privileges::SERVING) {
                Ok(()) => worker.run(),
                Err(err) => error!("judge live connections: give up capabilities: {err}"),
            }
        })?;
        Ok(Self { orders, reports, ending, in_force })
    }

    /// Has every live connection judged by `revision`, which is in force.
    ///
    /// # Errors
    ///
    /// The thread has ended.
    pub fn order(
        &self,
        cause: Cause,
        revision: Arc<Revision>,
        owners: CgroupOwners,
        neighbours: Arc<Neighbours>,
    ) -> io::Result<()> {
        self.expect(revision.tables.revision);
        self.send(Order::Judge(Sentence { cause, revision, owners, neighbours }))
    }

    /// Has nothing more closed by another revision than this one, which is in force or about to be: an order that is under way
    /// would close what the next policy permits.
    pub fn expect(&self, revision: u32) {
        self.in_force.store(revision, Ordering::SeqCst);
    }

    /// Has every connection left alone until the next order, also by one that is under way.
    ///
    /// # Errors
    ///
    /// The thread has ended.
    pub fn wait(&self) -> io::Result<()> {
        self.send(Order::Wait)
    }

    fn send(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).map_err(|_ended| io::Error::other("the thread for connections has ended"))
    }

    /// Waits for a report; `None` if the thread has ended.
    pub async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Tells the thread to end, after which [`report`](Self::report) tells what it has done and then nothing more.
    pub fn end(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // It may be waiting for an order.
        self.orders = mpsc::channel().0;
    }
}

struct Worker {
    subtree: PathBuf,
    incoming: mpsc::Receiver<Order>,
    outgoing: reports::Sender<Report>,
    ending: Arc<AtomicBool>,
    in_force: Arc<AtomicU32>,
    older: Older,
    tally: Tally,
    /// What was said already of namespaces that cannot be read.
    unreadable: HashSet<String>,
}

/// What one order remembers between its looks.
#[derive(Default)]
struct Progress {
    /// Cookies of sockets whose connection was told of.
    told: HashSet<u64>,
    /// Since when a socket's connection was denied by what may change.
    doubted: HashMap<u64, Instant>,
}

/// What one look came to.
#[derive(Default)]
struct Look {
    /// Connections that were denied and not told of before, or still had to be closed.
    found: usize,
    /// Connections that are denied by what may change.
    doubted: usize,
    /// Whether something could not be read that may be read at another try.
    is_in_part: bool,
}

/// There is nobody left to tell anything, or nothing more is to be done.
struct Ended;

impl Worker {
    fn run(mut self) {
        let mut next = self.incoming.recv().ok();
        while let Some(order) = next.take() {
            let served = match self.newest(order) {
                Order::Judge(order) => self.serve(&order),
                Order::Wait => Ok(None),
            };
            match served {
                Ok(Some(newer)) => next = Some(newer),
                Ok(None) => next = self.incoming.recv().ok(),
                Err(Ended) => return,
            }
        }
    }

    /// The last of the orders that wait, so that a thousand containers which become known are not looked at a thousand
    /// times. The first one of all is never passed over: it alone knows what is older than the enforcer.
    fn newest(&self, mut order: Order) -> Order {
        loop {
            if let Order::Judge(Sentence { cause: Cause::Start, .. }) = order {
                return order;
            }
            let Ok(mut newer) = self.incoming.try_recv() else { return order };
            if let (Order::Judge(Sentence { cause: Cause::Reload, .. }), Order::Judge(newer)) =
                (&order, &mut newer)
            {
                newer.cause = Cause::Reload;
            }
            order = newer;
        }
    }

    /// Looks until nothing is found any longer, and once more when everything has settled; again and again where something could
    /// not be read. Returns a newer order if one has come, which judges everything again.
    fn serve(&mut self, order: &Sentence) -> Result<Option<Order>, Ended> {
        let start = Instant::now();
        let mut progress = Progress::default();
        let (mut looks, mut settled) = (0, false);
        loop {
            let look = match self.look(order, &mut progress)? {
                Ok(look) => look,
                Err(err) => {
                    self.tell(Report::Trouble(format!("read owners of cgroups: {err}")))?;
                    Look { is_in_part: true, ..Look::default() }
                }
            };
            looks += 1;
            let is_over = look.found == 0 && look.doubted == 0 && settled;
            let wait = match look {
                Look { is_in_part: true, .. } if is_over || looks >= MAX_LOOKS => AGAIN,
                _ if is_over || looks >= MAX_LOOKS => break,
                Look { found: 0, .. } => SETTLING,
                _ => Duration::ZERO,
            };
            match self.incoming.recv_timeout(wait) {
                Ok(newer) => return Ok(Some(newer)),
                Err(RecvTimeoutError::Timeout) => settled |= wait >= SETTLING,
                Err(RecvTimeoutError::Disconnected) => return Err(Ended),
            }
        }
        self.tell(Report::Done {
            cause: order.cause,
            revision: order.revision.tables.revision,
            took: start.elapsed(),
            older: self.older.clone(),
        })?;
        Ok(None)
    }

    fn look(&mut self, order: &Sentence, progress: &mut Progress) -> Result<Result<Look, MapError>, Ended> {
        let mut survey = Survey::take(&self.subtree, order.neighbours.clone());
        // What has been seen was there before another policy came into force. The first look of all is not left out, since it
        // alone knows what is older than the enforcer.
        let is_in_force = self.in_force.load(Ordering::SeqCst) == order.revision.tables.revision;
        if order.cause != Cause::Start && !is_in_force {
            return Ok(Ok(Look::default()));
        }
        for trouble in std::mem::take(&mut survey.snapshot.unreadable) {
            if self.unreadable.insert(trouble.clone()) {
                self.tell(Report::Trouble(trouble))?;
            }
        }
        let in_force = match owners(&order.owners, &survey.snapshot) {
            Ok(owners) => InForce::new(&order.revision.tables, owners),
            Err(err) => return Ok(Err(err)),
        };
        let Judgement { connections, .. } = judge(&survey.snapshot, &in_force);
        let is_in_part = survey.snapshot.is_worth_another_try;
        if !is_in_part {
            let alive: HashSet<u64> = survey.snapshot.sockets.iter().map(|socket| socket.cookie).collect();
            self.older.spared.retain(|cookie| alive.contains(cookie));
            self.older.undecided.retain(|cookie| alive.contains(cookie));
        }

        let mut look = Look { is_in_part, ..Look::default() };
        let (mut told, mut closing) = (Vec::new(), Vec::new());
        for connection in connections {
            let cookies: Vec<u64> =
                connection.sockets().map(|place| survey.snapshot.sockets[place].cookie).collect();
            let spared = cookies.iter().any(|cookie| self.older.spared.contains(cookie));
            if is_pending(&connection.decision) {
                if order.cause == Cause::Start {
                    self.older.undecided.extend(&cookies);
                }
                continue;
            }
            let undecided = cookies.iter().any(|cookie| self.older.undecided.contains(cookie));
            let cause = if undecided { Cause::Start } else { order.cause };
            let Some(action) = action(cause, order.revision.tables.existing, spared, &connection.decision)
            else {
                self.decided(&cookies);
                continue;
            };
            if connection.may_change && !progress.is_settled(&cookies) {
                look.doubted += 1;
                continue;
            }
            let is_new = !cookies.iter().any(|cookie| progress.told.contains(cookie));
            progress.told.extend(&cookies);
            self.decided(&cookies);
            if action == Action::Closed {
                look.found += 1;
                closing.push((connection, is_new));
                continue;
            }
            if cause == Cause::Start && order.revision.tables.existing != Existing::Close {
                self.older.spared.extend(&cookies);
            }
            if is_new {
                look.found += 1;
                told.push(Told { connection, action, error: None });
            }
        }
        self.tally.add(number(told.len()));
        self.tell_all(order, &mut told)?;
        for batch in closing.chunks(BATCH) {
            if self.ending.load(Ordering::Relaxed) {
                return Err(Ended);
            }
            // Before the first is closed: if the daemon is killed meanwhile, the next one counts them all as lost.
            let announced = number(batch.iter().filter(|(_, is_new)| *is_new).count());
            self.tally.add(announced);
            let mut told = close(&mut survey, batch);
            self.tally.take_back(announced.saturating_sub(number(told.len())));
            failpoint::pass("connections-ended");
            self.tell_all(order, &mut told)?;
            failpoint::pass("connections-closed");
        }
        Ok(Ok(look))
    }

    fn decided(&mut self, cookies: &[u64]) {
        for cookie in cookies {
            self.older.undecided.remove(cookie);
        }
    }

    fn tell_all(&self, order: &Sentence, told: &mut Vec<Told>) -> Result<(), Ended> {
        while !told.is_empty() {
            let rest = told.split_off(told.len().min(BATCH));
            let batch = std::mem::replace(told, rest);
            self.tell(Report::Denied(order.cause, order.revision.tables.revision, batch))?;
        }
        Ok(())
    }

    fn tell(&self, report: Report) -> Result<(), Ended> {
        self.outgoing.blocking_send(report).map_err(|_nobody_listens| Ended)
    }
}

impl Progress {
    /// Whether a doubtful denial has lasted.
    fn is_settled(&mut self, cookies: &[u64]) -> bool {
        let now = Instant::now();
        let since = cookies.iter().map(|cookie| *self.doubted.entry(*cookie).or_insert(now)).min();
        since.is_some_and(|since| now.duration_since(since) >= SETTLING)
    }
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Closes connections; those that are new are to be told of, except where they have ended by themselves meanwhile.
fn close(survey: &mut Survey, batch: &[(Connection, bool)]) -> Vec<Told> {
    let places: Vec<usize> = batch.iter().flat_map(|(connection, _)| connection.sockets()).collect();
    let mut results = survey.destroy(&places).into_iter();
    let mut told = Vec::new();
    for (connection, is_new) in batch {
        let said: Vec<io::Result<()>> = results.by_ref().take(connection.sockets().count()).collect();
        let Some((action, error)) = outcome(&said) else { continue };
        if *is_new {
            told.push(Told { connection: connection.clone(), action, error });
        }
    }
    told
}

/// What closing the sockets of one connection has come to; nothing if it was not there any longer.
fn outcome(said: &[io::Result<()>]) -> Option<(Action, Option<String>)> {
    if said.iter().any(Result::is_ok) {
        return Some((Action::Closed, None));
    }
    let failed = said.iter().filter_map(|said| said.as_ref().err());
    let mut failed = failed.filter(|err| err.kind() != io::ErrorKind::NotFound);
    let err = failed.next()?;
    let hint = if err.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) {
        "\nhint: the kernel must be built with CONFIG_INET_DIAG_DESTROY"
    } else {
        ""
    };
    Some((Action::Failed, Some(format!("close connection: {err}{hint}"))))
}

/// The owners of the cgroups that sockets of a snapshot are of.
fn owners(of: &CgroupOwners, snapshot: &Snapshot) -> Result<HashMap<u64, Owner>, MapError> {
    let ids: HashSet<u64> = snapshot.sockets.iter().filter_map(|socket| socket.cgroup).collect();
    let mut owners = HashMap::with_capacity(ids.len());
    for id in ids {
        if let Some(owner) = of.owner(id)? {
            owners.insert(id, owner);
        }
    }
    Ok(owners)
}
