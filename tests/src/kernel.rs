//! The third executor: attempts that real processes make through real sockets, under a running daemon.
//!
//! A service, or `unmanaged`, is a process in the cgroup of that name; an address is a process on another host, at
//! the other end of a cable. What the caller sees and what the audit log says are both compared with the case.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use enforcer_common::Mode;
use serde_json::Value;

use crate::actor::{Reply, Request, Transport};
use crate::case::{Attempt, Case, Expectation, Family};
use crate::oracle::{self, End};
use crate::sandbox::{Actor, Daemon, Neighbour, Sandbox};
use crate::slowness::patience;

/// What is refused is refused at once: a caller waits no longer than this for it.
const PROMPT: Duration = Duration::from_millis(50);

/// A policy that says nothing.
const EMPTY: &str = "version: 1\n";

/// Why an attempt of a case is not made by processes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Skip {
    /// A protocol that actors do not speak.
    Protocol,
    /// An end that cannot be identified is a state of the host and not something that a process can be told to be.
    UnknownEnd,
    /// A permitted reply needs a call before it: it is made by every permitted datagram whose answer arrives.
    PermittedReply,
}

/// What came of some cases.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Attempts that processes made.
    pub made: usize,
    /// Attempts that they did not make.
    pub skipped: BTreeMap<Skip, usize>,
    /// Everything that was not as expected.
    pub mismatches: Vec<String>,
}

impl Answers {
    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        self.made += other.made;
        for (skip, count) in other.skipped {
            *self.skipped.entry(skip).or_default() += count;
        }
        self.mismatches.extend(other.mismatches);
        self
    }
}

/// Has processes make every attempt of `cases`, in a sandbox called `name`.
///
/// # Errors
///
/// The sandbox, the daemon or an actor does not do its part. What is only not as expected is in the [`Answers`].
pub fn answer(name: &str, cases: &[&Case]) -> anyhow::Result<Answers> {
    let sandbox = Sandbox::new(name)?;
    let mut addresses = Vec::new();
    for case in cases {
        for attempt in &case.attempts {
            let oracle::Attempt { from, to, .. } = attempt.attempt(&case.policy)?;
            for end in [from, to] {
                match end {
                    End::Service(number) => {
                        let service = case.policy.services.get(number).context("service of a case")?;
                        sandbox.make_cgroup(&service.name)?;
                    }
                    End::Unmanaged => drop(sandbox.make_cgroup(UNMANAGED)?),
                    End::Address(address) if !addresses.contains(&address) => addresses.push(address),
                    End::Address(_) | End::Unknown | End::Pending => {}
                }
            }
        }
    }
    let neighbour = sandbox.neighbour(&addresses)?;
    // The daemon comes after the cgroups, so that it knows every one of them.
    let daemon = sandbox.daemon_with(EMPTY, &["--log-allowed"])?;
    let far_caller = neighbour.actor()?;
    let mut host = Host { sandbox: &sandbox, neighbour: &neighbour, callers: HashMap::new(), far_caller };
    let mut answers = Answers::default();
    let mut daemon = daemon;
    for case in cases {
        host.run(case, &mut daemon, &mut answers).with_context(|| format!("case {}", case.name))?;
    }
    if let Err(err) = daemon.stop()?.check_totals() {
        answers.mismatches.push(format!("totals: {err:#}"));
    }
    Ok(answers)
}

const UNMANAGED: &str = "unmanaged";

/// A sandbox with its other host, and the callers that go on from attempt to attempt.
struct Host<'a> {
    sandbox: &'a Sandbox,
    neighbour: &'a Neighbour,
    callers: HashMap<String, Actor>,
    far_caller: Actor,
}

