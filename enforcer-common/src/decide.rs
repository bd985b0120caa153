//! THE function: facts in, decision out, through whatever tables it is given.
//!
//! It is total, and compiled once: no panic, no allocation, no unbounded loop, no `cfg`. The programs pass maps,
//! the host passes the image it compiled, tests pass a `BTreeMap`.

use crate::decision::{Decision, Mode, Reason, RuleId, Verdict};
use crate::facts::{Address, Facts, Known, Party, Port, Protocol};
use crate::flow::Flow;
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
    /// What the rules between one end and another say of a port. The programs compile it as a function of its own,
    /// which the verifier then walks once instead of once per path to it.
    #[inline(always)]
    fn coverage(&self, pair: EdgeKey, protocol: Protocol, port: Port) -> Coverage
    where
        Self: Sized,
    {
        coverage(pair, protocol, port, self)
    }
    /// What is decided of a flow whose ends are identified. The programs compile it as such a function too.
    #[inline(always)]
    fn decide_flow(&self, flow: &Flow) -> Decision
    where
        Self: Sized,
    {
        decide_flow(flow, self)
    }
    /// The only service that may bind a port, if it is reserved.
    fn reserved(&self, key: &PortKey) -> Option<Owner>;
    /// Whether a rule names this protocol for this service.
    fn names_protocol(&self, key: &ProtocolKey) -> bool;
    /// Whether nothing new is permitted at present, since decisions cannot be told and the policy does not want it then.
    #[inline(always)]
    fn refuses_new(&self) -> bool {
        false
    }
    /// What a check comes to. Tables that negate one are only made to see whether a test notices.
    #[inline(always)]
    fn holds(&self, check: Check, found: bool) -> bool {
        let _: Check = check;
        found
    }
}

/// Everything that a decision asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Check {
    /// Is the answerer left to the ingress hook?
    IsLeftToIngress = 1,
    /// Is there no answerer?
    IsNobody = 2,
    /// Is neither end judged?
    IsNotManaged = 3,
    /// Is the caller a container that may be of any service?
    IsSourcePending = 4,
    /// Is the answerer such a container?
    IsDestinationPending = 5,
    /// Are both ends of one service?
    IsSameService = 6,
    /// Does a rule cover the call?
    IsCovered = 7,
    /// Did the answerer ask the caller, so that it may be a reply?
    MayBeReply = 8,
    /// Does a rule cover the call that it would answer?
    IsReplyCovered = 9,
    /// Is the caller unknown? This and the next only decide which reason is given.
    IsSourceUnknown = 10,
    /// Is the answerer unknown?
    IsDestinationUnknown = 11,
    /// Is a port reserved?
    IsReserved = 12,
    /// Is it reserved for the service that binds it?
    IsHolder = 13,
    /// Is whoever binds it pending? This only decides which reason is given.
    IsBinderPending = 14,
    /// Is whoever creates a socket judged?
    IsCreatorJudged = 15,
    /// Is the socket one whose flows are judged one by one?
    IsPlain = 16,
    /// Is its creator pending?
    IsCreatorPending = 17,
    /// Does it let its owner write headers?
    IsRaw = 18,
    /// Does a rule name its protocol?
    IsProtocolNamed = 19,
    /// Is whoever is to get an unreadable packet judged?
    IsReceiverJudged = 20,
    /// Does a cgroup that is not in the tables lie below one of a service?
    IsInherited = 21,
    /// Does a range of a rule have the port?
    IsInRange = 22,
    /// Has a list of ranges a further part?
    IsContinued = 23,
    /// Does every judged end ask for no more than a record?
    IsAudited = 24,
    /// Is nothing new permitted at present?
    IsRefusingNew = 25,
    /// Is whoever would be taken for the sender of a datagram of one service with it, or neither of any?
    IsOwnSource = 26,
    /// Is the sender of a packet judged whose way cannot be told?
    IsSenderJudged = 27,
}

impl Check {
    /// Every check, by its number from 1 on.
    pub const ALL: [Self; 27] = [
        Self::IsLeftToIngress,
        Self::IsNobody,
        Self::IsNotManaged,
        Self::IsSourcePending,
        Self::IsDestinationPending,
        Self::IsSameService,
        Self::IsCovered,
        Self::MayBeReply,
        Self::IsReplyCovered,
        Self::IsSourceUnknown,
        Self::IsDestinationUnknown,
        Self::IsReserved,
        Self::IsHolder,
        Self::IsBinderPending,
        Self::IsCreatorJudged,
        Self::IsPlain,
        Self::IsCreatorPending,
        Self::IsRaw,
        Self::IsProtocolNamed,
        Self::IsReceiverJudged,
        Self::IsInherited,
        Self::IsInRange,
        Self::IsContinued,
        Self::IsAudited,
        Self::IsRefusingNew,
        Self::IsOwnSource,
        Self::IsSenderJudged,
    ];

