//! The rules of a policy as they are kept: of a million of them, most of the daemon's memory.

use std::ops::{Deref, Index, Range};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Rule;

/// Rules that are kept in one piece.
const PIECE: usize = 1024;

/// The rules of a policy, in order. A copy shares them with what it was made from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// None of them is empty.
    pieces: Vec<Arc<[Rule]>>,
    /// How many rules there are up to the end of each piece.
    ends: Vec<usize>,
}

impl Rules {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rule with this number.
    pub fn get(&self, number: usize) -> Option<&Rule> {
        let piece = self.ends.partition_point(|end| *end <= number);
        let start = piece.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.pieces.get(piece)?.get(number - start)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> + Clone {
        self.into_iter()
    }

    /// Adds one behind the others.
    pub fn push(&mut self, rule: Rule) {
        self.add(Arc::new([rule]));
    }

    /// The same with others in the place of those in `range`, of which there may be more or fewer.
    ///
    /// # Panics
    ///
    /// The range is not within the rules.
    #[must_use]
    pub fn with(&self, range: Range<usize>, others: impl IntoIterator<Item = Rule>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        // What is put behind all others goes to the last piece, so that pieces stay few.
        let last = self.pieces.len().saturating_sub(1);
        let first = self.ends.partition_point(|end| *end <= range.start).min(last);
        let next = (self.ends.partition_point(|end| *end < range.end).max(first) + 1).min(self.pieces.len());
        let end_before = |place: usize| place.checked_sub(1).and_then(|last| self.ends.get(last)).copied();
        let (start, end) = (end_before(first).unwrap_or(0), end_before(next).unwrap_or(0));
        let kept = |range: Range<usize>| range.filter_map(|number| self.get(number).cloned());
        let mut builder = Builder::default();
        for piece in self.pieces.iter().take(first) {
            builder.rules.add(piece.clone());
        }
        kept(start..range.start).for_each(|rule| builder.push(rule));
        others.into_iter().for_each(|rule| builder.push(rule));
        kept(range.end..end).for_each(|rule| builder.push(rule));
        let mut rules = builder.finish();
        for piece in self.pieces.iter().skip(next) {
            rules.add(piece.clone());
        }
        rules
    }

    /// The rules that are other ones in `next`, each with its number, before and after. Nothing if there are more than `most`,
    /// or not as many rules as before. What the two share is not looked at.
    pub fn changed<'a>(&'a self, next: &'a Self, most: usize) -> Option<Vec<(u32, &'a Rule, &'a Rule)>> {
        if self.len() != next.len() {
            return None;
        }
        let mut changed = Vec::new();
        let mut start = 0;
        for (place, piece) in self.pieces.iter().enumerate() {
            let end = start + piece.len();
            let same_place = next.pieces.get(place).filter(|_| next.ends.get(place) == Some(&end));
            if same_place.is_none_or(|other| !Arc::ptr_eq(piece, other)) {
                for (number, old) in (start..).zip(piece.iter()) {
                    let new = next.get(number)?;
                    if old != new {
                        changed.push((u32::try_from(number).ok()?, old, new));
                    }
                    if changed.len() > most {
                        return None;
                    }
                }
            }
            start = end;
        }
        Some(changed)
    }

    fn add(&mut self, piece: Arc<[Rule]>) {
        if !piece.is_empty() {
            self.ends.push(self.len() + piece.len());
            self.pieces.push(piece);
        }
    }
}

/// Rules to which others are added.
#[derive(Default)]
pub(super) struct Builder {
    rules: Rules,
    piece: Vec<Rule>,
}

