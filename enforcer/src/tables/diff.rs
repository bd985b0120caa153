//! What a new policy opens and closes, told from the tables of both.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::layout::{EdgeKey, PortRange};
use enforcer_common::{Identity, Mode, Protocol, RuleId};
use rangemap::RangeInclusiveSet;

use super::{Prefix, Tables};
use crate::identities::Identities;

/// Everything in which two policies differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diff {
    /// In the order of their names.
    pub pairs: Vec<PairChange>,
    /// In the order of their names.
    pub services: Vec<ServiceChange>,
    /// In the order of protocols and ports.
    pub reserved: Vec<ReservedChange>,
}

/// Ports that are opened or closed between two ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PairChange {
    /// Who calls.
    pub from: End,
    /// Who answers.
    pub to: End,
    /// Whether the new policy permits them; otherwise only the old one does.
    pub opened: bool,
    /// The ports.
    pub ports: PortSet,
    /// Rules of the policy that permits them.
    pub rules: Vec<RuleId>,
}

/// One end, as it is called in both policies. They differ for addresses whose networks change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct End {
    /// Its name in the old policy.
    pub before: String,
    /// Its name in the new policy.
    pub after: String,
}

/// A service that comes, goes or changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceChange {
    /// Its name.
    pub name: String,
    /// Its mode in the old policy, if it is there.
    pub before: Option<Mode>,
    /// Its mode in the new policy, if it is there.
    pub after: Option<Mode>,
    /// Selectors that only the new policy has.
    pub selectors_added: Vec<String>,
    /// Selectors that only the old policy has.
    pub selectors_removed: Vec<String>,
}

/// Ports that are reserved otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedChange {
    /// The ports.
    pub ports: PortSet,
    /// The service that alone may bind them in the old policy.
    pub before: Option<String>,
    /// The service that alone may bind them in the new policy.
    pub after: Option<String>,
}

/// Ports of several protocols: inclusive ranges on a line on which each protocol has 65,536 places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct PortSet(Vec<(u32, u32)>);

impl PortSet {
    /// The place of the last port of the last protocol.
    const LAST: u32 = 0x00ff_ffff;

    fn of(set: &RangeInclusiveSet<u32>) -> Self {
        Self(set.iter().map(|range| (*range.start(), *range.end())).collect())
    }

    /// Whether `port` of `protocol` is one of them.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        let place = u32::from(protocol.0) << 16 | u32::from(port);
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&place))
    }

    /// The ports as policies write them, one entry for each range; `all` stands for every port of every protocol.
    pub fn words(&self) -> Vec<String> {
        if self.0 == [(0, Self::LAST)] {
            return vec![String::from("all")];
        }
        let mut words = Vec::new();
        let mut whole = Vec::new();
        for number in 0..=u8::MAX {
            let protocol = Protocol(number);
            let (first, last) = (u32::from(number) << 16, u32::from(number) << 16 | 0xffff);
            for (low, high) in &self.0 {
                let (low, high) = ((*low).max(first), (*high).min(last));
                if (low, high) == (first, last) {
                    whole.push(protocol);
                } else if low == high {
                    words.push(format!("{}/{}", low - first, name(protocol)));
                } else if low < high {
                    words.push(format!("{}-{}/{}", low - first, high - first, name(protocol)));
                }
            }
        }
        // A rule without `ports` that gets some closes 255 protocols that nobody asked about.
        if whole.len() > usize::from(u8::MAX / 2) {
            let others: Vec<String> =
                (0..=u8::MAX).map(Protocol).filter(|other| !whole.contains(other)).map(name).collect();
            words.push(format!("all but {}", others.join(", ")));
        } else {
            words.extend(whole.into_iter().map(name));
        }
        words
    }
}

fn name(protocol: Protocol) -> String {
    protocol.name().map_or_else(|| format!("protocol-{}", protocol.0), str::to_owned)
}

