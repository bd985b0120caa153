//! Finds selectors of different services that can claim the same cgroup.
//!
//! Fixed names are looked up; patterns are compared only with what agrees with the fixed text they begin or end with.

use std::collections::{BTreeMap, HashMap, HashSet};

use enforcer_common::limits;

use super::container::ContainerSelector;
use super::selector::{Selector, common_segment, glob_matches, overlap};

/// Steps that the whole search may take, about a second; only thousands of patterns like `*-1*` need more.
const MAX_STEPS: usize = 30_000_000;

/// What one full comparison of two patterns counts.
const OVERLAP_STEPS: usize = 20;

/// Conflicts that are counted: one for each selector that there may be, of which patterns could have many more.
pub(super) const MAX_CONFLICTS: usize = limits::MAX_SELECTORS;

/// Two selectors, by their place in the list, and a path that both claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conflict {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) example: String,
}

/// The patterns share so little fixed text that comparing them all would take too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooManyGlobs {
    /// The steps after which the search gave up.
    pub(super) compared: usize,
}

/// Finds at least one conflict for every fixed name that is in one with a fixed name or a pattern, and all
/// conflicts between patterns, up to a number; each selector comes with the number of its service.
pub(super) fn find(selectors: &[(usize, &Selector)]) -> Result<Vec<Conflict>, TooManyGlobs> {
    let leaves: Vec<Vec<String>> = selectors.iter().map(|(_, selector)| selector.leaves()).collect();
    let exact = Exact::new(selectors, &leaves);
    let mut search = Search { selectors, found: HashSet::new(), conflicts: Vec::new(), steps: 0 };
    for (index, (owner, selector)) in selectors.iter().enumerate() {
        let partner = match selector {
            Selector::Systemd(_) => exact.systemd(*owner, &leaves[index], &mut search.steps)?,
            Selector::Cgroup(path) => exact.cgroup(*owner, path, &mut search.steps)?,
            Selector::Container(_) => None,
        };
        if let Some(partner) = partner {
            search.compare(index, partner)?;
        }
    }
    search.globs(&leaves)?;
    search.containers();
    let mut conflicts = search.conflicts;
    conflicts.sort_by_key(|conflict| (conflict.second, conflict.first));
    Ok(conflicts)
}