    /// The stable word for the check.
    pub const fn code(self) -> &'static str {
        match self {
            Self::IsLeftToIngress => "left-to-ingress",
            Self::IsNobody => "nobody",
            Self::IsNotManaged => "not-managed",
            Self::IsSourcePending => "source-pending",
            Self::IsDestinationPending => "destination-pending",
            Self::IsSameService => "same-service",
            Self::IsCovered => "covered",
            Self::MayBeReply => "may-be-reply",
            Self::IsReplyCovered => "reply-covered",
            Self::IsSourceUnknown => "source-unknown",
            Self::IsDestinationUnknown => "destination-unknown",
            Self::IsReserved => "reserved",
            Self::IsHolder => "holder",
            Self::IsBinderPending => "binder-pending",
            Self::IsCreatorJudged => "creator-judged",
            Self::IsPlain => "plain",
            Self::IsCreatorPending => "creator-pending",
            Self::IsRaw => "raw",
            Self::IsProtocolNamed => "protocol-named",
            Self::IsReceiverJudged => "receiver-judged",
            Self::IsInherited => "inherited",
            Self::IsInRange => "in-range",
            Self::IsContinued => "continued",
            Self::IsAudited => "audited",
            Self::IsRefusingNew => "refusing-new",
            Self::IsOwnSource => "own-source",
            Self::IsSenderJudged => "sender-judged",
        }
    }
}

/// May this flow be opened (or answered)?
///
/// A flow is denied if no rule covers it and one of its ends is a declared service; the denial refuses if one of
/// these is in [`Mode::Enforce`]. Every end that cannot be identified is denied towards a declared service. What
/// concerns no declared service is allowed without a further look. A pending container may turn out to be a service, so
/// every flow of one is denied.
#[inline(always)]
pub fn decide<T: Tables>(facts: &Facts, tables: &T) -> Decision {
    let flow = Flow {
        from: identify(&facts.caller, tables),
        to: identify(&facts.answerer, tables),
        known: facts.answerer.known(),
        asked: facts.asked,
        protocol: facts.protocol,
        port: facts.port,
        reply_port: facts.reply_port,
    };
    tables.decide_flow(&flow)
}

/// The same, once both ends are identified.
#[inline(always)]
pub fn decide_flow<T: Tables>(flow: &Flow, tables: &T) -> Decision {
    let Flow { from, to, .. } = *flow;
    match flow.known {
        Known::LeftToIngress => {
            if tables.holds(Check::IsLeftToIngress, true) {
                return allow(from, to, Reason::LeftToIngress);
            }
        }
        Known::Nobody => {
            if tables.holds(Check::IsNobody, true) {
                return allow(from, to, Reason::NobodyListens);
            }
        }
        Known::Cgroup | Known::Below | Known::Address | Known::Unknown => {
            if tables.holds(Check::IsLeftToIngress, false) || tables.holds(Check::IsNobody, false) {
                return allow(from, to, Reason::LeftToIngress);
            }
        }
    }
    let concerns_nobody = !from.identity().is_judged() && !to.identity().is_judged();
    if tables.holds(Check::IsNotManaged, concerns_nobody) {
        return allow(from, to, Reason::NotManaged);
    }
    // Before all else: two containers that are both pending may be two services.
    if tables.holds(Check::IsSourcePending, from.identity() == Identity::PENDING) {
        return deny(from, to, Reason::SourcePending, tables);
    }
    if tables.holds(Check::IsDestinationPending, to.identity() == Identity::PENDING) {
        return deny(from, to, Reason::DestinationPending, tables);
    }
    if tables.holds(Check::IsSameService, from.identity() == to.identity()) {
        return permit(from, to, Reason::SameService, tables);
    }
    let there = EdgeKey::new(from.identity(), to.identity());
    let coverage = tables.coverage(there, flow.protocol, flow.port);
    if tables.holds(Check::IsCovered, coverage.kind == Covered::ByRule) {
        return permit(from, to, Reason::RuleAllows, tables).by(coverage.rule);
    }
    if tables.holds(Check::MayBeReply, flow.asked.includes(from.identity())) {
        let back = EdgeKey::new(to.identity(), from.identity());
        let coverage = tables.coverage(back, flow.protocol, flow.reply_port);
        if tables.holds(Check::IsReplyCovered, coverage.kind == Covered::ByRule) {
            return allow(from, to, Reason::Reply).by(coverage.rule);
        }
    }
    let reason = if tables.holds(Check::IsSourceUnknown, from.identity() == Identity::UNKNOWN) {
        Reason::SourceUnknown
    } else if tables.holds(Check::IsDestinationUnknown, to.identity() == Identity::UNKNOWN) {
        Reason::DestinationUnknown
    } else {
        match coverage.kind {
            Covered::Damaged => Reason::TableMissing,
            Covered::OtherPorts => Reason::PortNotListed,
            Covered::Nothing | Covered::ByRule => Reason::NoRule,
        }
    };
    deny(from, to, reason, tables)
}

