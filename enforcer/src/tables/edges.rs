//! Rules, turned into what each pair of ends may do: one short list of port ranges per pair.

use std::cmp::Ordering;
use std::sync::Arc;

use enforcer_common::layout::{EdgeKey, EdgeValue, PortRange};
use enforcer_common::{Identity, Protocol, RuleId};
use rangemap::RangeInclusiveSet;

use super::{CapacityError, Limits};
use crate::identities::Identities;
use crate::policy::{self, Peer, Policy, Ports, Rule, Rules};

/// Grants of a piece: so few that one is compiled anew in no time, so many that pieces do not count.
const PIECE: usize = 4096;

/// What each pair of ends may do, in the order of keys, as maps are written from it. In pieces, so that two revisions share
/// what is the same in both.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    /// None is empty, and each pair is in one of them.
    pieces: Vec<Arc<Piece>>,
    /// Pairs that rules name, counted once for every rule that names them.
    grants: usize,
}

/// What some neighbouring pairs may do.
#[derive(Clone, Debug, Default)]
struct Piece {
    keys: Vec<EdgeKey>,
    values: Vec<EdgeValue>,
    /// What it was compiled from.
    grants: Vec<Grant>,
}

/// What makes one list of edges another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Keys that are not there any longer.
    pub removed: Vec<EdgeKey>,
    /// Keys that are new, or have another value.
    pub keys: Vec<EdgeKey>,
    /// What stands behind each of these.
    pub values: Vec<EdgeValue>,
}

impl Edges {
    /// What stands behind a key.
    pub fn get(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        let place = self.pieces.partition_point(|piece| piece.keys.last().is_some_and(|last| last < key));
        let piece = self.pieces.get(place)?;
        piece.values.get(piece.keys.binary_search(key).ok()?)
    }

    /// Sorted; none stands twice.
    pub fn keys(&self) -> impl Iterator<Item = &EdgeKey> {
        self.pieces.iter().flat_map(|piece| &piece.keys)
    }

