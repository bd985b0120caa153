//! The control socket: HTTP and JSON over a Unix socket, for those who may ask and those who may change.
//!
//! [`server`] speaks with clients on a thread of its own, and [`Request`]s are what it may ask the daemon's loop for: each
//! carries its own way back, so that the loop never waits for a client. What takes time (reading `/proc`, compiling a
//! policy) is done by the server. [`client`] is the other end, used by the commands, and [`api`] what both speak.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use enforcer_common::layout::Owner;
use tokio::sync::oneshot;

use crate::audit::Peer;
use crate::cgroups::Subtree;
use crate::containers::Container;
use crate::kernel::Counts;
use crate::kernel::watch::Tampering;
use crate::namespaces::Neighbours;
use crate::revision::Revision;

pub mod api;
pub mod client;
pub mod connections;
pub mod peer;
pub mod report;
pub mod server;
mod text;

/// Where the socket is if nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/enforcer/control.sock";

/// What people call the audit log at a path.
fn audit_name(path: &str) -> &str {
    if path == "-" { "standard output" } else { path }
}

/// What the server asks the loop for.
#[derive(Debug)]
pub enum Request {
    /// How things stand.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Read the policy directory again. The answer is the revision in force, or why it is still the one before.
    Reload(Option<Peer>, oneshot::Sender<Result<u32, String>>),
    /// Put a compiled policy in force.
    Apply(Box<Proposal>, oneshot::Sender<Result<Applied, Refusal>>),
    /// Keep the policy that waits for it. The answer is its revision.
    Confirm(Option<Peer>, oneshot::Sender<Result<u32, Refusal>>),
}

/// A policy that somebody wants in force.
#[derive(Debug)]
pub struct Proposal {
    /// The policy, numbered as the successor of the one in force.
    pub revision: Revision,
    /// After which time without [`Request::Confirm`] the policy before comes back.
    pub confirm_within: Option<Duration>,
    /// Who wants it.
    pub by: Option<Peer>,
}

/// A policy was put in force.
#[derive(Debug)]
pub struct Applied {
    /// What was in force before.
    pub before: Arc<Revision>,
    /// What is in force now.
    pub after: Arc<Revision>,
}

/// Why the loop did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another policy has come into force since the proposal was compiled.
    #[error("put policy in force: another one came into force meanwhile")]
    Overtaken,
    /// One policy at a time can wait for a confirmation.
    #[error(
        "put policy in force: revision {0} waits to be confirmed\nhint: `enforcer policy confirm` keeps it"
    )]
    Unconfirmed(u32),
    /// No policy waits for a confirmation.
    #[error("confirm policy: none waits for it\nhint: the policy before comes back when the time is over")]
    NothingToConfirm,
    /// The kernel did not take it.
    #[error("{0}")]
    Failed(String),
}

/// How things stand with the daemon, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When this daemon began to enforce.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// What is in force.
    pub revision: Arc<Revision>,
    /// Until when a policy must be confirmed, if one waits for it.
    pub confirm_by: Option<Instant>,
    /// Where the policy is read from.
    pub directory: PathBuf,
    /// Why the last reload was refused, if it was.
    pub refused: Option<String>,
    /// The part of the cgroup tree that is judged.
    pub subtree: Subtree,
    /// Whether the kernel identifies new cgroups itself.
    pub kernel_identifies: bool,
    /// What the programs have counted.
    pub counts: Counts,
    /// Whether nothing new is permitted, since decisions cannot be written down.
    pub refuses_new: bool,
    /// The cgroups that the kernel's table holds, and whose they are there.
    pub owners: HashMap<u64, Owner>,
    /// Where only this host's network namespaces can be, as each sees it.
    pub neighbours: Arc<Neighbours>,
    /// The containers that runtimes have told of, by the ids of their own cgroups.
    pub containers: HashMap<u64, Container>,
    /// What somebody has done to programs and pins and could not be put back.
    pub tampering: Vec<Tampering>,
    /// Programs of others on the hooks that decide: hook and program.
    pub foreign_programs: BTreeSet<(&'static str, u32)>,
    /// How the audit log stands.
    pub log: LogState,
    /// What became of the records of what the daemon itself did.
    pub records: api::Records,
}

/// How the audit log stands.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// Where it is; `-` for standard output.
    pub path: PathBuf,
    /// Attempts that were written.
    pub written: u64,
    /// Those of them that earlier daemons have left.
    pub recovered: u64,
    /// Attempts that could not be written or read.
    pub lost: u64,
    /// Whether it takes nothing at present.
    pub stuck: bool,
    /// Why it could not be opened again, if it could not: what had its name before is written to.
    pub not_opened: Option<String>,
}