/// May a process of `binder` bind `port`? Everyone may bind a port that no service reserves.
#[inline(always)]
pub fn decide_bind<T: Tables>(binder: &Party, protocol: Protocol, port: Port, tables: &T) -> Decision {
    let reserved = tables.reserved(&PortKey::new(protocol, port));
    let holder = reserved.unwrap_or(Owner::UNMANAGED);
    if !tables.holds(Check::IsReserved, reserved.is_some()) {
        return allow(Owner::UNMANAGED, Owner::UNMANAGED, Reason::NotManaged);
    }
    let binder = identify(binder, tables);
    if tables.holds(Check::IsHolder, binder.identity() == holder.identity()) {
        return allow(binder, holder, Reason::SameService);
    }
    // The reservation is the holder's, so its mode alone says what happens to an intruder.
    let (from, to) = (binder.identity(), holder.identity());
    let is_pending = tables.holds(Check::IsBinderPending, from == Identity::PENDING);
    let reason = if is_pending { Reason::SourcePending } else { Reason::PortReserved };
    Decision::new(Verdict::Deny, holder.mode(), reason, from, to)
}

/// May a process of `creator` create a socket? `raw` is for a type that lets the process write its own headers.
///
/// TCP and UDP are always granted, since their flows are judged one by one; a protocol whose flows pass no connect
/// hook is granted to a declared service only where one of its rules names it.
#[inline(always)]
pub fn decide_create<T: Tables>(creator: &Party, protocol: Protocol, raw: bool, tables: &T) -> Decision {
    let creator = identify(creator, tables);
    if !tables.holds(Check::IsCreatorJudged, creator.identity().is_judged()) {
        return allow(creator, Owner::UNMANAGED, Reason::NotManaged);
    }
    let is_plain = !raw && (protocol == Protocol::TCP || protocol == Protocol::UDP);
    if tables.holds(Check::IsPlain, is_plain) {
        return allow(creator, creator, Reason::SameService);
    }
    if tables.holds(Check::IsCreatorPending, creator.identity() == Identity::PENDING) {
        return deny(creator, creator, Reason::SourcePending, tables);
    }
    if tables.holds(Check::IsRaw, raw) {
        return deny(creator, creator, Reason::RawSocket, tables);
    }
    let is_named = tables.names_protocol(&ProtocolKey::new(creator.identity(), protocol))
        || tables.names_protocol(&ProtocolKey::any(creator.identity()));
    if tables.holds(Check::IsProtocolNamed, is_named) {
        return allow(creator, creator, Reason::RuleAllows);
    }
    deny(creator, creator, Reason::ProtocolNotListed, tables)
}

/// The denial of an attempt that could not be read or looked up, towards `end`. It refuses unless `end` is known
/// to be in audit mode or to be no declared service.
#[inline(always)]
pub fn decide_unreadable<T: Tables>(end: &Party, reason: Reason, tables: &T) -> Decision {
    let end = identify(end, tables);
    if tables.holds(Check::IsReceiverJudged, end.identity().is_judged()) {
        deny(Owner::new(Identity::UNKNOWN, end.mode()), end, reason, tables)
    } else {
        allow(Owner::new(Identity::UNKNOWN, Mode::Enforce), end, Reason::NotManaged)
    }
}

/// May a socket of `sender` send a datagram whose source is the address and port of a socket of `named`, which whoever gets it takes
/// for its sender? It refuses unless every judged end is in audit mode.
#[inline(always)]
pub fn decide_source<T: Tables>(sender: &Party, named: &Party, tables: &T) -> Decision {
    let (from, to) = (identify(sender, tables), identify(named, tables));
    let is_nobody = !from.identity().is_judged() && !to.identity().is_judged();
    if tables.holds(Check::IsOwnSource, is_nobody || from.identity() == to.identity()) {
        return allow(from, to, Reason::NotManaged);
    }
    deny(from, to, Reason::SourceUnknown, tables)
}

/// May `sender` send a packet of which cannot be told, for this `reason`, where it goes or whose name it bears? It refuses unless the sender
/// is known to be in audit mode or to be no declared service.
#[inline(always)]
pub fn decide_led<T: Tables>(sender: &Party, reason: Reason, tables: &T) -> Decision {
    let from = identify(sender, tables);
    let to = Owner::new(Identity::UNKNOWN, from.mode());
    if tables.holds(Check::IsSenderJudged, from.identity().is_judged()) {
        deny(from, to, reason, tables)
    } else {
        allow(from, to, Reason::NotManaged)
    }
}

