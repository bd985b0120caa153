//! Counts every decision that concerns a declared service, and writes those that are to be read.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use enforcer_common::counter::{Counter, Outcome};
use enforcer_common::event::Event;
use enforcer_common::{Address, Decision, Hook, Port, Protocol, Verdict};

use crate::ctx::task::Process;
use crate::maps::{self, EVENTS, KernelTables};

/// What an event says beyond the decision itself.
pub(crate) struct Attempt {
    pub(crate) hook: Hook,
    pub(crate) protocol: Protocol,
    /// cgroup v2 id of the caller, where the hook knows it.
    pub(crate) caller_cgroup: Option<u64>,
    /// cgroup v2 id of the answerer, where the hook knows it.
    pub(crate) answerer_cgroup: Option<u64>,
    /// Address and port of the caller, where the hook knows them.
    pub(crate) source: Option<(Address, Port)>,
    /// Address and port of the answerer, where there is one.
    pub(crate) destination: Option<(Address, Port)>,
}

/// Counts a decision and writes its event if it is a denial, or if `permitted` asks for it.
#[inline(always)]
pub(crate) fn record(
    decision: &Decision,
    attempt: &Attempt,
    process: Option<Process>,
    tables: Option<&KernelTables>,
    permitted: bool,
) {
    maps::count(Counter::decisions(Outcome::of(decision), decision.reason));
    match decision.verdict {
        Verdict::Allow if !permitted => {}
        Verdict::Allow => write(decision, attempt, process, tables),
        Verdict::Deny => write(decision, attempt, process, tables),
    }
}

#[inline(always)]
fn write(decision: &Decision, attempt: &Attempt, process: Option<Process>, tables: Option<&KernelTables>) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        maps::count(Counter::EVENTS_LOST);
        return;
    };
    let mut flags = 0;
    if attempt.caller_cgroup.is_some() {
        flags |= Event::CALLER_CGROUP;
    }
    if attempt.answerer_cgroup.is_some() {
        flags |= Event::ANSWERER_CGROUP;
    }
    if attempt.source.is_some() {
        flags |= Event::CALLER_ADDRESS;
    }
    if attempt.destination.is_some() {
        flags |= Event::ANSWERER_ADDRESS;
    }
    if process.is_some() {
        flags |= Event::PROCESS;
    }
    if decision.rule.is_some() {
        flags |= Event::RULE;
    }
    let (caller_address, caller_port) = attempt.source.unwrap_or_default();
    let (answerer_address, answerer_port) = attempt.destination.unwrap_or_default();
    let process = process.unwrap_or(Process { pid: 0, uid: 0, comm: [0; 16] });
    entry.write(Event {
        // SAFETY: the helper takes nothing and reads only the clock.
        at: unsafe { bpf_ktime_get_ns() },
        caller_cgroup: attempt.caller_cgroup.unwrap_or(0),
        answerer_cgroup: attempt.answerer_cgroup.unwrap_or(0),
        caller: decision.from.raw(),
        answerer: decision.to.raw(),
        revision: tables.map_or(0, KernelTables::revision),
        rule: decision.rule.map_or(0, |rule| rule.0),
        pid: process.pid,
        uid: process.uid,
        caller_address: caller_address.0,
        answerer_address: answerer_address.0,
        caller_port: caller_port.0,
        answerer_port: answerer_port.0,
        hook: attempt.hook as u8,
        protocol: attempt.protocol.0,
        verdict: decision.verdict as u8,
        mode: decision.mode as u8,
        reason: decision.reason as u8,
        flags,
        comm: process.comm,
        _pad: [0; 6],
    });
    entry.submit(0);
    maps::count(Counter::EVENTS_WRITTEN);
}