    /// All of them, in the order of keys: keys, and what stands behind each.
    pub fn pieces(&self) -> impl Iterator<Item = (&[EdgeKey], &[EdgeValue])> {
        self.pieces.iter().map(|piece| (piece.keys.as_slice(), piece.values.as_slice()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.keys.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the last one out.
    pub fn pop_last(&mut self) -> Option<(EdgeKey, EdgeValue)> {
        let last = Arc::make_mut(self.pieces.last_mut()?);
        let popped = last.keys.pop().zip(last.values.pop());
        self.pieces.pop_if(|piece| piece.keys.is_empty());
        popped
    }

    /// What makes `self` what `next` is; nothing if that is more than `most` entries. What the two share is not looked at.
    pub fn difference(&self, next: &Self, most: usize) -> Option<Difference> {
        let (mut old, mut new) = (Cursor::new(&self.pieces), Cursor::new(&next.pieces));
        let mut difference = Difference::default();
        loop {
            if let (Some(before), Some(after)) = (old.whole_piece(), new.whole_piece())
                && Arc::ptr_eq(before, after)
            {
                old.skip_piece();
                new.skip_piece();
                continue;
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Some(difference),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (before, after) {
                (Some((key, _)), None) => difference.removed.push(*key),
                (before, Some((key, value))) if before.is_none_or(|(_, before)| before != value) => {
                    difference.keys.push(*key);
                    difference.values.push(*value);
                }
                (_, _) => {}
            }
            if difference.removed.len() + difference.keys.len() > most {
                return None;
            }
        }
    }
}

impl PartialEq for Edges {
    fn eq(&self, other: &Self) -> bool {
        // Pieces may end elsewhere.
        self.difference(other, 0).is_some()
    }
}

impl Eq for Edges {}

/// A place among the entries of pieces.
struct Cursor<'a> {
    pieces: &'a [Arc<Piece>],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a [Arc<Piece>]) -> Self {
        Self { pieces, at: 0 }
    }

    /// The next entry.
    fn peek(&self) -> Option<(&'a EdgeKey, &'a EdgeValue)> {
        let piece = self.pieces.first()?;
        piece.keys.get(self.at).zip(piece.values.get(self.at))
    }

    /// The piece that begins here.
    fn whole_piece(&self) -> Option<&'a Arc<Piece>> {
        self.pieces.first().filter(|_| self.at == 0)
    }

    fn skip_piece(&mut self) {
        self.pieces = self.pieces.get(1..).unwrap_or_default();
        self.at = 0;
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = (&'a EdgeKey, &'a EdgeValue);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.peek()?;
        self.at += 1;
        if self.pieces.first().is_none_or(|piece| self.at >= piece.keys.len()) {
            self.skip_piece();
        }
        Some(entry)
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
    let spans = Spans::of(&policy.rules);
    let mut grants = Vec::with_capacity(policy.rules.len().min(limits.grants));
    let number = grant((0..).zip(&policy.rules), ends, 0, limits, &mut grants)?;
    grants.sort_unstable();
    let mut edges = Edges { pieces: Vec::new(), grants: number };
    let number = cut(&grants, &spans, identities, limits, limits.edges, &mut edges.pieces)?;
    within(number, limits)?;
    Ok(edges)
}

/// A rule and its number.
type Numbered<'a> = (u32, &'a Rule);

/// The edges of a policy that differs from the one with these `edges` in some rules alone: `before` were there and are not any
/// longer, `after` are there instead. Rules, services and networks have the numbers that they had.
pub(super) fn change(
    edges: &Edges,
    rules: &Rules,
    before: &[Numbered<'_>],
    after: &[Numbered<'_>],
    ends: &Ends<'_>,
    identities: &Identities,
    limits: &Limits,
) -> Result<Edges, CapacityError> {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    // They were within the limits, together with others.
    let gone = grant(before.iter().copied(), ends, 0, limits, &mut removed)?;
    let kept = edges.grants.saturating_sub(gone);
    let grants = grant(after.iter().copied(), ends, kept, limits, &mut added)?;
    removed.sort_unstable();
    added.sort_unstable();
    let mut changed = Edges { pieces: Vec::with_capacity(edges.pieces.len() + 1), grants };
    let (mut removed, mut added) = (removed.as_slice(), added.as_slice());
    let nothing = Arc::new(Piece::default());
    let pieces = if edges.pieces.is_empty() { std::slice::from_ref(&nothing) } else { &edges.pieces };
    for (place, piece) in pieces.iter().enumerate() {
        // A pair that is in no piece goes to the last one that begins before it.
        let next = pieces.get(place + 1).and_then(|next| next.grants.first()).map(Grant::pair);
        let is_here = |grant: &Grant| next.is_none_or(|next| grant.pair() < next);
        let (gone, come);
        (gone, removed) = removed.split_at(removed.partition_point(is_here));
        (come, added) = added.split_at(added.partition_point(is_here));
        if gone.is_empty() && come.is_empty() {
            changed.pieces.extend((!piece.grants.is_empty()).then(|| piece.clone()));
            continue;
        }
        let mut grants: Vec<Grant> =
            piece.grants.iter().filter(|grant| gone.binary_search(grant).is_err()).copied().collect();
        grants.extend(come);
        grants.sort_unstable();
        let mut numbers: Vec<u32> = grants.iter().map(|grant| grant.rule).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let spans = Spans::of_some(rules, numbers);
        cut(&grants, &spans, identities, limits, usize::MAX, &mut changed.pieces)?;
    }
    within(changed.len(), limits)?;
    Ok(changed)
}

fn within(number: usize, limits: &Limits) -> Result<(), CapacityError> {
    if number > limits.edges {
        return Err(CapacityError::Edges { number, limit: limits.edges });
    }
    Ok(())
}

/// Compiles sorted grants to pieces, as long as there are no more than `most` entries. Returns how many there are.
fn cut(
    grants: &[Grant],
    spans: &Spans,
    identities: &Identities,
    limits: &Limits,
    most: usize,
    pieces: &mut Vec<Arc<Piece>>,
) -> Result<usize, CapacityError> {
    let mut number = 0;
    let mut covered = RangeInclusiveSet::new();
    let mut ranges = Vec::new();
    let mut piece = Piece::default();
    for pair in grants.chunk_by(|a, b| a.pair() == b.pair()) {
        let Some(Grant { from, to, .. }) = pair.first().copied() else { continue };
        merge(pair, spans, &mut covered, &mut ranges);
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
        number += parts;
        if number > most {
            continue;
        }
        for (number, part) in (0_u32..).zip(ranges.chunks(EdgeValue::RANGES)) {
            let mut value = [PortRange::UNUSED; EdgeValue::RANGES];
            for (place, range) in value.iter_mut().zip(part) {
                *place = *range;
            }
            let last = u32::try_from(parts).is_ok_and(|parts| number + 1 == parts);
            piece.keys.push(EdgeKey::new(from, to).chunk(number));
            piece.values.push(EdgeValue::new(value, !last));
        }
        piece.grants.extend(pair);
        if piece.grants.len() >= PIECE {
            pieces.push(Arc::new(std::mem::take(&mut piece).fitted()));
        }
    }
    if !piece.grants.is_empty() {
        pieces.push(Arc::new(piece.fitted()));
    }
    Ok(number)
}

impl Piece {
    /// The same, with no more memory than it needs.
    fn fitted(mut self) -> Self {
        self.keys.shrink_to_fit();
        self.values.shrink_to_fit();
        self.grants.shrink_to_fit();
        self
    }
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// One rule's word on one pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Grant {
    from: Identity,
    to: Identity,
    rule: u32,
}

impl Grant {
    fn pair(&self) -> (Identity, Identity) {
        (self.from, self.to)
    }
}

/// Says what rules, of which each comes with its number, grant. Returns how many grants there are, counted from `number` on.
fn grant<'a>(
    rules: impl Iterator<Item = (u32, &'a Rule)>,
    ends: &Ends<'_>,
    mut number: usize,
    limits: &Limits,
    grants: &mut Vec<Grant>,
) -> Result<usize, CapacityError> {
    let (mut from, mut to, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for (rule, Rule { from: callers, to: answerers, ports, .. }) in rules {
        if is_nothing(ports) {
            continue;
        }
        ends.expand(callers, &mut from);
        ends.expand(answerers, &mut to);
        services.clear();
        services.extend(to.iter().copied().filter(|to| to.is_service()));
        // Counted before anything is stored: two long lists make more pairs than memory holds.
        let declared = from.iter().filter(|from| from.is_service()).count();
        let undeclared = from.len() - declared;
        number = number
            .saturating_add(declared.saturating_mul(to.len()))
            .saturating_add(undeclared.saturating_mul(services.len()));
        if number > limits.grants {
            continue;
        }
        for from in &from {
            let to = if from.is_service() { &to } else { &services };
            let to = to.iter().filter(|to| *to != from);
            grants.extend(to.map(|to| Grant { from: *from, to: *to, rule }));
        }
    }
    if number > limits.grants {
        return Err(CapacityError::Grants { number, limit: limits.grants });
    }
    Ok(number)
}

/// Whether these are no ports at all.
fn is_nothing(ports: &Ports) -> bool {
    match ports {
        Ports::Everything => false,
        Ports::Listed(ranges) => !ranges.iter().any(|range| Span::of(range).is_some()),
    }
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

    /// Nothing if the range ends before it begins.
    fn of(range: &policy::PortRange) -> Option<Self> {
        match *range {
            policy::PortRange::Protocol(protocol) => Some(Self::new(protocol, 0, u16::MAX)),
            policy::PortRange::Ports { protocol, low, high } if low <= high => {
                Some(Self::new(protocol, low, high))
            }
            policy::PortRange::Ports { .. } => None,
        }
    }

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

/// What rules' `ports` come to: sorted, with what overlaps or touches merged. One list for all rules, so that a policy of a
/// million rules does not make a million allocations.
struct Spans {
    spans: Vec<Span>,
    /// Where each rule's part ends.
    ends: Vec<usize>,
    /// The numbers of the rules, sorted; none if they are all.
    numbers: Option<Vec<u32>>,
}

impl Spans {
    fn of(rules: &Rules) -> Self {
        Self::of_each(rules, rules.len())
    }

    /// Of the rules with these numbers, which are sorted.
    fn of_some(rules: &Rules, numbers: Vec<u32>) -> Self {
        let some = numbers.iter().filter_map(|number| rules.get(place(*number)));
        let spans = Self::of_each(some, numbers.len());
        Self { numbers: Some(numbers), ..spans }
    }

    fn of_each<'a>(rules: impl IntoIterator<Item = &'a Rule>, number: usize) -> Self {
        let mut spans = Vec::with_capacity(number);
        let mut ends = Vec::with_capacity(number);
        let mut scratch = Vec::new();
        for rule in rules {
            scratch.clear();
            match &rule.ports {
                Ports::Everything => scratch.push(Span::EVERYTHING),
                Ports::Listed(ranges) => scratch.extend(ranges.iter().filter_map(Span::of)),
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
        Self { spans, ends, numbers: None }
    }

    fn of_rule(&self, rule: u32) -> &[Span] {
        let end_of = |rule: usize| self.ends.get(rule).copied().unwrap_or(self.spans.len());
        let rule = match &self.numbers {
            None => place(rule),
            Some(numbers) => numbers.binary_search(&rule).unwrap_or(usize::MAX),
        };
        let start = rule.checked_sub(1).map_or(0, end_of);
        self.spans.get(start..end_of(rule)).unwrap_or_default()
    }
}