#[inline(always)]
fn identify<T: Tables>(party: &Party, tables: &T) -> Owner {
    const UNKNOWN: Owner = Owner::new(Identity::UNKNOWN, Mode::Enforce);
    match party.known() {
        Known::Cgroup => tables.cgroup(party.cgroup_id()).unwrap_or(UNKNOWN),
        Known::Below => match tables.cgroup(party.cgroup_id()) {
            Some(owner) if tables.holds(Check::IsInherited, owner.identity().is_judged()) => owner,
            // The new cgroup may itself be one that a selector names, so it is not its parent's kind.
            Some(_) | None => UNKNOWN,
        },
        Known::Address => {
            let network = tables.network(party.remote_address());
            Owner::new(network.unwrap_or(Identity::WORLD), Mode::Enforce)
        }
        Known::LeftToIngress | Known::Nobody | Known::Unknown => UNKNOWN,
    }
}

/// Whether a port is covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covered {
    /// A rule lists it.
    ByRule,
    /// Rules name the pair, but not this port.
    OtherPorts,
    /// No rule names the pair.
    Nothing,
    /// The list of ports is not whole.
    Damaged,
}

/// What the rules between two ends say of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// Whether it is covered.
    pub kind: Covered,
    /// The rule, with [`Covered::ByRule`].
    pub rule: RuleId,
}

impl Coverage {
    const fn without_rule(kind: Covered) -> Self {
        Self { kind, rule: RuleId(0) }
    }

    /// The coverage in one register: the kind above the rule.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        ((self.kind as u64) << 32) | self.rule.0 as u64
    }

    /// Undoes [`pack`](Self::pack); a kind that does not exist covers nothing.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        let kind = match packed >> 32 {
            0 => Covered::ByRule,
            1 => Covered::OtherPorts,
            2 => Covered::Nothing,
            _ => Covered::Damaged,
        };
        let [a, b, c, d, _, _, _, _] = packed.to_le_bytes();
        Self { kind, rule: RuleId(u32::from_le_bytes([a, b, c, d])) }
    }
}

/// What the rules between two ends say of a port, from the parts of their list.
#[inline(always)]
pub fn coverage<T: Tables>(pair: EdgeKey, protocol: Protocol, port: Port, tables: &T) -> Coverage {
    let mut chunk = 0;
    while chunk < MAX_CHUNKS {
        let Some(part) = tables.edge(&pair.chunk(chunk)) else {
            // A list that announces a further part and has none was not written whole.
            return Coverage::without_rule(if chunk == 0 { Covered::Nothing } else { Covered::Damaged });
        };
        for range in part.ranges() {
            if tables.holds(Check::IsInRange, range.covers(protocol, port)) {
                return Coverage { kind: Covered::ByRule, rule: range.rule() };
            }
        }
        if !tables.holds(Check::IsContinued, part.continues()) {
            return Coverage::without_rule(Covered::OtherPorts);
        }
        chunk += 1;
    }
    Coverage::without_rule(Covered::Damaged)
}

#[inline(always)]
fn allow(from: Owner, to: Owner, reason: Reason) -> Decision {
    Decision::new(Verdict::Allow, refusing_mode(from, to), reason, from.identity(), to.identity())
}

/// What the policy permits, unless nothing new is permitted at present. Where every judged end is in audit mode nothing is
/// refused, as ever.
#[inline(always)]
fn permit<T: Tables>(from: Owner, to: Owner, reason: Reason, tables: &T) -> Decision {
    match refusing_mode(from, to) {
        Mode::Enforce if tables.holds(Check::IsRefusingNew, tables.refuses_new()) => {
            deny(from, to, Reason::AuditLost, tables)
        }
        Mode::Enforce | Mode::Audit => allow(from, to, reason),
    }
}

#[inline(always)]
fn deny<T: Tables>(from: Owner, to: Owner, reason: Reason, tables: &T) -> Decision {
    let mode = match refusing_mode(from, to) {
        Mode::Audit if tables.holds(Check::IsAudited, true) => Mode::Audit,
        Mode::Enforce if tables.holds(Check::IsAudited, false) => Mode::Audit,
        Mode::Audit | Mode::Enforce => Mode::Enforce,
    };
    Decision::new(Verdict::Deny, mode, reason, from.identity(), to.identity())
}

/// Audit only where every judged end asks for it.
#[inline(always)]
fn refusing_mode(from: Owner, to: Owner) -> Mode {
    let enforces = |end: Owner| end.identity().is_judged() && end.mode() == Mode::Enforce;
    let audits = |end: Owner| end.identity().is_judged() && end.mode() == Mode::Audit;
    if !enforces(from) && !enforces(to) && (audits(from) || audits(to)) { Mode::Audit } else { Mode::Enforce }
}

#[cfg(test)]
mod tests {
    use super::{Tables, decide, decide_bind, decide_create, decide_led, decide_source, decide_unreadable};
    use crate::layout::{EdgeKey, EdgeValue, Owner, PortKey, PortRange, ProtocolKey};
    use crate::{Address, Asked, Facts, Identity, Mode, Party, Port, Protocol, Reason, RuleId, Verdict};

    const fn service(number: u32) -> Identity {
        match Identity::service(number) {
            Some(identity) => identity,
            None => Identity::UNKNOWN,
        }
    }

