//! THE function: facts in, decision out, through whatever tables it is given.
//!
//! It is total, and compiled once: no panic, no allocation, no unbounded loop, no `cfg`. The programs pass maps,
//! the host passes the image it compiled, tests pass a `BTreeMap`.

use crate::decision::{Decision, Mode, Reason, RuleId, Verdict};
use crate::facts::{Address, Facts, Party, Port, Protocol};
use crate::identity::Identity;
use crate::layout::{EdgeKey, EdgeValue, Owner, PortKey, ProtocolKey};
use crate::limits::MAX_CHUNKS;

/// What a decision reads. One value of this type stands for one revision of the policy: it is made once per
/// decision, so that no decision mixes two.
pub trait Tables {
    /// The owner of a cgroup, or `None` if the cgroup is not in the tables.
    fn cgroup(&self, id: u64) -> Option<Owner>;
    /// The set of networks that an address belongs to, or `None` if it belongs to none.
    fn network(&self, address: &Address) -> Option<Identity>;
    /// One part of the ports that one end may reach at another.
    fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue>;
    /// The only service that may bind a port, if it is reserved.
    fn reserved(&self, key: &PortKey) -> Option<Owner>;
    /// Whether a rule names this protocol for this service.
    fn names_protocol(&self, key: &ProtocolKey) -> bool;
}

/// May this flow be opened (or answered)?
///
/// A flow is denied if no rule covers it and one of its ends is a declared service; the denial refuses if one of
/// these is in [`Mode::Enforce`]. Every end that cannot be identified is denied towards a declared service. What
/// concerns no declared service is allowed without a further look.
#[inline(always)]
pub fn decide<T: Tables>(facts: &Facts, tables: &T) -> Decision {
    let from = identify(&facts.caller, tables);
    let to = match facts.answerer {
        Party::LeftToIngress => return allow(from, Owner::UNMANAGED, Reason::LeftToIngress),
        Party::Nobody => return allow(from, Owner::UNMANAGED, Reason::NobodyListens),
        Party::Cgroup(_) => identify(&facts.answerer, tables),
        Party::Below(_) => identify(&facts.answerer, tables),
        Party::Address(_) => identify(&facts.answerer, tables),
        Party::Unknown => identify(&facts.answerer, tables),
    };
    if !from.identity().is_service() && !to.identity().is_service() {
        return allow(from, to, Reason::NotManaged);
    }
    if from.identity() == to.identity() {
        return allow(from, to, Reason::SameService);
    }
    let there = EdgeKey::new(from.identity(), to.identity());
    let coverage = coverage(there, facts.protocol, facts.port, tables);
    if let Coverage::Rule(rule) = coverage {
        return Decision { rule: Some(rule), ..allow(from, to, Reason::RuleAllows) };
    }
    if let Some(port) = facts.reply_port {
        let back = EdgeKey::new(to.identity(), from.identity());
        if let Coverage::Rule(rule) = self::coverage(back, facts.protocol, port, tables) {
            return Decision { rule: Some(rule), ..allow(from, to, Reason::Reply) };
        }
    }
    let reason = if from.identity() == Identity::UNKNOWN {
        Reason::SourceUnknown
    } else if to.identity() == Identity::UNKNOWN {
        Reason::DestinationUnknown
    } else {
        match coverage {
            Coverage::Damaged => Reason::TableMissing,
            Coverage::OtherPorts => Reason::PortNotListed,
            Coverage::Nothing => Reason::NoRule,
            Coverage::Rule(_) => Reason::NoRule,
        }
    };
    deny(from, to, reason)
}

/// May a process of `binder` bind `port`? Everyone may bind a port that no service reserves.
#[inline(always)]
pub fn decide_bind<T: Tables>(binder: &Party, protocol: Protocol, port: Port, tables: &T) -> Decision {
    let Some(holder) = tables.reserved(&PortKey::new(protocol, port)) else {
        return allow(Owner::UNMANAGED, Owner::UNMANAGED, Reason::NotManaged);
    };
    let binder = identify(binder, tables);
    if binder.identity() == holder.identity() {
        return allow(binder, holder, Reason::SameService);
    }
    // The reservation is the holder's, so its mode alone says what happens to an intruder.
    Decision { mode: holder.mode(), ..deny(binder, holder, Reason::PortReserved) }
}

