//! Live connections: sockets are read from the kernel ([`survey`], [`diag`]), paired and judged by the policy in force
//! ([`mod@judge`]), and closed where it denies them ([`sweep`]).

use std::collections::HashSet;
use std::sync::Arc;

use enforcer_common::{Address, Port, Protocol};

use crate::namespaces::Neighbours;

pub use in_force::InForce;
pub use judge::{Connection, Judgement, judge};
pub use sweep::{Action, Cause, Older, Sweeper};

pub mod diag;
mod in_force;
pub mod judge;
pub mod survey;
pub mod sweep;

/// One end of a connection as the network has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Endpoint {
    /// Its address; an IPv4 address stands in its mapped form, whatever the family of the socket.
    pub address: Address,
    /// Its port.
    pub port: Port,
}

/// How far a socket's connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// It has none: a TCP listener, or a UDP socket that is not connected.
    Waiting,
    /// It asked for one that was not answered yet (`SYN_SENT`).
    Opening,
    /// It was asked, and the one that asked has not confirmed (`SYN_RECV`); no process has the socket yet.
    Answering,
    /// Both ends may send.
    Open,
    /// An end has said that it sends nothing more (`FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`, `CLOSING`).
    Closing,
}

impl State {
    /// The stable word for the state in records and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Opening => "opening",
            Self::Answering => "answering",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

/// Which end of a TCP connection opened it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Opened {
    /// The end whose socket this is.
    Here,
    /// The other end.
    There,
}

/// What a TCP socket has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Bytes that the other end has confirmed.
    pub sent: u64,
    /// Bytes that came from the other end.
    pub received: u64,
    /// Milliseconds since data was sent, or since the connection was opened if none ever was.
    pub idle: u32,
    /// Milliseconds that it is old at least: the longest time in which nothing was sent, nothing came, or something was under
    /// way. The kernel keeps no moment at which it was opened.
    pub age: u64,
}

/// A TCP or UDP socket, as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// The cookie of its network namespace.
    pub netns: u64,
    /// Its own cookie, which no other socket has before the next boot.
    pub cookie: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How far its connection has come.
    pub state: State,
    /// Its own end.
    pub local: Endpoint,
    /// The other end; unspecified while it waits.
    pub remote: Endpoint,
    /// The device that it is bound to; 0 for none.
    pub device: u32,
    /// Whether it is an IPv6 socket, whatever its addresses.
    pub is_v6: bool,
    /// Whether it is an IPv6 socket that takes nothing from IPv4.
    pub is_only_v6: bool,
    /// The cgroup v2 id that it was created in; none where the kernel does not tell, as for a half-open connection.
    pub cgroup: Option<u64>,
    /// Which end opened the connection, if its counters tell.
    pub opened: Option<Opened>,
    /// What it has counted, if it counts.
    pub traffic: Option<Traffic>,
}

/// A network namespace of this host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// Its cookie.
    pub cookie: u64,
    /// The addresses of its devices.
    pub addresses: HashSet<Address>,
}

/// The sockets of this host at (nearly) one moment: they are read one after the other, so one end of a connection that
/// was opened or closed meanwhile may be missing.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// In no order.
    pub sockets: Vec<Socket>,
    /// Those that were read.
    pub namespaces: Vec<Namespace>,
    /// Where in them only this host's own can be.
    pub neighbours: Arc<Neighbours>,
    /// Namespaces that could not be read, and why.
    pub unreadable: Vec<String>,
    /// Whether one of them may be read at another try: it was not for want of a right, or of room for so many.
    pub is_worth_another_try: bool,
}