impl Builder {
    /// Adds one behind the others.
    pub(super) fn push(&mut self, rule: Rule) {
        self.piece.push(rule);
        if self.piece.len() == PIECE {
            self.rules.add(self.piece.drain(..).collect());
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rules.len() + self.piece.len()
    }

    /// All of them.
    pub(super) fn finish(mut self) -> Rules {
        self.rules.add(self.piece.into());
        self.rules
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        let mut builder = Builder::default();
        rules.into_iter().for_each(|rule| builder.push(rule));
        builder.finish()
    }
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        rules.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Rules {
    type Item = &'a Rule;
    type IntoIter = std::iter::FlatMap<
        std::slice::Iter<'a, Arc<[Rule]>>,
        std::slice::Iter<'a, Rule>,
        fn(&'a Arc<[Rule]>) -> std::slice::Iter<'a, Rule>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }
}

impl Index<usize> for Rules {
    type Output = Rule;

    fn index(&self, number: usize) -> &Rule {
        match self.get(number) {
            Some(rule) => rule,
            None => panic!("rule {number} of {}", self.len()),
        }
    }
}

/// A list that mostly has one element, which then takes no memory besides the list itself.
#[derive(Clone, Debug)]
pub enum Few<T> {
    /// One element.
    One(T),
    /// None, or several.
    Many(Box<[T]>),
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut list: Vec<T>) -> Self {
        match (list.pop(), list.is_empty()) {
            (Some(one), true) => Self::One(one),
            (last, _) => {
                list.extend(last);
                Self::Many(list.into_boxed_slice())
            }
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(list: I) -> Self {
        Vec::from_iter(list).into()
    }
}

impl<T, const N: usize> From<[T; N]> for Few<T> {
    fn from(list: [T; N]) -> Self {
        Vec::from(list).into()
    }
}

impl<T: Serialize> Serialize for Few<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Location, Peer, PortRange, Ports, Rule};
    use super::{Few, PIECE, Rules};

    fn rule(number: usize) -> Rule {
        let file = Path::new("policy.yaml").into();
        let location = Location { file, line: 1, column: 1 };
        let name = format!("r{number}").into();
        Rule { name, from: [].into(), to: [Peer::World].into(), ports: Ports::Everything, location }
    }

    #[test]
    fn every_rule_is_found_at_its_number() {
        for number in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let mut rules: Rules = (0..number).map(rule).collect();
            assert_eq!((rules.len(), rules.is_empty()), (number, number == 0));
            rules.push(rule(number));
            assert_eq!(rules.len(), number + 1);
            assert_eq!(rules.iter().count(), number + 1);
            for (index, found) in rules.iter().enumerate() {
                assert_eq!(*found.name, *format!("r{index}"));
                assert_eq!(rules.get(index), Some(found));
            }
            assert_eq!(rules.get(number + 1), None);
        }
    }

    #[test]
    fn rules_are_replaced_and_the_difference_is_what_was() {
        let lengths = [0, 1, 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 3];
        for number in lengths {
            let rules: Rules = (0..number).map(rule).collect();
            let places = [0, 1, PIECE - 1, PIECE, PIECE + 1, number / 2, number];
            for (start, end) in places.into_iter().flat_map(|start| places.map(|end| (start, end))) {
                if start > end || end > number {
                    continue;
                }
                for others in [0, 1, end - start, PIECE + 5] {
                    let mut wanted: Vec<Rule> = (0..number).map(rule).collect();
                    let new: Vec<Rule> = (0..others).map(|other| rule(1_000_000 + other)).collect();
                    wanted.splice(start..end, new.clone());
                    let next = rules.with(start..end, new);
                    assert_eq!(next.len(), wanted.len());
                    assert!(next.iter().eq(&wanted), "{number}: {others} for {start}..{end}");
                    assert!(wanted.iter().enumerate().all(|(number, rule)| next.get(number) == Some(rule)));
                    let changed = rules.changed(&next, usize::MAX);
                    assert_eq!(changed.is_some(), others == end - start);
                    if let Some(changed) = changed {
                        let numbers: Vec<u32> = changed.iter().map(|(number, ..)| *number).collect();
                        let wanted: Vec<u32> =
                            (start..end).map(|number| u32::try_from(number).expect("few")).collect();
                        assert_eq!(numbers, wanted);
                        assert!(changed.iter().all(|(_, old, new)| old != new));
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_is_what_it_was_made_from() {
        for list in [vec![], vec![1], vec![1, 2], vec![1, 2, 3]] {
            assert_eq!(*Few::from(list.clone()), *list);
        }
        assert_eq!(Few::from([7]), Few::Many(Box::new([7])));
    }

    #[test]
    fn a_rule_stays_small() {
        assert_eq!(size_of::<Few<Peer>>(), 16);
        assert_eq!(size_of::<Few<PortRange>>(), 16);
        assert!(size_of::<Rule>() <= 96, "{}", size_of::<Rule>());
    }
}