    const NETWORK: Identity = match Identity::network(0) {
        Some(identity) => identity,
        None => Identity::UNKNOWN,
    };
    const WEB: Party = Party::cgroup(10);
    const DB: Party = Party::cgroup(11);
    /// In audit mode, like `OLDER`.
    const OLD: Party = Party::cgroup(12);
    const OLDER: Party = Party::cgroup(13);
    const UNMANAGED: Party = Party::cgroup(1);
    const FORGOTTEN: Party = Party::cgroup(99);
    /// A container that may be of a service in enforce mode, and one where all such services are in audit mode.
    const PENDING: Party = Party::cgroup(14);
    const PENDING_AUDIT: Party = Party::cgroup(15);
    const PARTNER: Party = Party::address(Address::from_v4([203, 0, 113, 7]));
    const ELSEWHERE: Party = Party::address(Address::from_v4([198, 51, 100, 7]));

    /// A policy in which `web` may reach `db` at 5432/tcp and 53/udp, `old` at everything, the network at 443/tcp and
    /// the world at icmp; `unmanaged` and the world may reach `web` at 80/tcp. The list from `db` to `old` announces
    /// a part that is not there.
    struct Example;

    impl Tables for Example {
        fn cgroup(&self, id: u64) -> Option<Owner> {
            match id {
                1 => Some(Owner::UNMANAGED),
                10 => Some(Owner::new(service(0), Mode::Enforce)),
                11 => Some(Owner::new(service(1), Mode::Enforce)),
                12 => Some(Owner::new(service(2), Mode::Audit)),
                13 => Some(Owner::new(service(3), Mode::Audit)),
                14 => Some(Owner::new(Identity::PENDING, Mode::Enforce)),
                15 => Some(Owner::new(Identity::PENDING, Mode::Audit)),
                _ => None,
            }
        }

        fn network(&self, address: &Address) -> Option<Identity> {
            matches!(address.to_v4(), Some([203, 0, 113, _])).then_some(NETWORK)
        }

        fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
            const UNUSED: PortRange = PortRange::UNUSED;
            const DATABASE: EdgeValue = EdgeValue::new(
                [
                    PortRange::ports(Protocol::TCP, 5432, 5432, RuleId(0)),
                    UNUSED,
                    UNUSED,
                    PortRange::ports(Protocol::UDP, 53, 53, RuleId(1)),
                ],
                false,
            );
            const EVERYTHING: EdgeValue =
                EdgeValue::new([PortRange::everything(RuleId(2)), UNUSED, UNUSED, UNUSED], false);
            const HTTPS: EdgeValue = EdgeValue::new(
                [PortRange::ports(Protocol::TCP, 443, 443, RuleId(3)), UNUSED, UNUSED, UNUSED],
                false,
            );
            const PING: EdgeValue = EdgeValue::new(
                [PortRange::protocol(Protocol::ICMP, RuleId(4)), UNUSED, UNUSED, UNUSED],
                false,
            );
            const HTTP: EdgeValue = EdgeValue::new(
                [PortRange::ports(Protocol::TCP, 80, 80, RuleId(5)), UNUSED, UNUSED, UNUSED],
                false,
            );
            const TORN: EdgeValue = EdgeValue::new([UNUSED; 4], true);
            let web = service(0);
            let edges = [
                (EdgeKey::new(web, service(1)), &DATABASE),
                (EdgeKey::new(web, service(2)), &EVERYTHING),
                (EdgeKey::new(web, NETWORK), &HTTPS),
                (EdgeKey::new(web, Identity::WORLD), &PING),
                (EdgeKey::new(Identity::UNMANAGED, web), &HTTP),
                (EdgeKey::new(Identity::WORLD, web), &HTTP),
                (EdgeKey::new(service(1), service(2)), &TORN),
            ];
            edges.into_iter().find_map(|(candidate, value)| (candidate == *key).then_some(value))
        }

        fn reserved(&self, key: &PortKey) -> Option<Owner> {
            if *key == PortKey::new(Protocol::TCP, Port::new(5432)) {
                self.cgroup(11)
            } else if *key == PortKey::new(Protocol::TCP, Port::new(7)) {
                self.cgroup(12)
            } else {
                None
            }
        }