impl Host<'_> {
    fn run(&mut self, case: &Case, daemon: &mut Daemon, answers: &mut Answers) -> anyhow::Result<()> {
        let policy = daemon.reload(self.sandbox, &case.text_below("ROOT"))?;
        ensure!(policy["result"] == "applied", "{policy}");
        let first = daemon.records().len();
        let mut calls = Vec::new();
        for (number, attempt) in case.attempts.iter().enumerate() {
            match Call::of(case, number, attempt)? {
                Ok(made) => {
                    answers.made += 1;
                    calls.extend(made);
                }
                Err(skip) => *answers.skipped.entry(skip).or_default() += 1,
            }
        }
        for call in &calls {
            let reply = self.make(call).with_context(|| call.label())?;
            if let Some(wrong) = call.wrong(&reply) {
                answers.mismatches.push(format!("{}: {wrong}: {reply:?}", call.label()));
            }
        }
        // Whatever was recorded before a reload is written before the record of it.
        daemon.reload(self.sandbox, EMPTY)?;
        let (_, records) = daemon.records().split_at(first);
        let mut records = records.iter().filter(|record| record["kind"] == "attempt").peekable();
        for call in calls.iter().filter(|call| call.is_recorded()) {
            for expected in call.told() {
                let told = records.next().map(Told::of);
                if told.as_ref() != Some(&expected) {
                    let label = call.label();
                    answers.mismatches.push(format!("{label}: expected {expected:?}\n  told {told:?}"));
                }
            }
            if let Some(record) = records.peek()
                && record["revision"] != policy["revision"]
            {
                answers.mismatches.push(format!("{}: of another revision: {record}", call.label()));
            }
            while records.next_if(|record| call.is_told_again(record)).is_some() {}
        }
        answers.mismatches.extend(records.map(|record| format!("{}: unexpected {record}", case.name)));
        Ok(())
    }

    fn make(&mut self, call: &Call<'_>) -> anyhow::Result<Reply> {
        let mut answerer = match &call.to {
            Place::Here(name) => self.sandbox.actor(name)?,
            Place::There(_) => self.neighbour.actor()?,
        };
        let transport = call.shape.transport();
        let served = answerer.ask(&Request::Serve { at: call.at, transport })?;
        ensure!(served.is_ok(), "serve {}: {served:?}", call.at);
        let mapped = call.attempt.family == Family::V4Mapped;
        let request = match (&call.from, call.shape) {
            (Place::There(address), shape) => Request::CallFrom {
                from: SocketAddr::new(*address, call.attempt.reply_port.unwrap_or(0)),
                to: call.at,
                transport,
                connected: shape != Shape::Unconnected,
            },
            (Place::Here(_), Shape::Tcp | Shape::Connected) => {
                Request::Connect { to: call.at, transport, mapped }
            }
            (Place::Here(_), Shape::Unconnected) => {
                let from_port = call.attempt.reply_port.unwrap_or(0);
                Request::Send { to: call.at, mapped, from_port }
            }
        };
        let caller = match &call.from {
            Place::Here(name) => {
                if !self.callers.contains_key(name) {
                    self.callers.insert(name.clone(), self.sandbox.actor(name)?);
                }
                self.callers.get_mut(name).context("just inserted")?
            }
            Place::There(_) => &mut self.far_caller,
        };
        caller.ask(&request)
        // The answerer ends here, and its port is free for the next one.
    }
}

/// Where a process is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// In the cgroup of this name.
    Here(String),
    /// On the other host, with this address.
    There(IpAddr),
}

/// How an attempt is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Tcp,
    /// UDP, after a `connect`.
    Connected,
    /// UDP, by `sendto` alone.
    Unconnected,
}

impl Shape {
    const fn transport(self) -> Transport {
        match self {
            Self::Tcp => Transport::Tcp,
            Self::Connected | Self::Unconnected => Transport::Udp,
        }
    }
}

/// One way of making one attempt.
struct Call<'a> {
    case: &'a Case,
    number: usize,
    attempt: &'a Attempt,
    from: Place,
    to: Place,
    at: SocketAddr,
    shape: Shape,
    mode: Option<Mode>,
}