struct Search<'a> {
    selectors: &'a [(usize, &'a Selector)],
    found: HashSet<(usize, usize)>,
    conflicts: Vec<Conflict>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn compare(&mut self, a: usize, b: usize) -> Result<(), TooManyGlobs> {
        let pair = (a.min(b), a.max(b));
        let ((owner, first), (other, second)) = (self.selectors[pair.0], self.selectors[pair.1]);
        if owner == other || self.conflicts.len() >= MAX_CONFLICTS || self.found.contains(&pair) {
            return Ok(());
        }
        charge(&mut self.steps, OVERLAP_STEPS)?;
        if let Some(example) = overlap(first, second) {
            self.found.insert(pair);
            self.conflicts.push(Conflict { first: pair.0, second: pair.1, example });
        }
        Ok(())
    }

    /// Compares what selects containers. Where that would take too long it ends early: two services that claim one
    /// container are also found out when it appears.
    fn containers(&mut self) {
        let containers: Vec<(usize, usize, &ContainerSelector)> = self
            .selectors
            .iter()
            .enumerate()
            .filter_map(|(index, (owner, selector))| match selector {
                Selector::Container(container) => Some((index, *owner, container.as_ref())),
                Selector::Systemd(_) | Selector::Cgroup(_) => None,
            })
            .collect();
        for (at, (first, owner, ours)) in containers.iter().enumerate() {
            for (second, other, theirs) in containers.iter().skip(at + 1) {
                if charge(&mut self.steps, 1).is_err() || self.conflicts.len() >= MAX_CONFLICTS {
                    return;
                }
                if owner != other
                    && let Some(example) = ours.overlap(theirs)
                {
                    self.conflicts.push(Conflict { first: *first, second: *second, example });
                }
            }
        }
    }

    /// Compares the patterns with one another.
    fn globs(&mut self, leaves: &'a [Vec<String>]) -> Result<(), TooManyGlobs> {
        let selectors = self.selectors;
        let globs = || selectors.iter().enumerate().filter(|(_, (_, selector))| !selector.is_exact());
        // Segments at which a unit could stand, and whole paths.
        let mut segments: Vec<(&[u8], &[u8], usize, bool)> = Vec::new();
        let mut paths: Vec<(&[u8], usize)> = Vec::new();
        let mut units = Owners::default();
        // What any unit may lie in.
        let mut above_units = Owners::default();
        let mut above_all = HashSet::new();
        for (index, (owner, selector)) in globs() {
            match selector {
                Selector::Container(_) => {}
                Selector::Systemd(unit) => {
                    units.add(index, *owner, selectors);
                    if unit.ends_with(".slice") {
                        above_units.add(index, *owner, selectors);
                        above_all.insert(index);
                    }
                    segments
                        .extend(leaves[index].iter().map(|leaf| (prefix(leaf), suffix(leaf), index, true)));
                }
                Selector::Cgroup(path) => {
                    paths.push((prefix(path), index));
                    let reach = reach(path);
                    if reach.above_all {
                        above_units.add(index, *owner, selectors);
                        above_all.insert(index);
                    }
                    segments.extend(
                        reach.segments.into_iter().map(|glob| (prefix(glob), suffix(glob), index, false)),
                    );
                }
            }
        }
        for (index, (owner, selector)) in globs() {
            let is_unit = matches!(selector, Selector::Systemd(_));
            let partners = [
                above_units.other_than(*owner).filter(|_| is_unit),
                units.other_than(*owner).filter(|_| above_all.contains(&index)),
            ];
            for partner in partners.into_iter().flatten() {
                self.compare(index, partner)?;
            }
        }
        // Whatever two prefixes have in common, one of them begins with the other: in sorted order the open
        // beginnings of an entry are a stack.
        segments.sort_unstable();
        let mut open: Vec<(&[u8], &[u8], usize, bool)> = Vec::new();
        for entry in segments {
            let (start, end, index, is_unit) = entry;
            while open.last().is_some_and(|(before, ..)| !start.starts_with(before)) {
                open.pop();
            }
            // To look at two endings is a small part of a step.
            charge(&mut self.steps, open.len() / 16)?;
            for (_, other_end, other, other_is_unit) in &open {
                let one_unit = is_unit || *other_is_unit;
                if one_unit && *other != index && (end.ends_with(other_end) || other_end.ends_with(end)) {
                    self.compare(*other, index)?;
                }
            }
            open.push(entry);
        }
        paths.sort_unstable();
        let mut open: Vec<(&[u8], usize)> = Vec::new();
        for (start, index) in paths {
            while open.last().is_some_and(|(before, _)| !start.starts_with(before)) {
                open.pop();
            }
            charge(&mut self.steps, open.len())?;
            for (_, other) in &open {
                self.compare(*other, index)?;
            }
            open.push((start, index));
        }
        Ok(())
    }
}

fn charge(steps: &mut usize, count: usize) -> Result<(), TooManyGlobs> {
    *steps += count;
    if *steps > MAX_STEPS { Err(TooManyGlobs { compared: *steps }) } else { Ok(()) }
}

/// Up to two selectors of different services, which is enough to have one of another service for each.
#[derive(Clone, Copy, Default, Debug)]
struct Owners {
    first: Option<(usize, usize)>,
    second: Option<usize>,
}

impl Owners {
    fn add(&mut self, index: usize, owner: usize, selectors: &[(usize, &Selector)]) {
        debug_assert_eq!(selectors[index].0, owner);
        match self.first {
            None => self.first = Some((index, owner)),
            Some((_, first)) if first != owner => self.second = self.second.or(Some(index)),
            Some(_) => {}
        }
    }

    fn other_than(&self, owner: usize) -> Option<usize> {
        match self.first {
            Some((index, first)) if first != owner => Some(index),
            Some(_) => self.second,
            None => None,
        }
    }
}

/// The selectors without patterns, to be looked up.
struct Exact<'a> {
    /// Every name that a unit's cgroup may have.
    units: Names<'a>,
    any_unit: Owners,
    /// Units that other units lie in.
    slices: Owners,
    paths: Vec<PathNode<'a>>,
    /// Segments of paths that have slices only above them, where a unit may stand.
    below_slices: Names<'a>,
    /// Paths of slices only, that any unit may lie in.
    slice_paths: Owners,
}

#[derive(Default)]
struct PathNode<'a> {
    children: BTreeMap<&'a [u8], usize>,
    here: Owners,
    /// Here and further down.
    below: Owners,
}

