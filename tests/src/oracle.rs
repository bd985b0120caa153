//! The policy read slowly: what it says of an attempt, without tables, numbers or any code that the product runs.

use std::net::IpAddr;

use enforcer::policy::{Cidr, Network, Peer, Policy, PortRange, Ports, Rule, Selector, Service};
use enforcer_common::counter::Outcome;
use enforcer_common::{Mode, Protocol, Reason};

/// Who stands at one end of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// A process of this service, by its number in the policy.
    Service(usize),
    /// A local process in no declared service.
    Unmanaged,
    /// An address that is not of this host.
    Address(IpAddr),
    /// Somebody local who cannot be identified.
    Unknown,
    /// A container that its runtime has not told of yet.
    Pending,
}

/// One end tries to reach the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Who calls.
    pub from: End,
    /// Who would answer.
    pub to: End,
    /// The protocol of the flow.
    pub protocol: Protocol,
    /// The answerer's port; 0 for a protocol without ports.
    pub port: u16,
    /// The caller's port, if this may be a reply to a flow that the answerer opened.
    pub reply_port: Option<u16>,
}

/// What becomes of an attempt, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What becomes of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The rule that allows it, by its number in the policy.
    pub rule: Option<usize>,
}

/// What `policy` says of `attempt`.
pub fn answer(policy: &Policy, attempt: &Attempt) -> Answer {
    let Attempt { from, to, protocol, port, reply_port } = *attempt;
    let allow = |reason, rule| Answer { outcome: Outcome::Allowed, reason, rule };
    if from == End::Pending || to == End::Pending {
        let reason = if from == End::Pending { Reason::SourcePending } else { Reason::DestinationPending };
        return Answer { outcome: pending_outcome(policy, from, to), reason, rule: None };
    }
    let declared: Vec<usize> = [from, to].into_iter().filter_map(service).collect();
    if declared.is_empty() {
        return allow(Reason::NotManaged, None);
    }
    if from == to {
        return allow(Reason::SameService, None);
    }
    let names = |rule: &Rule, from, to| names(policy, &rule.from, from) && names(policy, &rule.to, to);
    let covering = |from, to, port| {
        policy.rules.iter().position(|rule| names(rule, from, to) && lists(rule, protocol, port))
    };
    if let Some(rule) = covering(from, to, port) {
        return allow(Reason::RuleAllows, Some(rule));
    }
    if let Some(rule) = reply_port.and_then(|port| covering(to, from, port)) {
        return allow(Reason::Reply, Some(rule));
    }
    let reason = if from == End::Unknown {
        Reason::SourceUnknown
    } else if to == End::Unknown {
        Reason::DestinationUnknown
    } else if policy.rules.iter().any(|rule| names(rule, from, to) && rule.ports != Ports::Listed([].into()))
    {
        Reason::PortNotListed
    } else {
        Reason::NoRule
    };
    let audited = declared.iter().all(|service| policy.services[*service].mode == Mode::Audit);
    Answer { outcome: if audited { Outcome::WouldDeny } else { Outcome::Denied }, reason, rule: None }
}

/// It passes only if everybody who may be meant is in audit mode: a declared end, and every service that the container
/// may turn out to be.
fn pending_outcome(policy: &Policy, from: End, to: End) -> Outcome {
    let selects_containers = |service: &Service| {
        service.selectors.iter().any(|selector| matches!(selector, Selector::Container(_)))
    };
    let meant = policy.services.iter().enumerate().filter(|(number, service)| {
        from == End::Service(*number) || to == End::Service(*number) || selects_containers(service)
    });
    let audited = meant.map(|(_, service)| service.mode).all(|mode| mode == Mode::Audit);
    let possible = policy.services.iter().any(selects_containers);
    if audited && possible { Outcome::WouldDeny } else { Outcome::Denied }
}

fn service(end: End) -> Option<usize> {
    if let End::Service(number) = end { Some(number) } else { None }
}

fn names(policy: &Policy, peers: &[Peer], end: End) -> bool {
    peers.iter().any(|peer| match (*peer, end) {
        (Peer::Service(number), _) => end == End::Service(index(number)),
        (Peer::Unmanaged, _) => end == End::Unmanaged,
        (Peer::World, _) => matches!(end, End::Address(_)),
        (Peer::Network(number), End::Address(address)) => is_in(&policy.networks[index(number)], address),
        (Peer::Network(_), End::Service(_) | End::Unmanaged | End::Unknown | End::Pending) => false,
    })
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("as wide as 32 bits")
}

/// Whether `address` is in one of the network's prefixes and in no exception.
pub fn is_in(network: &Network, address: IpAddr) -> bool {
    let begins = |cidr: &Cidr| match (cidr.address, address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => {
            (0..32 - cidr.prefix).fold(u32::from(address), |bits, bit| bits & !(1 << bit)) == u32::from(first)
        }
        (IpAddr::V6(first), IpAddr::V6(address)) => {
            (0..128 - cidr.prefix).fold(u128::from(address), |bits, bit| bits & !(1 << bit))
                == u128::from(first)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    };
    network.cidrs.iter().any(begins) && !network.except.iter().any(begins)
}

fn lists(rule: &Rule, protocol: Protocol, port: u16) -> bool {
    match &rule.ports {
        Ports::Everything => true,
        Ports::Listed(ranges) => ranges.iter().any(|range| match *range {
            PortRange::Protocol(listed) => listed == protocol,
            PortRange::Ports { protocol: listed, low, high } => {
                listed == protocol && (low..=high).contains(&port)
            }
        }),
    }
}