impl<'a> Call<'a> {
    /// Every way in which processes make `attempt`.
    fn of(case: &'a Case, number: usize, attempt: &'a Attempt) -> anyhow::Result<Result<Vec<Self>, Skip>> {
        let shapes = match (attempt.proto.as_str(), attempt.reply_port, attempt.expect) {
            ("tcp", ..) => vec![Shape::Tcp],
            ("udp", Some(_), Expectation::Allow) => return Ok(Err(Skip::PermittedReply)),
            ("udp", Some(_), Expectation::Deny | Expectation::WouldDeny) => vec![Shape::Unconnected],
            ("udp", None, _) => vec![Shape::Connected, Shape::Unconnected],
            _ => return Ok(Err(Skip::Protocol)),
        };
        let ends = attempt.attempt(&case.policy)?;
        let mut modes = Vec::new();
        let mut place = |end| {
            Some(match end {
                End::Service(number) => {
                    let service = case.policy.services.get(number)?;
                    modes.push(service.mode);
                    Place::Here(service.name.clone())
                }
                End::Unmanaged => Place::Here(UNMANAGED.to_owned()),
                End::Address(address) => Place::There(address),
                End::Unknown | End::Pending => return None,
            })
        };
        let (Some(from), Some(to)) = (place(ends.from), place(ends.to)) else {
            return Ok(Err(Skip::UnknownEnd));
        };
        let mode = (!modes.is_empty())
            .then(|| if modes.contains(&Mode::Enforce) { Mode::Enforce } else { Mode::Audit });
        let address: IpAddr = match (&from, &to, attempt.family) {
            (_, Place::There(address), _) => *address,
            (Place::There(_), _, Family::V4 | Family::V4Mapped) => Neighbour::NEAR.into(),
            (Place::There(_), _, Family::V6) => Neighbour::NEAR6.into(),
            (Place::Here(_), _, Family::V4 | Family::V4Mapped) => Ipv4Addr::LOCALHOST.into(),
            (Place::Here(_), _, Family::V6) => Ipv6Addr::LOCALHOST.into(),
        };
        let at = SocketAddr::new(address, attempt.port);
        let call = |shape| {
            let (from, to) = (from.clone(), to.clone());
            Self { case, number, attempt, from, to, at, shape, mode }
        };
        Ok(Ok(shapes.into_iter().map(call).collect()))
    }

    fn label(&self) -> String {
        format!("{}, {:?}", self.case.label(self.number), self.shape)
    }