impl<'a> Exact<'a> {
    fn new(selectors: &[(usize, &'a Selector)], leaves: &'a [Vec<String>]) -> Self {
        let mut units = HashMap::new();
        let mut below_slices = HashMap::new();
        let mut exact = Self {
            units: Names::default(),
            any_unit: Owners::default(),
            slices: Owners::default(),
            paths: vec![PathNode::default()],
            below_slices: Names::default(),
            slice_paths: Owners::default(),
        };
        let fixed = selectors.iter().enumerate().filter(|(_, (_, selector))| selector.is_exact());
        for (index, (owner, selector)) in fixed {
            match selector {
                Selector::Container(_) => {}
                Selector::Systemd(unit) => {
                    exact.any_unit.add(index, *owner, selectors);
                    if unit.ends_with(".slice") {
                        exact.slices.add(index, *owner, selectors);
                    }
                    for leaf in &leaves[index] {
                        let owners: &mut Owners = units.entry(leaf.as_bytes()).or_default();
                        owners.add(index, *owner, selectors);
                    }
                }
                Selector::Cgroup(path) => {
                    let mut node = 0;
                    let mut only_slices = true;
                    exact.paths[node].below.add(index, *owner, selectors);
                    for segment in path.as_bytes().split(|byte| *byte == b'/').skip(1) {
                        if only_slices {
                            let owners: &mut Owners = below_slices.entry(segment).or_default();
                            owners.add(index, *owner, selectors);
                            only_slices = segment.ends_with(b".slice");
                        }
                        let fresh = exact.paths.len();
                        node = *exact.paths[node].children.entry(segment).or_insert(fresh);
                        if node == fresh {
                            exact.paths.push(PathNode::default());
                        }
                        exact.paths[node].below.add(index, *owner, selectors);
                    }
                    exact.paths[node].here.add(index, *owner, selectors);
                    if only_slices {
                        exact.slice_paths.add(index, *owner, selectors);
                    }
                }
            }
        }
        exact.units = Names::new(units);
        exact.below_slices = Names::new(below_slices);
        exact
    }

    /// A fixed selector of another service that overlaps with a unit.
    fn systemd(
        &self,
        owner: usize,
        leaves: &[String],
        steps: &mut usize,
    ) -> Result<Option<usize>, TooManyGlobs> {
        let is_slice = leaves.iter().any(|leaf| leaf.ends_with(".slice"));
        let wide = [
            self.slices.other_than(owner),
            self.slice_paths.other_than(owner),
            self.any_unit.other_than(owner).filter(|_| is_slice),
        ];
        if let Some(found) = wide.into_iter().flatten().next() {
            return Ok(Some(found));
        }
        for leaf in leaves {
            for names in [&self.units, &self.below_slices] {
                if let Some(found) = names.find(leaf.as_bytes(), owner, steps)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// A fixed selector of another service that overlaps with a path.
    fn cgroup(&self, owner: usize, path: &str, steps: &mut usize) -> Result<Option<usize>, TooManyGlobs> {
        let reach = reach(path);
        if reach.above_all
            && let Some(found) = self.any_unit.other_than(owner)
        {
            return Ok(Some(found));
        }
        for segment in reach.segments {
            if let Some(found) = self.units.find(segment.as_bytes(), owner, steps)? {
                return Ok(Some(found));
            }
        }
        let segments: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').skip(1).collect();
        self.descend(0, &segments, owner, steps)
    }

    fn descend(
        &self,
        node: usize,
        segments: &[&[u8]],
        owner: usize,
        steps: &mut usize,
    ) -> Result<Option<usize>, TooManyGlobs> {
        charge(steps, 1)?;
        let node = &self.paths[node];
        let Some(below) = node.below.other_than(owner) else {
            return Ok(None);
        };
        let Some((segment, rest)) = segments.split_first() else {
            return Ok(Some(below));
        };
        if *segment == b"**" {
            // It may stand for what any path here begins with, so that the pattern names something below.
            return Ok(Some(below));
        }
        if let Some(here) = node.here.other_than(owner) {
            return Ok(Some(here));
        }
        if is_literal(segment) {
            return match node.children.get(segment) {
                Some(child) => self.descend(*child, rest, owner, steps),
                None => Ok(None),
            };
        }
        let start = literal_prefix(segment);
        for (name, child) in node.children.range(start..).take_while(|(name, _)| name.starts_with(start)) {
            charge(steps, 1)?;
            if glob_matches(segment, name)
                && let Some(found) = self.descend(*child, rest, owner, steps)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Names that can be looked up by a pattern, along its beginning or its end.
#[derive(Default)]
struct Names<'a> {
    forward: Vec<(&'a [u8], Owners)>,
    /// Reversed names and their place in `forward`.
    backward: Vec<(Vec<u8>, usize)>,
}

impl<'a> Names<'a> {
    fn new(names: HashMap<&'a [u8], Owners>) -> Self {
        let mut forward: Vec<_> = names.into_iter().collect();
        forward.sort_unstable_by_key(|(name, _)| *name);
        let mut backward: Vec<_> =
            forward.iter().enumerate().map(|(at, (name, _))| (reversed(name), at)).collect();
        backward.sort_unstable();
        Self { forward, backward }
    }

    fn find(&self, glob: &[u8], owner: usize, steps: &mut usize) -> Result<Option<usize>, TooManyGlobs> {
        if is_literal(glob) {
            let found = self.forward.binary_search_by_key(&glob, |(name, _)| name);
            return Ok(found.ok().and_then(|at| self.forward[at].1.other_than(owner)));
        }
        let start = literal_prefix(glob);
        let from = self.forward.partition_point(|(name, _)| *name < start);
        let to = from + self.forward[from..].partition_point(|(name, _)| name.starts_with(start));
        let end = reversed(literal_suffix(glob));
        let back_from = self.backward.partition_point(|(name, _)| *name < end);
        let back_to =
            back_from + self.backward[back_from..].partition_point(|(name, _)| name.starts_with(&end));
        let matching = |at: usize| {
            let (name, owners) = &self.forward[at];
            owners.other_than(owner).filter(|_| glob_matches(glob, name))
        };
        if to - from <= back_to - back_from {
            charge(steps, to - from)?;
            Ok((from..to).find_map(matching))
        } else {
            charge(steps, back_to - back_from)?;
            Ok(self.backward[back_from..back_to].iter().find_map(|(_, at)| matching(*at)))
        }
    }
}

/// Where a unit can stand in a path.
struct Reach<'a> {
    /// Segments that can have slices only above them.
    segments: Vec<&'a str>,
    /// Whether any unit at all can lie on the path or below it.
    above_all: bool,
}

fn reach(path: &str) -> Reach<'_> {
    let mut segments = Vec::new();
    for segment in path.split('/').skip(1) {
        if segment == "**" {
            return Reach { segments, above_all: true };
        }
        segments.push(segment);
        if common_segment(segment.as_bytes(), b"*.slice").is_none() {
            return Reach { segments, above_all: false };
        }
    }
    Reach { segments, above_all: true }
}

fn is_literal(glob: &[u8]) -> bool {
    literal_prefix(glob).len() == glob.len()
}

fn literal_prefix(glob: &[u8]) -> &[u8] {
    let end = glob.iter().position(|byte| matches!(byte, b'*' | b'?')).unwrap_or(glob.len());
    &glob[..end]
}

fn literal_suffix(glob: &[u8]) -> &[u8] {
    let start = glob.iter().rposition(|byte| matches!(byte, b'*' | b'?')).map_or(0, |at| at + 1);
    &glob[start..]
}

fn prefix(glob: &str) -> &[u8] {
    literal_prefix(glob.as_bytes())
}

fn suffix(glob: &str) -> &[u8] {
    literal_suffix(glob.as_bytes())
}

fn reversed(name: &[u8]) -> Vec<u8> {
    name.iter().rev().copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{TooManyGlobs, find};
    use crate::policy::selector::{Selector, overlap};

    fn systemd(text: impl AsRef<str>) -> Selector {
        Selector::parse_systemd(text.as_ref()).expect("a unit")
    }

    fn cgroup(text: impl AsRef<str>) -> Selector {
        Selector::parse_cgroup(text.as_ref()).expect("a path")
    }

    fn conflicts(selectors: &[(usize, Selector)]) -> Vec<super::Conflict> {
        let entries: Vec<_> = selectors.iter().map(|(owner, selector)| (*owner, selector)).collect();
        find(&entries).expect("few selectors")
    }

    #[test]
    fn selectors_of_one_service_may_overlap() {
        assert_eq!(conflicts(&[(0, systemd("a.service")), (0, systemd("a*.service"))]), []);
    }

    #[test]
    fn the_example_is_a_cgroup_that_both_claim() {
        let selectors =
            [(0, systemd("a.service")), (1, systemd("b.service")), (2, cgroup("/x.slice/b.?ervice"))];
        let found = conflicts(&selectors);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].first, found[0].second, found[0].example.as_str()),
            (1, 2, "/x.slice/b.service")
        );
    }

    fn elapsed(selectors: &[(usize, Selector)]) -> Duration {
        let start = Instant::now();
        assert_eq!(conflicts(selectors), []);
        start.elapsed()
    }

    #[test]
    fn as_many_selectors_as_a_policy_may_have_are_compared_quickly() {
        type Make = fn(usize) -> Selector;
        let shapes: [(&str, Make, Make); 4] = [
            ("instances", |i| systemd(format!("p{i}@*.service")), |i| systemd(format!("u{i}.service"))),
            ("endings", |i| systemd(format!("*-p{i}.service")), |i| systemd(format!("u{i}.service"))),
            ("one level", |i| cgroup(format!("/shop/p{i}-*")), |i| cgroup(format!("/shop/u{i}/x"))),
            ("mixed", |i| cgroup(format!("/shop.slice/p{i}-*.scope")), |i| systemd(format!("u{i}.service"))),
        ];
        for (name, glob, exact) in shapes {
            let globs = (0..4_096).map(glob);
            let selectors: Vec<_> = globs.chain((0..60_000).map(exact)).enumerate().collect();
            let elapsed = elapsed(&selectors);
            // Half a second on an idle machine; some twenty times as much when built without optimisation.
            let limit = if cfg!(debug_assertions) { 60 } else { 4 };
            assert!(elapsed < Duration::from_secs(limit), "{name}: {elapsed:?}");
        }
    }

    #[test]
    fn patterns_without_fixed_text_are_given_up_on_with_a_number() {
        let selectors: Vec<_> = (0..20_000).map(|i| cgroup(format!("/*/{i}"))).enumerate().collect();
        let entries: Vec<_> = selectors.iter().map(|(owner, selector)| (*owner, selector)).collect();
        assert!(matches!(find(&entries), Err(TooManyGlobs { compared }) if compared > super::MAX_STEPS));
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        let segment = prop_oneof![
            Just("a"),
            Just("b"),
            Just("ab"),
            Just("a*"),
            Just("?b"),
            Just("*"),
            Just("**"),
            Just("a.slice"),
            Just("b.slice"),
            Just("*.slice"),
            Just("a.service"),
            Just("a.socket"),
        ];
        prop_oneof![
            "(a|b|ab|a@b|a@\\*|\\*b|a\\*|\\?)\\.(service|socket|slice|scope)".prop_map(systemd),
            proptest::collection::vec(segment, 1..4).prop_filter_map("a cgroup path", |segments| {
                Selector::parse_cgroup(&format!("/{}", segments.join("/"))).ok()
            }),
        ]
    }

    proptest! {
        #[test]
        fn conflicts_agree_with_comparing_every_pair(
            selectors in proptest::collection::vec((0..3_usize, any_selector()), 1..8),
        ) {
            let mut in_conflict = HashSet::new();
            for (i, (owner, a)) in selectors.iter().enumerate() {
                for (j, (other, b)) in selectors.iter().enumerate().skip(i + 1) {
                    if owner != other && overlap(a, b).is_some() {
                        in_conflict.extend([i, j]);
                    }
                }
            }
            let found = conflicts(&selectors);
            for conflict in &found {
                let ((owner, a), (other, b)) = (&selectors[conflict.first], &selectors[conflict.second]);
                prop_assert!(owner != other);
                prop_assert!(a.claims(conflict.example.as_bytes()) && b.claims(conflict.example.as_bytes()));
                prop_assert!(in_conflict.contains(&conflict.first) && in_conflict.contains(&conflict.second));
            }
            // Every fixed name in a conflict with a fixed name, and every pattern, is told.
            let told: HashSet<usize> = found.iter().flat_map(|c| [c.first, c.second]).collect();
            prop_assert_eq!(found.is_empty(), in_conflict.is_empty());
            for index in in_conflict {
                if !selectors[index].1.is_exact() {
                    prop_assert!(told.contains(&index), "{:?} is not told", selectors[index]);
                }
            }
        }
    }
}