/// Compares two policies whose tables are compiled with the same `identities`.
///
/// A pair is compared by what its ends may do while the policy enforces: modes are told of by themselves. A service
/// that only one policy declares may do nothing in the other. Addresses are compared by the networks that they are in
/// before and after, so that a network that changes counts as well as a rule.
pub fn diff(before: &Tables, after: &Tables, identities: &Identities) -> Diff {
    Diff {
        pairs: pairs(before, after, identities),
        services: services(before, after),
        reserved: reserved(before, after, identities),
    }
}

/// One end by its identity in both policies; none where it is not declared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Both {
    before: Option<Identity>,
    after: Option<Identity>,
}

fn pairs(before: &Tables, after: &Tables, identities: &Identities) -> Vec<PairChange> {
    let declared = |tables: &Tables| -> BTreeSet<Identity> {
        tables.services.iter().map(|service| service.owner.identity()).collect()
    };
    let (old_services, new_services) = (declared(before), declared(after));
    let mut old_classes: BTreeMap<Identity, Vec<Both>> = BTreeMap::new();
    let mut new_classes: BTreeMap<Identity, Vec<Both>> = BTreeMap::new();
    for (old, new) in classes(before, after) {
        let both = Both { before: Some(old), after: Some(new) };
        old_classes.entry(old).or_default().push(both);
        new_classes.entry(new).or_default().push(both);
    }
    let ends = |identity: Identity, classes: &BTreeMap<Identity, Vec<Both>>| -> Vec<Both> {
        if identity.is_service() {
            let known = |services: &BTreeSet<Identity>| services.contains(&identity).then_some(identity);
            return vec![Both { before: known(&old_services), after: known(&new_services) }];
        }
        match classes.get(&identity) {
            Some(classes) => classes.clone(),
            None => vec![Both { before: Some(identity), after: Some(identity) }],
        }
    };
    // Only pairs that a rule of either policy names can differ.
    let mut named: BTreeSet<(Both, Both)> = BTreeSet::new();
    for (tables, classes) in [(before, &old_classes), (after, &new_classes)] {
        for key in tables.edges.keys() {
            for from in ends(key.from(), classes) {
                named.extend(ends(key.to(), classes).into_iter().map(|to| (from, to)));
            }
        }
    }
    let mut changes = Vec::new();
    for (from, to) in named {
        let old = Permitted::between(before, from.before, to.before);
        let new = Permitted::between(after, from.after, to.after);
        for (opened, has, had) in [(true, &new, &old), (false, &old, &new)] {
            let difference = has.beyond(had);
            if difference.is_empty() {
                continue;
            }
            let (rules, ports) = (has.rules(&difference), PortSet::of(&difference));
            let (from, to) = (end(from, identities), end(to, identities));
            changes.push(PairChange { from, to, opened, ports, rules });
        }
    }
    changes.sort();
    changes
}

fn end(end: Both, identities: &Identities) -> End {
    let name = |identity: Option<Identity>| identity.and_then(|identity| identities.name(identity));
    let before = name(end.before).or(name(end.after)).unwrap_or("unknown").to_owned();
    let after = name(end.after).or(name(end.before)).unwrap_or("unknown").to_owned();
    End { before, after }
}

/// What one pair may do.
struct Permitted {
    ranges: Vec<(u32, u32, RuleId)>,
    set: RangeInclusiveSet<u32>,
}

impl Permitted {
    fn between(tables: &Tables, from: Option<Identity>, to: Option<Identity>) -> Self {
        let mut permitted = Self { ranges: Vec::new(), set: RangeInclusiveSet::new() };
        let (Some(from), Some(to)) = (from, to) else { return permitted };
        let mut chunk = 0;
        while let Some(value) = tables.edges.get(&EdgeKey::new(from, to).chunk(chunk)) {
            for range in value.ranges() {
                if let Some((low, high)) = places(range) {
                    permitted.ranges.push((low, high, range.rule()));
                    permitted.set.insert(low..=high);
                }
            }
            chunk += 1;
        }
        permitted
    }

    fn beyond(&self, other: &Self) -> RangeInclusiveSet<u32> {
        let mut difference = self.set.clone();
        for range in other.set.iter() {
            difference.remove(range.clone());
        }
        difference
    }

