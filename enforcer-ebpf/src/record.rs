//! Counts every decision that concerns a declared service, and writes those that are to be read.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use enforcer_common::counter::{Counter, Outcome};
use enforcer_common::event::{CgroupEvent, Event, NamespaceEvent};
use enforcer_common::{Address, Decision, Hook, Party, Port, Protocol, RuleId, Verdict};

use crate::ctx::task;
use crate::maps::{self, EVENTS};

/// What an event says beyond the decision itself. Everything is set, and `flags` says what it is worth: unset bytes
/// may hold a pointer inside a program, which the verifier would not let out.
pub(crate) struct Attempt {
    hook: Hook,
    protocol: Protocol,
    flags: u8,
    caller_cgroup: u64,
    answerer_cgroup: u64,
    source: Address,
    source_port: Port,
    destination: Address,
    destination_port: Port,
}

impl Attempt {
    /// An attempt of which nothing else is known.
    #[inline(always)]
    pub(crate) const fn new(hook: Hook, protocol: Protocol) -> Self {
        Self {
            hook,
            protocol,
            flags: 0,
            caller_cgroup: 0,
            answerer_cgroup: 0,
            source: Address::V6_UNSPECIFIED,
            source_port: Port::new(0),
            destination: Address::V6_UNSPECIFIED,
            destination_port: Port::new(0),
        }
    }

    /// The same, made by the current task, which is in this cgroup.
    #[inline(always)]
    pub(crate) const fn by_task(mut self, cgroup: u64) -> Self {
        self.flags |= Event::PROCESS | Event::CALLER_CGROUP;
        self.caller_cgroup = cgroup;
        self
    }

    /// The same, made by whoever is in this cgroup.
    #[inline(always)]
    pub(crate) const fn by(mut self, cgroup: u64) -> Self {
        self.caller_cgroup = cgroup;
        self
    }

    /// The same, from this address.
    #[inline(always)]
    pub(crate) const fn from(mut self, address: Address, port: Port) -> Self {
        self.flags |= Event::CALLER_ADDRESS;
        self.source = address;
        self.source_port = port;
        self
    }

    /// The same, to this address.
    #[inline(always)]
    pub(crate) const fn to(mut self, address: Address, port: Port) -> Self {
        self.flags |= Event::ANSWERER_ADDRESS;
        self.destination = address;
        self.destination_port = port;
        self
    }

    /// The same, with the caller's cgroup if it is known.
    #[inline(always)]
    pub(crate) fn caller(mut self, party: &Party) -> Self {
        if task::is_exact(party) {
            self.flags |= Event::CALLER_CGROUP;
            self.caller_cgroup = party.cgroup_id();
        }
        self
    }

    /// The same, with the answerer's cgroup if it is known.
    #[inline(always)]
    pub(crate) fn answerer(mut self, party: &Party) -> Self {
        if task::is_exact(party) {
            self.flags |= Event::ANSWERER_CGROUP;
            self.answerer_cgroup = party.cgroup_id();
        }
        self
    }
}

/// Counts a decision, made by the tables of `slot`, and writes its event if it is a denial or `permitted` asks for it.
#[inline(always)]
pub(crate) fn record(decision: &Decision, attempt: &Attempt, slot: u32, permitted: bool) {
    maps::count(Counter::decisions(Outcome::of(decision), decision.reason));
    if permitted || decision.verdict == Verdict::Deny {
        write(decision, attempt, slot);
    }
}

#[inline(always)]
fn write(decision: &Decision, attempt: &Attempt, slot: u32) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        maps::count(Counter::EVENTS_LOST);
        maps::refuse_new();
        return;
    };
    let has_process = attempt.flags & Event::PROCESS != 0;
    let rule_flag = if decision.rule().is_some() { Event::RULE } else { 0 };
    let event = entry.write(Event {
        // SAFETY: the helper takes nothing and reads only the clock.
        at: unsafe { bpf_ktime_get_ns() },
        caller_cgroup: attempt.caller_cgroup,
        answerer_cgroup: attempt.answerer_cgroup,
        caller: decision.from.raw(),
        answerer: decision.to.raw(),
        revision: maps::revision(slot),
        rule: decision.rule().unwrap_or(RuleId(0)).0,
        pid: 0,
        uid: 0,
        caller_address: attempt.source,
        answerer_address: attempt.destination,
        caller_port: attempt.source_port.0,
        answerer_port: attempt.destination_port.0,
        hook: attempt.hook as u8,
        protocol: attempt.protocol.0,
        verdict: decision.verdict as u8,
        mode: decision.mode as u8,
        reason: decision.reason as u8,
        flags: attempt.flags | rule_flag,
        comm: [0; 16],
        _pad: [0; 6],
    });
    if has_process {
        task::describe(event);
    }
    // Before it can be read, so that whoever reads it finds it counted.
    maps::count(Counter::EVENTS_WRITTEN);
    entry.submit(0);
}

/// Tells the host of a cgroup, so that records name it. What does not fit is counted like any other loss.
#[inline(always)]
pub(crate) fn tell_cgroup(event: &CgroupEvent) {
    if EVENTS.output_untyped::<CgroupEvent>(event, 0).is_err() {
        maps::count(Counter::CGROUP_NEWS_LOST);
    }
}

/// Tells the host, once until it has looked, that a process calls or binds in a network namespace which it has not taken
/// in. If there is no room the host finds the namespace when it next looks around.
#[inline(always)]
pub(crate) fn tell_namespace(cookie: u64) {
    if maps::tells_namespaces() && maps::is_first_word_of(cookie) {
        let event = NamespaceEvent { cookie, pid: bpf_get_current_pid_tgid() >> 32 };
        if EVENTS.output_untyped::<NamespaceEvent>(&event, 0).is_err() {
            maps::count(Counter::NAMESPACE_NEWS_LOST);
        }
    }
}