        fn names_protocol(&self, key: &ProtocolKey) -> bool {
            *key == ProtocolKey::new(service(0), Protocol::ICMP) || *key == ProtocolKey::any(service(2))
        }
    }

    /// The same tables while decisions cannot be told.
    struct Unheard;

    impl Tables for Unheard {
        fn cgroup(&self, id: u64) -> Option<Owner> {
            Example.cgroup(id)
        }

        fn network(&self, address: &Address) -> Option<Identity> {
            Example.network(address)
        }

        fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
            Example.edge(key)
        }

        fn reserved(&self, key: &PortKey) -> Option<Owner> {
            Example.reserved(key)
        }

        fn names_protocol(&self, key: &ProtocolKey) -> bool {
            Example.names_protocol(key)
        }

        fn refuses_new(&self) -> bool {
            true
        }
    }

    #[test]
    fn nothing_new_is_permitted_to_what_is_enforced_while_decisions_cannot_be_told() {
        for caller in [WEB, DB, OLD, OLDER, UNMANAGED, FORGOTTEN, PENDING, PARTNER, ELSEWHERE] {
            for answerer in [WEB, DB, OLD, OLDER, UNMANAGED, FORGOTTEN, PENDING_AUDIT, PARTNER, ELSEWHERE] {
                for (port, is_reply) in [(5432, false), (80, false), (443, false), (40_000, true)] {
                    let facts = Facts {
                        caller,
                        answerer,
                        protocol: if is_reply { Protocol::UDP } else { Protocol::TCP },
                        port: Port::new(port),
                        asked: if is_reply { Asked::ANYONE } else { Asked::NOBODY },
                        reply_port: Port::new(53),
                    };
                    let (heard, unheard) = (decide(&facts, &Example), decide(&facts, &Unheard));
                    let is_new = matches!(heard.reason, Reason::RuleAllows | Reason::SameService);
                    if is_new && heard.mode == Mode::Enforce {
                        assert_eq!((unheard.verdict, unheard.reason), (Verdict::Deny, Reason::AuditLost));
                        assert_eq!(unheard.mode, Mode::Enforce);
                    } else {
                        // Replies to what was permitted before, and what concerns no service, go on.
                        assert_eq!(unheard, heard);
                    }
                }
            }
        }
    }

    #[test]
    fn flows() {
        use Mode::{Audit, Enforce};
        use Reason::*;
        use Verdict::{Allow, Deny};
        const TCP: Protocol = Protocol::TCP;
        const UDP: Protocol = Protocol::UDP;
        const ICMP: Protocol = Protocol::ICMP;
        let unknown = Party::UNKNOWN;
        for (caller, answerer, protocol, port, verdict, mode, reason, rule) in [
            (WEB, DB, TCP, 5432, Allow, Enforce, RuleAllows, Some(0)),
            (WEB, DB, UDP, 53, Allow, Enforce, RuleAllows, Some(1)),
            (WEB, DB, UDP, 5432, Deny, Enforce, PortNotListed, None),
            (WEB, DB, TCP, 5433, Deny, Enforce, PortNotListed, None),
            // The other way round is another pair.
            (DB, WEB, TCP, 5432, Deny, Enforce, NoRule, None),
            (WEB, WEB, TCP, 1, Allow, Enforce, SameService, None),
            (OLD, OLD, TCP, 1, Allow, Audit, SameService, None),
            (UNMANAGED, UNMANAGED, TCP, 1, Allow, Enforce, NotManaged, None),
            (UNMANAGED, ELSEWHERE, TCP, 1, Allow, Enforce, NotManaged, None),
            (PARTNER, UNMANAGED, TCP, 1, Allow, Enforce, NotManaged, None),
            (unknown, UNMANAGED, TCP, 1, Allow, Enforce, NotManaged, None),
            (UNMANAGED, WEB, TCP, 80, Allow, Enforce, RuleAllows, Some(5)),
            (UNMANAGED, WEB, TCP, 81, Deny, Enforce, PortNotListed, None),
            (UNMANAGED, DB, TCP, 5432, Deny, Enforce, NoRule, None),
            (WEB, UNMANAGED, TCP, 80, Deny, Enforce, NoRule, None),
            (ELSEWHERE, WEB, TCP, 80, Allow, Enforce, RuleAllows, Some(5)),
            // `world` reaches a network only because the host compiles it so: to `decide` it is another identity.
            (PARTNER, WEB, TCP, 80, Deny, Enforce, NoRule, None),
            (WEB, PARTNER, TCP, 443, Allow, Enforce, RuleAllows, Some(3)),
            (WEB, ELSEWHERE, TCP, 443, Deny, Enforce, PortNotListed, None),
            (WEB, ELSEWHERE, ICMP, 0, Allow, Enforce, RuleAllows, Some(4)),
            (WEB, OLD, Protocol::SCTP, 9, Allow, Enforce, RuleAllows, Some(2)),
            // A denial only passes if every declared end is in audit mode.
            (OLD, OLDER, TCP, 1, Deny, Audit, NoRule, None),
            (OLD, ELSEWHERE, TCP, 1, Deny, Audit, NoRule, None),
            (UNMANAGED, OLD, TCP, 1, Deny, Audit, NoRule, None),
            (OLD, WEB, TCP, 1, Deny, Enforce, NoRule, None),
            (WEB, OLDER, TCP, 1, Deny, Enforce, NoRule, None),
            // An end that cannot be identified.
            (FORGOTTEN, DB, TCP, 5432, Deny, Enforce, SourceUnknown, None),
            (DB, FORGOTTEN, TCP, 1, Deny, Enforce, DestinationUnknown, None),
            (unknown, OLD, TCP, 1, Deny, Audit, SourceUnknown, None),
            (unknown, unknown, TCP, 1, Allow, Enforce, NotManaged, None),
            (Party::below(10), DB, TCP, 5432, Allow, Enforce, RuleAllows, Some(0)),
            (Party::below(1), DB, TCP, 5432, Deny, Enforce, SourceUnknown, None),
            (Party::below(99), DB, TCP, 5432, Deny, Enforce, SourceUnknown, None),
            // A container whose runtime has not told of it yet is denied everything, also what it would share with
            // another one, with a process of no service or with the world.
            (PENDING, DB, TCP, 5432, Deny, Enforce, SourcePending, None),
            (WEB, PENDING, TCP, 80, Deny, Enforce, DestinationPending, None),
            (PENDING, PENDING, TCP, 80, Deny, Enforce, SourcePending, None),
            (PENDING, UNMANAGED, TCP, 80, Deny, Enforce, SourcePending, None),
            (UNMANAGED, PENDING, TCP, 80, Deny, Enforce, DestinationPending, None),
            (PENDING, ELSEWHERE, TCP, 80, Deny, Enforce, SourcePending, None),
            (PARTNER, PENDING, TCP, 80, Deny, Enforce, DestinationPending, None),
            (FORGOTTEN, PENDING, TCP, 80, Deny, Enforce, DestinationPending, None),
            (Party::below(14), DB, TCP, 80, Deny, Enforce, SourcePending, None),
            (PENDING_AUDIT, UNMANAGED, TCP, 80, Deny, Audit, SourcePending, None),
            (PENDING_AUDIT, OLD, TCP, 80, Deny, Audit, SourcePending, None),
            (PENDING_AUDIT, WEB, TCP, 80, Deny, Enforce, SourcePending, None),
            (PENDING, OLD, TCP, 80, Deny, Enforce, SourcePending, None),
            (PENDING, Party::NOBODY, TCP, 1, Allow, Enforce, NobodyListens, None),
            (PENDING, Party::LEFT_TO_INGRESS, TCP, 1, Allow, Enforce, LeftToIngress, None),
            // What another hook decides, or nobody needs to.
            (WEB, Party::LEFT_TO_INGRESS, TCP, 1, Allow, Enforce, LeftToIngress, None),
            (WEB, Party::NOBODY, TCP, 1, Allow, Enforce, NobodyListens, None),
            (DB, OLD, TCP, 1, Deny, Enforce, TableMissing, None),
        ] {
            let port = Port::new(port);
            let facts =
                Facts { caller, answerer, protocol, port, asked: Asked::NOBODY, reply_port: Port::new(0) };
            let decision = decide(&facts, &Example);
            assert_eq!(
                (decision.verdict, decision.mode, decision.reason, decision.rule()),
                (verdict, mode, reason, rule.map(RuleId)),
                "{facts:?}"
            );
            assert_eq!(decision.admits(), verdict == Allow || mode == Audit, "{facts:?}");
        }
    }

    #[test]
    fn replies() {
        for (caller, answerer, port, reply_port, reason, rule) in [
            (DB, WEB, 40000, Some(53), Reason::Reply, Some(1)),
            (DB, WEB, 40000, None, Reason::NoRule, None),
            (DB, WEB, 40000, Some(54), Reason::NoRule, None),
            // The reply port belongs to the answer, not to the call.
            (DB, WEB, 53, Some(40000), Reason::NoRule, None),
            (WEB, DB, 53, Some(40000), Reason::RuleAllows, Some(1)),
            (OLD, WEB, 40000, Some(9), Reason::Reply, Some(2)),
            (Party::UNKNOWN, WEB, 40000, Some(53), Reason::SourceUnknown, None),
            (PENDING, WEB, 40000, Some(53), Reason::SourcePending, None),
            (DB, PENDING, 40000, Some(53), Reason::DestinationPending, None),
        ] {
            let facts = Facts {
                caller,
                answerer,
                protocol: Protocol::UDP,
                port: Port::new(port),
                asked: if reply_port.is_some() { Asked::ANYONE } else { Asked::NOBODY },
                reply_port: Port::new(reply_port.unwrap_or(0)),
            };
            let decision = decide(&facts, &Example);
            assert_eq!((decision.reason, decision.rule()), (reason, rule.map(RuleId)), "{facts:?}");
            assert_eq!(decision.verdict == Verdict::Allow, rule.is_some(), "{facts:?}");
        }
    }

    #[test]
    fn binds() {
        for (binder, protocol, port, reason, admits) in [
            (DB, Protocol::TCP, 5432, Reason::SameService, true),
            (WEB, Protocol::TCP, 5432, Reason::PortReserved, false),
            (UNMANAGED, Protocol::TCP, 5432, Reason::PortReserved, false),
            (FORGOTTEN, Protocol::TCP, 5432, Reason::PortReserved, false),
            (OLD, Protocol::TCP, 5432, Reason::PortReserved, false),
            (WEB, Protocol::UDP, 5432, Reason::NotManaged, true),
            (WEB, Protocol::TCP, 5433, Reason::NotManaged, true),
            // The holder's mode counts, not the intruder's.
            (WEB, Protocol::TCP, 7, Reason::PortReserved, true),
            (PENDING, Protocol::TCP, 5432, Reason::SourcePending, false),
            (PENDING_AUDIT, Protocol::TCP, 5432, Reason::SourcePending, false),
            (PENDING, Protocol::TCP, 7, Reason::SourcePending, true),
            (PENDING, Protocol::TCP, 5433, Reason::NotManaged, true),
        ] {
            let decision = decide_bind(&binder, protocol, Port::new(port), &Example);
            assert_eq!(
                (decision.reason, decision.admits()),
                (reason, admits),
                "{binder:?} {protocol:?} {port}"
            );
        }
    }

    #[test]
    fn creations() {
        for (creator, protocol, raw, reason, admits) in [
            (WEB, Protocol::TCP, false, Reason::SameService, true),
            (WEB, Protocol::UDP, false, Reason::SameService, true),
            (WEB, Protocol::TCP, true, Reason::RawSocket, false),
            (WEB, Protocol::ICMP, true, Reason::RawSocket, false),
            (WEB, Protocol::ICMP, false, Reason::RuleAllows, true),
            (WEB, Protocol::SCTP, false, Reason::ProtocolNotListed, false),
            (OLD, Protocol::SCTP, false, Reason::RuleAllows, true),
            (OLDER, Protocol::SCTP, false, Reason::ProtocolNotListed, true),
            (OLDER, Protocol::SCTP, true, Reason::RawSocket, true),
            (UNMANAGED, Protocol::SCTP, true, Reason::NotManaged, true),
            (FORGOTTEN, Protocol::SCTP, true, Reason::NotManaged, true),
            (PENDING, Protocol::TCP, false, Reason::SameService, true),
            (PENDING, Protocol::TCP, true, Reason::SourcePending, false),
            (PENDING, Protocol::ICMP, true, Reason::SourcePending, false),
            (PENDING, Protocol::SCTP, false, Reason::SourcePending, false),
            (PENDING_AUDIT, Protocol::ICMP, true, Reason::SourcePending, true),
        ] {
            let decision = decide_create(&creator, protocol, raw, &Example);
            assert_eq!(
                (decision.reason, decision.admits()),
                (reason, admits),
                "{creator:?} {protocol:?} {raw}"
            );
        }
    }

    #[test]
    fn whose_name_a_datagram_is_sent_in() {
        for (sender, named, reason, admits) in [
            (WEB, WEB, Reason::NotManaged, true),
            (UNMANAGED, UNMANAGED, Reason::NotManaged, true),
            (UNMANAGED, FORGOTTEN, Reason::NotManaged, true),
            (WEB, DB, Reason::SourceUnknown, false),
            (UNMANAGED, DB, Reason::SourceUnknown, false),
            (FORGOTTEN, DB, Reason::SourceUnknown, false),
            // A service may not pass for nobody's, whom a rule may let call.
            (WEB, UNMANAGED, Reason::SourceUnknown, false),
            (WEB, FORGOTTEN, Reason::SourceUnknown, false),
            (WEB, OLD, Reason::SourceUnknown, false),
            (OLD, OLDER, Reason::SourceUnknown, true),
            (UNMANAGED, OLD, Reason::SourceUnknown, true),
            (PENDING, WEB, Reason::SourceUnknown, false),
        ] {
            let decision = decide_source(&sender, &named, &Example);
            assert_eq!((decision.reason, decision.admits()), (reason, admits), "{sender:?} {named:?}");
        }
    }

    #[test]
    fn a_packet_that_goes_another_way() {
        for (sender, reason, admits) in [
            (WEB, Reason::DestinationUnknown, false),
            (PENDING, Reason::DestinationUnknown, false),
            (OLD, Reason::DestinationUnknown, true),
            (UNMANAGED, Reason::NotManaged, true),
            (FORGOTTEN, Reason::NotManaged, true),
        ] {
            let decision = decide_led(&sender, Reason::DestinationUnknown, &Example);
            assert_eq!((decision.reason, decision.admits()), (reason, admits), "{sender:?}");
        }
    }

    #[test]
    fn what_cannot_be_read() {
        for (end, reason, admits) in [
            (WEB, Reason::Unparsable, false),
            (OLD, Reason::Unparsable, true),
            (UNMANAGED, Reason::NotManaged, true),
            (FORGOTTEN, Reason::NotManaged, true),
        ] {
            let decision = decide_unreadable(&end, Reason::Unparsable, &Example);
            assert_eq!((decision.reason, decision.admits()), (reason, admits), "{end:?}");
        }
    }
}