    /// The rules behind some of the ports.
    fn rules(&self, ports: &RangeInclusiveSet<u32>) -> Vec<RuleId> {
        let overlapping = self.ranges.iter().filter(|(low, high, _)| ports.overlaps(&(*low..=*high)));
        let rules: BTreeSet<RuleId> = overlapping.map(|(_, _, rule)| *rule).collect();
        rules.into_iter().collect()
    }
}

/// Where a range stands on the line; none for one that covers nothing.
fn places(range: &PortRange) -> Option<(u32, u32)> {
    let (low, high) = range.bounds();
    match range.of_protocol() {
        None => Some((0, PortSet::LAST)),
        Some(_) if low > high => None,
        Some(protocol) => {
            let first = u32::from(protocol.0) << 16;
            Some((first | u32::from(low), first | u32::from(high)))
        }
    }
}

/// The sets of networks that addresses are in before and after, each pair once.
fn classes(before: &Tables, after: &Tables) -> BTreeSet<(Identity, Identity)> {
    let mut prefixes: BTreeMap<Prefix, (Option<Identity>, Option<Identity>)> = BTreeMap::new();
    for (prefix, identity) in &before.networks {
        prefixes.entry(*prefix).or_default().0 = Some(*identity);
    }
    for (prefix, identity) in &after.networks {
        prefixes.entry(*prefix).or_default().1 = Some(*identity);
    }
    let mut classes = BTreeSet::from([(Identity::WORLD, Identity::WORLD)]);
    // The prefixes around the current one, outermost first.
    let mut around: Vec<(Prefix, (Identity, Identity))> = Vec::new();
    for (prefix, (old, new)) in prefixes {
        while around.last().is_some_and(|(outer, _)| !outer.encloses(&prefix)) {
            around.pop();
        }
        let outer = around.last().map_or((Identity::WORLD, Identity::WORLD), |(_, class)| *class);
        let class = (old.unwrap_or(outer.0), new.unwrap_or(outer.1));
        classes.insert(class);
        around.push((prefix, class));
    }
    classes
}

fn services(before: &Tables, after: &Tables) -> Vec<ServiceChange> {
    let by_name = |tables: &Tables| -> BTreeMap<String, (Mode, BTreeSet<String>)> {
        let described = tables.services.iter().map(|service| {
            let selectors = service.selectors.iter().map(ToString::to_string).collect();
            (service.name.clone(), (service.owner.mode(), selectors))
        });
        described.collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let nothing = BTreeSet::new();
    let mut changes = Vec::new();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        if old == new {
            continue;
        }
        let had = old.map_or(&nothing, |(_, selectors)| selectors);
        let has = new.map_or(&nothing, |(_, selectors)| selectors);
        changes.push(ServiceChange {
            name: name.clone(),
            before: old.map(|(mode, _)| *mode),
            after: new.map(|(mode, _)| *mode),
            selectors_added: has.difference(had).cloned().collect(),
            selectors_removed: had.difference(has).cloned().collect(),
        });
    }
    changes
}