    /// What is wrong with what the caller saw, if anything is.
    fn wrong(&self, reply: &Reply) -> Option<&'static str> {
        let call = if self.shape == Shape::Unconnected { "sendto" } else { "connect" };
        match (self.attempt.expect, &self.from) {
            (Expectation::Allow | Expectation::WouldDeny, _) => {
                (reply.text != "hello").then_some("it did not work")
            }
            (Expectation::Deny, Place::Here(_)) => {
                if !reply.is_refused() || reply.call != call {
                    Some("it was not refused by the call itself")
                } else if Duration::from_micros(reply.micros) > patience(PROMPT) {
                    Some("it was refused late")
                } else {
                    None
                }
            }
            // What is left to the ingress hook is dropped: all that is seen is that nobody answers.
            (Expectation::Deny, Place::There(_)) => {
                (reply.is_ok() || reply.is_refused()).then_some("it was not dropped")
            }
        }
    }

    /// Whether a record is expected: what concerns no declared service has none.
    fn is_recorded(&self) -> bool {
        self.mode.is_some()
    }

    const fn is_from_here(&self) -> bool {
        matches!(self.from, Place::Here(_))
    }

    /// Every record that tells of it, in their order.
    fn told(&self) -> Vec<Told> {
        let v4 = match self.attempt.family {
            Family::V4 => [true, true],
            // The kernel hands a mapped destination to the hook of IPv6 when it connects, of IPv4 when it sends.
            Family::V4Mapped => [false, true],
            Family::V6 => [false, false],
        };
        let (hook, direction) = match (&self.from, self.shape, v4) {
            (Place::There(_), ..) => ("ingress", "ingress"),
            (Place::Here(_), Shape::Tcp | Shape::Connected, [true, _]) => ("connect4", "egress"),
            (Place::Here(_), Shape::Tcp | Shape::Connected, [false, _]) => ("connect6", "egress"),
            (Place::Here(_), Shape::Unconnected, [_, true]) => ("sendmsg4", "egress"),
            (Place::Here(_), Shape::Unconnected, [_, false]) => ("sendmsg6", "egress"),
        };
        let reason = self.attempt.reason.as_deref().unwrap_or("rule");
        let told = Told {
            verdict: if self.attempt.expect == Expectation::Allow { "allow" } else { "deny" }.to_owned(),
            mode: if self.mode == Some(Mode::Audit) { "audit" } else { "enforce" }.to_owned(),
            reason: reason.to_owned(),
            rule: self.attempt.rule.clone(),
            hook: hook.to_owned(),
            direction: direction.to_owned(),
            protocol: self.attempt.proto.clone(),
            source: self.name(&self.from),
            source_address: match self.from {
                Place::Here(_) => None,
                Place::There(address) => Some(address.to_string()),
            },
            destination: self.name(&self.to),
            destination_address: Some(self.at.ip().to_string()),
            port: Some(u64::from(self.at.port())),
        };
        // For a mapped destination the kernel names it again with each datagram, to the hook of the other family.
        let again = self.is_from_here()
            && self.shape == Shape::Connected
            && self.attempt.family == Family::V4Mapped
            && self.attempt.expect != Expectation::Deny;
        let datagram = again.then(|| Told { hook: "sendmsg4".to_owned(), ..told.clone() });
        [told].into_iter().chain(datagram).collect()
    }

    fn name(&self, place: &Place) -> String {
        match place {
            Place::Here(name) => name.clone(),
            Place::There(address) => {
                let networks = self.case.policy.networks.iter();
                let mut names: Vec<&str> = networks
                    .filter(|network| oracle::is_in(network, *address))
                    .map(|network| network.name.as_str())
                    .collect();
                names.sort_unstable();
                if names.is_empty() { "world".to_owned() } else { names.join(",") }
            }
        }
    }

    /// Whether `record` tells of this call once more. What passes in audit mode is seen at both ends, and so is the
    /// answer to it, which no rule covers either; within one service an answer looks like a call.
    fn is_told_again(&self, record: &Value) -> bool {
        let told = Told::of(record);
        let there = (self.name(&self.from), self.name(&self.to));
        let back = (there.1.clone(), there.0.clone());
        let ends = (told.source, told.destination);
        let would_deny =
            self.attempt.expect == Expectation::WouldDeny && told.verdict == "deny" && told.mode == "audit";
        let same_service =
            self.shape.transport() == Transport::Udp && self.from == self.to && told.reason == "same-service";
        let at_other_end = ends == there && told.hook == "ingress";
        let answer = self.shape.transport() == Transport::Udp
            && ends == back
            && told.port != Some(self.at.port().into());
        (would_deny && (at_other_end || answer)) || (same_service && answer)
    }
}

/// What a record says of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Told {
    verdict: String,
    mode: String,
    reason: String,
    rule: Option<String>,
    hook: String,
    direction: String,
    protocol: String,
    source: String,
    source_address: Option<String>,
    destination: String,
    destination_address: Option<String>,
    port: Option<u64>,
}

impl Told {
    fn of(record: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let word = |value: &Value| text(value).unwrap_or_default();
        let (source, destination) = (&record["source"], &record["destination"]);
        Self {
            verdict: word(&record["verdict"]),
            mode: word(&record["mode"]),
            reason: word(&record["reason"]),
            rule: text(&record["rule"]["name"]),
            hook: word(&record["hook"]),
            direction: word(&record["direction"]),
            protocol: word(&record["protocol"]),
            source: word(&source["service"]),
            source_address: text(&source["address"]),
            destination: word(&destination["service"]),
            destination_address: text(&destination["address"]),
            port: destination["port"].as_u64(),
        }
    }
}