/// May a process of `creator` create a socket? `raw` is for a type that lets the process write its own headers.
///
/// TCP and UDP are always granted, since their flows are judged one by one; a protocol whose flows pass no connect
/// hook is granted to a declared service only where one of its rules names it.
#[inline(always)]
pub fn decide_create<T: Tables>(creator: &Party, protocol: Protocol, raw: bool, tables: &T) -> Decision {
    let creator = identify(creator, tables);
    if !creator.identity().is_service() {
        return allow(creator, Owner::UNMANAGED, Reason::NotManaged);
    }
    if raw {
        return deny(creator, creator, Reason::RawSocket);
    }
    if protocol == Protocol::TCP || protocol == Protocol::UDP {
        return allow(creator, creator, Reason::SameService);
    }
    if tables.names_protocol(&ProtocolKey::new(creator.identity(), protocol))
        || tables.names_protocol(&ProtocolKey::any(creator.identity()))
    {
        return allow(creator, creator, Reason::RuleAllows);
    }
    deny(creator, creator, Reason::ProtocolNotListed)
}

/// The denial of an attempt that could not be read or looked up, towards `end`. It refuses unless `end` is known
/// to be in audit mode or to be no declared service.
#[inline(always)]
pub fn decide_unreadable<T: Tables>(end: &Party, reason: Reason, tables: &T) -> Decision {
    let end = identify(end, tables);
    if end.identity().is_service() {
        deny(Owner::new(Identity::UNKNOWN, end.mode()), end, reason)
    } else {
        allow(Owner::new(Identity::UNKNOWN, Mode::Enforce), end, Reason::NotManaged)
    }
}

#[inline(always)]
fn identify<T: Tables>(party: &Party, tables: &T) -> Owner {
    const UNKNOWN: Owner = Owner::new(Identity::UNKNOWN, Mode::Enforce);
    match party {
        Party::Cgroup(id) => tables.cgroup(*id).unwrap_or(UNKNOWN),
        Party::Below(ancestor) => match tables.cgroup(*ancestor) {
            Some(owner) if owner.identity().is_service() => owner,
            // The new cgroup may itself be one that a selector names, so it is not its parent's kind.
            Some(_) | None => UNKNOWN,
        },
        Party::Address(address) => {
            Owner::new(tables.network(address).unwrap_or(Identity::WORLD), Mode::Enforce)
        }
        Party::LeftToIngress | Party::Nobody | Party::Unknown => UNKNOWN,
    }
}

enum Coverage {
    Rule(RuleId),
    OtherPorts,
    Nothing,
    Damaged,
}

#[inline(always)]
fn coverage<T: Tables>(pair: EdgeKey, protocol: Protocol, port: Port, tables: &T) -> Coverage {
    let mut chunk = 0;
    while chunk < MAX_CHUNKS {
        let Some(part) = tables.edge(&pair.chunk(chunk)) else {
            // A list that announces a further part and has none was not written whole.
            return if chunk == 0 { Coverage::Nothing } else { Coverage::Damaged };
        };
        for range in part.ranges() {
            if range.covers(protocol, port) {
                return Coverage::Rule(range.rule());
            }
        }
        if !part.continues() {
            return Coverage::OtherPorts;
        }
        chunk += 1;
    }
    Coverage::Damaged
}

#[inline(always)]
fn allow(from: Owner, to: Owner, reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        mode: refusing_mode(from, to),
        reason,
        rule: None,
        from: from.identity(),
        to: to.identity(),
    }
}

#[inline(always)]
fn deny(from: Owner, to: Owner, reason: Reason) -> Decision {
    Decision { verdict: Verdict::Deny, ..allow(from, to, reason) }
}

/// Audit only where every declared end asks for it.
#[inline(always)]
fn refusing_mode(from: Owner, to: Owner) -> Mode {
    let enforces = |end: Owner| end.identity().is_service() && end.mode() == Mode::Enforce;
    let audits = |end: Owner| end.identity().is_service() && end.mode() == Mode::Audit;
    if !enforces(from) && !enforces(to) && (audits(from) || audits(to)) { Mode::Audit } else { Mode::Enforce }
}