fn reserved(before: &Tables, after: &Tables, identities: &Identities) -> Vec<ReservedChange> {
    let name = |owner: Identity| identities.name(owner).unwrap_or("unknown").to_owned();
    let mut owners: BTreeMap<u32, (Option<String>, Option<String>)> = BTreeMap::new();
    for (tables, is_new) in [(before, false), (after, true)] {
        for (key, owner) in &tables.reserved {
            let place = u32::from(key.protocol().0) << 16 | u32::from(key.port().number());
            let entry = owners.entry(place).or_default();
            let side = if is_new { &mut entry.1 } else { &mut entry.0 };
            *side = Some(name(owner.identity()));
        }
    }
    let mut changes: Vec<ReservedChange> = Vec::new();
    for (place, (before, after)) in owners {
        if before == after {
            continue;
        }
        // Neighbours with the same fate are one range, within one protocol.
        if let Some(last) = changes.last_mut()
            && (&last.before, &last.after) == (&before, &after)
            && let Some((_, high)) = last.ports.0.last_mut()
            && *high + 1 == place
            && *high >> 16 == place >> 16
        {
            *high = place;
            continue;
        }
        changes.push(ReservedChange { ports: PortSet(vec![(place, place)]), before, after });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::diff;
    use crate::identities::Identities;
    use crate::policy::{self, Document};
    use crate::tables::Tables;

    const SERVICES: &str = "version: 1
services:
  web: { match: [{ cgroup: /case/web }] }
  db: { match: [{ cgroup: /case/db }] }
networks:
  stripe: { cidrs: [203.0.113.0/24] }
";

    /// What changes from one text to another, in words.
    fn changes(before: &str, after: &str) -> Vec<String> {
        let mut identities = Identities::default();
        let mut compile = |text: &str| {
            let loaded = policy::compile_documents(&[Document::new("case.yaml", text)]);
            let policy = loaded.policy.unwrap_or_else(|| panic!("{:?}", loaded.findings));
            Tables::compile(&policy, &mut identities, 1).expect("small")
        };
        let (before, after) = (compile(before), compile(after));
        let diff = diff(&before, &after, &identities);
        let pairs = diff.pairs.iter().map(|pair| {
            let sign = if pair.opened { '+' } else { '-' };
            let tables = if pair.opened { &after } else { &before };
            let rules: Vec<&str> = pair
                .rules
                .iter()
                .filter_map(|rule| tables.rules.get(usize::try_from(rule.0).ok()?))
                .map(|rule| &*rule.name)
                .collect();
            let end = |end: &super::End| {
                if end.before == end.after {
                    end.after.clone()
                } else {
                    format!("{}>{}", end.before, end.after)
                }
            };
            let ports = pair.ports.words().join(" ");
            format!("{sign}{} {} {ports} by {}", end(&pair.from), end(&pair.to), rules.join(" "))
        });
        let services = diff.services.iter().map(|service| {
            let (added, removed) = (service.selectors_added.join(" "), service.selectors_removed.join(" "));
            format!("{} {:?} {:?} +[{added}] -[{removed}]", service.name, service.before, service.after)
        });
        let reserved = diff.reserved.iter().map(|change| {
            let ports = change.ports.words().join(" ");
            format!("{ports} {:?} {:?}", change.before, change.after)
        });
        pairs.chain(services).chain(reserved).collect()
    }

    #[test]
    fn what_two_policies_differ_in() {
        let rule = |rule: &str| format!("{SERVICES}allow:\n  - {{ name: one, {rule} }}\n");
        let narrow = rule("from: web, to: db, ports: [5432/tcp]");
        let cases: [(&str, &str, &[&str]); 9] = [
            (&narrow, &narrow, &[]),
            (SERVICES, &narrow, &["+web db 5432/tcp by one"]),
            (&narrow, SERVICES, &["-web db 5432/tcp by one"]),
            (
                &narrow,
                &rule("from: web, to: db, ports: [5430-5433/tcp, icmp]"),
                &["+web db 5430-5431/tcp 5433/tcp icmp by one"],
            ),
            (&rule("from: web, to: db"), &narrow, &["-web db 0-5431/tcp 5433-65535/tcp all but tcp by one"]),
            (&rule("from: web, to: db"), SERVICES, &["-web db all by one"]),
            // The same ports by a rule of another name are no change.
            (&narrow, &narrow.replace("one", "other"), &[]),
            // A network that grows opens what its rules permit.
            (
                &rule("from: web, to: stripe, ports: [443/tcp]"),
                &rule("from: web, to: stripe, ports: [443/tcp]")
                    .replace("203.0.113.0/24", "203.0.113.0/24, 198.51.100.0/24"),
                &["+web world>stripe 443/tcp by one"],
            ),
            (
                SERVICES,
                &SERVICES
                    .replace("/case/db }] }", "/case/db }], mode: audit, listens: [5432-5433/tcp] }")
                    .replace("  web: { match: [{ cgroup: /case/web }] }\n", ""),
                &[
                    "db Some(Enforce) Some(Audit) +[] -[]",
                    "web Some(Enforce) None +[] -[cgroup: /case/web]",
                    "5432-5433/tcp None Some(\"db\")",
                ],
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(changes(before, after), expected, "from\n{before}\nto\n{after}");
        }
    }
}
