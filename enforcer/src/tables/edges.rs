//! Rules, turned into what each pair of ends may do: one short list of port ranges per pair.

use enforcer_common::layout::{EdgeKey, EdgeValue, PortRange};
use enforcer_common::{Identity, Protocol, RuleId};
use rangemap::RangeInclusiveSet;

use super::{CapacityError, Limits};
use crate::identities::Identities;
use crate::policy::{self, Peer, Policy, Ports};

/// What each pair of ends may do, in the order of keys, as maps are written from it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edges {
    keys: Vec<EdgeKey>,
    values: Vec<EdgeValue>,
}

impl Edges {
    fn with_capacity(number: usize) -> Self {
        Self { keys: Vec::with_capacity(number), values: Vec::with_capacity(number) }
    }

    /// What stands behind a key.
    pub fn get(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        self.values.get(self.keys.binary_search(key).ok()?)
    }

    /// Sorted; none stands twice.
    pub fn keys(&self) -> &[EdgeKey] {
        &self.keys
    }

    /// What stands behind each of the keys.
    pub fn values(&self) -> &[EdgeValue] {
        &self.values
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes the last one out.
    pub fn pop_last(&mut self) -> Option<(EdgeKey, EdgeValue)> {
        self.keys.pop().zip(self.values.pop())
    }
}

/// The identities behind the peers that rules name.
pub(super) struct Ends<'a> {
    /// By number of the service.
    pub(super) services: &'a [Identity],
    /// By number of the network: every set that contains it.
    pub(super) networks: &'a [Vec<Identity>],
    /// [`Identity::WORLD`], and every set of networks.
    pub(super) world: &'a [Identity],
}

impl Ends<'_> {
    fn expand(&self, peers: &[Peer], into: &mut Vec<Identity>) {
        into.clear();
        for peer in peers {
            match peer {
                Peer::Service(number) => into.extend(self.services.get(place(*number))),
                Peer::Network(number) => into.extend(self.networks.get(place(*number)).into_iter().flatten()),
                Peer::Unmanaged => into.push(Identity::UNMANAGED),
                Peer::World => into.extend(self.world),
            }
        }
        into.sort_unstable();
        into.dedup();
    }
}

/// The edges of a policy.
///
/// Pairs without a declared service and pairs of a service with itself have none: `decide` answers these before it
/// looks for an edge. Within a pair the ranges stand in the order of their rules, and `decide` takes the first that
/// covers a port, so the earliest rule is the one that is named, without cutting later ranges to pieces.
pub(super) fn compile(
    policy: &Policy,
    ends: &Ends<'_>,
    identities: &Identities,
    limits: &Limits,
) -> Result<Edges, CapacityError> {
    let spans = Spans::of(policy);
    let mut grants = grants(policy, ends, &spans, limits)?;
    grants.sort_unstable();
    // In the order of pairs, as the grants are.
    let mut edges = Edges::with_capacity(grants.len());
    let mut edge_count = 0;
    let mut covered = RangeInclusiveSet::new();
    let mut ranges = Vec::new();
    for pair in grants.chunk_by(|a, b| (a.from, a.to) == (b.from, b.to)) {
        let Some(Grant { from, to, .. }) = pair.first().copied() else { continue };
        merge(pair, &spans, &mut covered, &mut ranges);
        if ranges.len() > limits.ranges_per_pair {
            let name = |identity| identities.name(identity).unwrap_or("unknown").to_owned();
            return Err(CapacityError::Ranges {
                from: name(from),
                to: name(to),
                number: ranges.len(),
                limit: limits.ranges_per_pair,
            });
        }
        let parts = ranges.len().div_ceil(EdgeValue::RANGES);
        edge_count += parts;
        if edge_count > limits.edges {
            continue;
        }
        for (number, part) in (0_u32..).zip(ranges.chunks(EdgeValue::RANGES)) {
            let mut value = [PortRange::UNUSED; EdgeValue::RANGES];
            for (place, range) in value.iter_mut().zip(part) {
                *place = *range;
            }
            let last = u32::try_from(parts).is_ok_and(|parts| number + 1 == parts);
            edges.keys.push(EdgeKey::new(from, to).chunk(number));
            edges.values.push(EdgeValue::new(value, !last));
        }
    }
    if edge_count > limits.edges {
        return Err(CapacityError::Edges { number: edge_count, limit: limits.edges });
    }
    // Several rules name one pair, and a pair may lie beyond the limit.
    edges.keys.shrink_to_fit();
    edges.values.shrink_to_fit();
    Ok(edges)
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// One rule's word on one pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    from: Identity,
    to: Identity,
    rule: u32,
}

fn grants(
    policy: &Policy,
    ends: &Ends<'_>,
    spans: &Spans,
    limits: &Limits,
) -> Result<Vec<Grant>, CapacityError> {
    let mut grants = Vec::with_capacity(policy.rules.len().min(limits.grants));
    let mut grant_count: usize = 0;
    let (mut from, mut to, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for (number, rule) in (0_u32..).zip(&policy.rules) {
        if spans.of_rule(number).is_empty() {
            continue;
        }
        ends.expand(&rule.from, &mut from);
        ends.expand(&rule.to, &mut to);
        services.clear();
        services.extend(to.iter().copied().filter(|to| to.is_service()));
        // Counted before anything is stored: two long lists make more pairs than memory holds.
        let declared = from.iter().filter(|from| from.is_service()).count();
        let undeclared = from.len() - declared;
        grant_count = grant_count
            .saturating_add(declared.saturating_mul(to.len()))
            .saturating_add(undeclared.saturating_mul(services.len()));
        if grant_count > limits.grants {
            continue;
        }
        for from in &from {
            let to = if from.is_service() { &to } else { &services };
            grants.extend(to.iter().filter(|to| *to != from).map(|to| Grant {
                from: *from,
                to: *to,
                rule: number,
            }));
        }
    }
    if grant_count > limits.grants {
        return Err(CapacityError::Grants { number: grant_count, limit: limits.grants });
    }
    Ok(grants)
}

fn merge(pair: &[Grant], spans: &Spans, covered: &mut RangeInclusiveSet<u32>, ranges: &mut Vec<PortRange>) {
    ranges.clear();
    if let [only] = pair {
        ranges.extend(spans.of_rule(only.rule).iter().map(|span| span.range(RuleId(only.rule))));
        return;
    }
    covered.clear();
    for grant in pair {
        for span in spans.of_rule(grant.rule) {
            let span_range = span.low..=span.high;
            if covered.gaps(&span_range).next().is_some() {
                covered.insert(span_range);
                ranges.push(span.range(RuleId(grant.rule)));
            }
        }
    }
}

/// Ports of one protocol, or everything, on the line on which every protocol has 65,536 places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    low: u32,
    high: u32,
}

impl Span {
    const EVERYTHING: Self = Self { low: 0, high: 0x00ff_ffff };

    fn new(protocol: Protocol, low: u16, high: u16) -> Self {
        let line = u32::from(protocol.0) << 16;
        Self { low: line | u32::from(low), high: line | u32::from(high) }
    }

    fn range(self, rule: RuleId) -> PortRange {
        if self == Self::EVERYTHING {
            return PortRange::everything(rule);
        }
        let [_, protocol, low @ ..] = self.low.to_be_bytes();
        let [_, _, high @ ..] = self.high.to_be_bytes();
        match (u16::from_be_bytes(low), u16::from_be_bytes(high)) {
            (0, u16::MAX) => PortRange::protocol(Protocol(protocol), rule),
            (low, high) => PortRange::ports(Protocol(protocol), low, high, rule),
        }
    }

    /// Whether the two leave nothing between them; the last port of a protocol is no neighbour of the next one's
    /// first, since no range spans two protocols.
    fn touches(self, next: Self) -> bool {
        next.low <= self.high || (next.low == self.high + 1 && next.low >> 16 == self.high >> 16)
    }
}

/// What every rule's `ports` come to: sorted, with what overlaps or touches merged. One list for all rules, so that
/// a policy of a million rules does not make a million allocations.
struct Spans {
    spans: Vec<Span>,
    /// Where each rule's part ends.
    ends: Vec<usize>,
}

impl Spans {
    fn of(policy: &Policy) -> Self {
        let mut spans = Vec::with_capacity(policy.rules.len());
        let mut ends = Vec::with_capacity(policy.rules.len());
        let mut scratch = Vec::new();
        for rule in &policy.rules {
            scratch.clear();
            match &rule.ports {
                Ports::Everything => scratch.push(Span::EVERYTHING),
                Ports::Listed(ranges) => scratch.extend(ranges.iter().filter_map(|range| match range {
                    policy::PortRange::Protocol(protocol) => Some(Span::new(*protocol, 0, u16::MAX)),
                    policy::PortRange::Ports { protocol, low, high } if low <= high => {
                        Some(Span::new(*protocol, *low, *high))
                    }
                    policy::PortRange::Ports { .. } => None,
                })),
            }
            scratch.sort_unstable();
            let mut merged = scratch.iter().copied();
            if let Some(mut current) = merged.next() {
                for next in merged {
                    if current.touches(next) {
                        current.high = current.high.max(next.high);
                    } else {
                        spans.push(std::mem::replace(&mut current, next));
                    }
                }
                spans.push(current);
            }
            ends.push(spans.len());
        }
        Self { spans, ends }
    }

    fn of_rule(&self, rule: u32) -> &[Span] {
        let end_of = |rule: usize| self.ends.get(rule).copied().unwrap_or(self.spans.len());
        let rule = usize::try_from(rule).unwrap_or(usize::MAX);
        let start = rule.checked_sub(1).map_or(0, end_of);
        self.spans.get(start..end_of(rule)).unwrap_or_default()
    }
}
