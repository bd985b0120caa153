//! What a new policy opens and closes, told from the tables of both.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use enforcer_common::layout::{EdgeKey, PortRange};
use enforcer_common::{Identity, Mode, Protocol, RuleId};
use rangemap::RangeInclusiveSet;

use super::{Prefix, Tables};
use crate::identities::Identities;
use crate::policy::{Policy, Selector};

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PairChange {
    /// Who calls.
    pub from: End,
    /// Who answers.
    pub to: End,
    /// Whether the new policy permits them; otherwise only the old one does.
    pub opened: bool,
    /// The ports.
    pub ports: PortSet,
    /// Rules of the policy that permits them; none where that denies nothing between the two.
    pub rules: Vec<RuleId>,
    /// How the other policy denies them: in audit mode they pass there too.
    pub mode: Mode,
}

/// One end, as it is called in both policies. They differ for addresses whose networks change, and for cgroups that another
/// service selects.
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
    /// Who those of its cgroups are in the new policy that it has no longer.
    pub becomes: Vec<String>,
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
/// Pairs that a rule of either policy names are compared by what the rules let their ends do, and by whether anything is denied
/// between them at all: a service that only one policy declares is in the other whoever its cgroups are there, mostly
/// `unmanaged`. What no rule names depends on the modes of the services alone, which are told of by themselves. Addresses
/// are compared by the networks that they are in before and after, so that a network that changes counts as well as a rule.
pub fn diff(before: &Tables, after: &Tables, identities: &Identities) -> Diff {
    let (before, after) = (Side::new(before), Side::new(after));
    let moves = moves(&before, &after);
    Diff {
        pairs: pairs(&before, &after, &moves, identities),
        services: services(&before, &after, &moves, identities),
        reserved: reserved(before.tables, after.tables, identities),
    }
}

/// A default of the whole policy that changes, in the words of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefaultChange {
    /// Its name.
    pub name: &'static str,
    /// What it is in the old policy.
    pub before: &'static str,
    /// What it is in the new policy.
    pub after: &'static str,
}

/// The defaults in which two policies differ, but for the mode, which is told of each service.
pub fn defaults(before: &Policy, after: &Policy) -> Vec<DefaultChange> {
    let of = |policy: &Policy| {
        [
            ("existing", policy.existing.name()),
            ("on_audit_loss", policy.on_audit_loss.name()),
            ("on_unsupported", policy.on_unsupported.name()),
        ]
    };
    let both = of(before).into_iter().zip(of(after));
    both.filter(|(before, after)| before != after)
        .map(|((name, before), (_, after))| DefaultChange { name, before, after })
        .collect()
}

/// One of the two policies.
struct Side<'a> {
    tables: &'a Tables,
    modes: HashMap<Identity, Mode>,
    /// Whose each selector is: one service's, or that of more where only a runtime can tell that they conflict.
    selectors: HashMap<&'a Selector, Vec<Identity>>,
}

impl<'a> Side<'a> {
    fn new(tables: &'a Tables) -> Self {
        let mut side = Self { tables, modes: HashMap::new(), selectors: HashMap::new() };
        for service in &tables.services {
            let identity = service.owner.identity();
            side.modes.insert(identity, service.owner.mode());
            for selector in &service.selectors {
                side.selectors.entry(selector).or_default().push(identity);
            }
        }
        side
    }

    /// Whether it has this service.
    fn declares(&self, service: Identity) -> bool {
        self.modes.contains_key(&service)
    }

    /// Who the cgroups of a selector of `service` are, as far as can be told without them: whoever has the same selector, or the one
    /// around a cgroup that it names. Whose a container is then, only its runtime can tell.
    fn owner(&self, selector: &Selector, service: Identity) -> Identity {
        match self.selectors.get(selector).map(Vec::as_slice) {
            Some(owners) if owners.contains(&service) => return service,
            Some([owner]) => return *owner,
            Some(_) => return Identity::UNKNOWN,
            None => {}
        }
        // A pattern is also the path of one cgroup that it names.
        let path = match selector {
            Selector::Cgroup(path) => path.clone(),
            Selector::Systemd(unit) => format!("/system.slice/{unit}"),
            Selector::Container(_) => return Identity::UNMANAGED,
        };
        let claims = &self.tables.claims;
        let (mut state, mut owner) = (claims.start, Identity::UNMANAGED);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            state = claims.child(state, name.as_bytes());
            owner = claims.claimants.get(&state).map_or(owner, |claimant| claimant.identity());
        }
        owner
    }

    /// How what no rule lists is denied between two ends, as [`decide`](enforcer_common::decide()) does it; none where nothing
    /// is.
    fn denial(&self, from: Identity, to: Identity) -> Option<Mode> {
        let modes = [from, to].map(|end| self.modes.get(&end).copied());
        if from == to || modes == [None, None] {
            None
        } else if modes.contains(&Some(Mode::Enforce)) {
            Some(Mode::Enforce)
        } else {
            Some(Mode::Audit)
        }
    }
}

/// One end by its identity in both policies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Both {
    before: Identity,
    after: Identity,
}

/// Who those are whom a service of either policy selects.
fn moves(before: &Side<'_>, after: &Side<'_>) -> BTreeSet<Both> {
    let mut moves = BTreeSet::new();
    for side in [before, after] {
        for service in &side.tables.services {
            let identity = service.owner.identity();
            let as_declared =
                |side: &Side<'_>| if side.declares(identity) { identity } else { Identity::UNMANAGED };
            let stays = before.declares(identity) && after.declares(identity);
            if stays || service.selectors.is_empty() {
                moves.insert(Both { before: as_declared(before), after: as_declared(after) });
            }
            moves.extend(service.selectors.iter().map(|selector| Both {
                before: before.owner(selector, identity),
                after: after.owner(selector, identity),
            }));
        }
    }
    moves
}

fn pairs(
    before: &Side<'_>,
    after: &Side<'_>,
    moves: &BTreeSet<Both>,
    identities: &Identities,
) -> Vec<PairChange> {
    let mut old_classes: BTreeMap<Identity, Vec<Both>> = BTreeMap::new();
    let mut new_classes: BTreeMap<Identity, Vec<Both>> = BTreeMap::new();
    for both in classes(before.tables, after.tables).into_iter().chain(moves.iter().copied()) {
        old_classes.entry(both.before).or_default().push(both);
        new_classes.entry(both.after).or_default().push(both);
    }
    // Of services that come and go there may be many, and they are told of by themselves.
    let unmanaged = Both { before: Identity::UNMANAGED, after: Identity::UNMANAGED };
    for classes in [&mut old_classes, &mut new_classes] {
        classes.insert(Identity::UNMANAGED, vec![unmanaged]);
    }
    let ends = |identity: Identity, classes: &BTreeMap<Identity, Vec<Both>>| -> Vec<Both> {
        match classes.get(&identity) {
            Some(classes) => classes.clone(),
            None => vec![Both { before: identity, after: identity }],
        }
    };
    // Only pairs that a rule of either policy names can differ otherwise than by modes.
    let mut named: BTreeSet<(Both, Both)> = BTreeSet::new();
    for (side, classes) in [(before, &old_classes), (after, &new_classes)] {
        for key in side.tables.edges.keys() {
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
            let name = |both| end(both, before, after, identities);
            // Who denies nothing has nothing beyond it.
            let mode = had.denial.unwrap_or(Mode::Enforce);
            changes.push(PairChange { from: name(from), to: name(to), opened, ports, rules, mode });
        }
    }
    changes.sort_by(|a, b| (&a.from, &a.to, a.opened, &a.ports).cmp(&(&b.from, &b.to, b.opened, &b.ports)));
    changes
}

fn end(both: Both, before: &Side<'_>, after: &Side<'_>, identities: &Identities) -> End {
    let name = |identity: Identity| identities.name(identity).unwrap_or("unknown").to_owned();
    let (was, is) = (name(both.before), name(both.after));
    // One that comes or goes as a service has one name.
    if both.before == Identity::UNMANAGED && !before.declares(both.after) {
        return End { before: is.clone(), after: is };
    }
    if both.after == Identity::UNMANAGED && !after.declares(both.before) {
        return End { before: was.clone(), after: was };
    }
    End { before: was, after: is }
}

/// What one pair may do.
struct Permitted {
    ranges: Vec<(u32, u32, RuleId)>,
    set: RangeInclusiveSet<u32>,
    /// How everything else is denied.
    denial: Option<Mode>,
}

impl Permitted {
    fn between(side: &Side<'_>, from: Identity, to: Identity) -> Self {
        let denial = side.denial(from, to);
        let mut permitted = Self { ranges: Vec::new(), set: RangeInclusiveSet::new(), denial };
        if denial.is_none() {
            permitted.set.insert(0..=PortSet::LAST);
            return permitted;
        }
        let mut chunk = 0;
        while let Some(value) = side.tables.edges.get(&EdgeKey::new(from, to).chunk(chunk)) {
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
fn classes(before: &Tables, after: &Tables) -> BTreeSet<Both> {
    let mut prefixes: BTreeMap<Prefix, (Option<Identity>, Option<Identity>)> = BTreeMap::new();
    for (prefix, identity) in &before.networks {
        prefixes.entry(*prefix).or_default().0 = Some(*identity);
    }
    for (prefix, identity) in &after.networks {
        prefixes.entry(*prefix).or_default().1 = Some(*identity);
    }
    let mut classes = BTreeSet::from([Both { before: Identity::WORLD, after: Identity::WORLD }]);
    // The prefixes around the current one, outermost first.
    let mut around: Vec<(Prefix, (Identity, Identity))> = Vec::new();
    for (prefix, (old, new)) in prefixes {
        while around.last().is_some_and(|(outer, _)| !outer.encloses(&prefix)) {
            around.pop();
        }
        let outer = around.last().map_or((Identity::WORLD, Identity::WORLD), |(_, class)| *class);
        let class = (old.unwrap_or(outer.0), new.unwrap_or(outer.1));
        classes.insert(Both { before: class.0, after: class.1 });
        around.push((prefix, class));
    }
    classes
}

fn services(
    before: &Side<'_>,
    after: &Side<'_>,
    moves: &BTreeSet<Both>,
    identities: &Identities,
) -> Vec<ServiceChange> {
    let mut becomes: HashMap<&str, Vec<String>> = HashMap::new();
    for Both { before: was, after: is } in moves.iter().filter(|both| both.before != both.after) {
        if let (Some(was), Some(is)) = (identities.name(*was), identities.name(*is)) {
            becomes.entry(was).or_default().push(is.to_owned());
        }
    }
    let by_name = |tables: &Tables| -> BTreeMap<String, (Mode, BTreeSet<String>)> {
        let described = tables.services.iter().map(|service| {
            let selectors = service.selectors.iter().map(ToString::to_string).collect();
            (service.name.clone(), (service.owner.mode(), selectors))
        });
        described.collect()
    };
    let (old, new) = (by_name(before.tables), by_name(after.tables));
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
            becomes: becomes.remove(name.as_str()).unwrap_or_default(),
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
    use super::{DefaultChange, defaults, diff};
    use crate::identities::Identities;
    use crate::policy::{self, Document, Policy};
    use crate::tables::Tables;
    use enforcer_common::Mode;

    const SERVICES: &str = "version: 1
services:
  web: { match: [{ cgroup: /case/web }] }
  db: { match: [{ cgroup: /case/db }] }
networks:
  stripe: { cidrs: [203.0.113.0/24] }
";

    fn policy(text: &str) -> Policy {
        let loaded = policy::compile_documents(&[Document::new("case.yaml", text)]);
        loaded.policy.unwrap_or_else(|| panic!("{:?}", loaded.findings))
    }

    /// What changes from one text to another, in words.
    fn changes(before: &str, after: &str) -> Vec<String> {
        let mut identities = Identities::default();
        let mut compile = |text: &str| Tables::compile(&policy(text), &mut identities, 1).expect("small");
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
            let mode = if pair.mode == Mode::Audit { " (audit)" } else { "" };
            format!("{sign}{} {} {ports} by {}{mode}", end(&pair.from), end(&pair.to), rules.join(" "))
        });
        let services = diff.services.iter().map(|service| {
            let (added, removed) = (service.selectors_added.join(" "), service.selectors_removed.join(" "));
            let becomes = if service.becomes.is_empty() { "" } else { " now " };
            let becomes = format!("{becomes}{}", service.becomes.join(" "));
            let (before, after) = (service.before, service.after);
            format!("{} {before:?} {after:?}{becomes} +[{added}] -[{removed}]", service.name)
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
                    "web Some(Enforce) None now unmanaged +[] -[cgroup: /case/web]",
                    "5432-5433/tcp None Some(\"db\")",
                ],
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(changes(before, after), expected, "from\n{before}\nto\n{after}");
        }
    }

    #[test]
    fn services_that_come_and_go_are_compared_with_who_their_cgroups_are_without_them() {
        const NOTHING: &str = "version: 1\n";
        let rules = "allow:\n  - { name: one, from: web, to: db, ports: [5432/tcp] }\n";
        let both = format!("{SERVICES}{rules}");
        let audit = format!("{both}defaults: {{ mode: audit }}\n");
        let others = "0-5431/tcp 5433-65535/tcp all but tcp by ";
        let gone =
            |name: &str| format!("{name} Some(Enforce) None now unmanaged +[] -[cgroup: /case/{name}]");
        let come = |name: &str, mode: &str| format!("{name} None Some({mode}) +[cgroup: /case/{name}] -[]");
        let elsewhere = both.replace("/case/db", "/case/store");
        let cases: [(&str, &str, Vec<String>); 8] = [
            // What a service lets go of is somebody else's, or nobody's.
            (
                &both,
                &elsewhere,
                vec![
                    String::from("-web db>unmanaged 5432/tcp by one"),
                    String::from("+web unmanaged>db 5432/tcp by one"),
                    String::from(
                        "db Some(Enforce) Some(Enforce) now unmanaged +[cgroup: /case/store] -[cgroup: /case/db]",
                    ),
                ],
            ),
            // Between two that are no services any longer nothing is denied.
            (&both, NOTHING, vec![format!("+web db {others}"), gone("db"), gone("web")]),
            (
                NOTHING,
                &both,
                vec![format!("-web db {others}"), come("db", "Enforce"), come("web", "Enforce")],
            ),
            (
                NOTHING,
                &audit,
                vec![format!("-web db {others}"), come("db", "Audit"), come("web", "Audit")]
                    .into_iter()
                    .map(|line| if line.starts_with('-') { format!("{line} (audit)") } else { line })
                    .collect(),
            ),
            // One end that is left denies what the other may not any longer.
            (
                &both,
                &SERVICES.replace("  web: { match: [{ cgroup: /case/web }] }\n", ""),
                vec![String::from("-web db 5432/tcp by one"), gone("web")],
            ),
            // A service of another name has the same cgroups.
            (
                &both,
                &both.replace("web", "shop").replace("/case/shop", "/case/web").replace("5432", "5433"),
                vec![
                    String::from("-web>shop db 5432/tcp by one"),
                    String::from("+web>shop db 5433/tcp by one"),
                    come("shop", "Enforce").replace("/case/shop", "/case/web"),
                    gone("web").replace("unmanaged", "shop"),
                ],
            ),
            // One service takes in what were two: it reaches itself.
            (
                &both,
                "version: 1\nservices: { all: { match: [{ cgroup: /case }] } }\n",
                vec![
                    format!("+web>all db>all {others}"),
                    String::from("all None Some(Enforce) +[cgroup: /case] -[]"),
                    gone("db").replace("unmanaged", "all"),
                    gone("web").replace("unmanaged", "all"),
                ],
            ),
            // Those that a service gets may do what it may.
            (
                &both,
                &both.replace("{ cgroup: /case/web }", "{ cgroup: /case/web }, { cgroup: /case/www }"),
                vec![
                    String::from("+unmanaged>web db 5432/tcp by one"),
                    String::from("web Some(Enforce) Some(Enforce) +[cgroup: /case/www] -[]"),
                ],
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(changes(before, after), expected, "from\n{before}\nto\n{after}");
        }
    }

    #[test]
    fn defaults_that_change_are_told_by_their_words() {
        let after =
            "version: 1\ndefaults: { existing: close, on_audit_loss: deny_new, on_unsupported: open }\n";
        let (before, after) = (policy("version: 1\n"), policy(after));
        assert_eq!(defaults(&before, &before), []);
        let change = |name, before, after| DefaultChange { name, before, after };
        assert_eq!(
            defaults(&before, &after),
            [
                change("existing", "audit", "close"),
                change("on_audit_loss", "count", "deny_new"),
                change("on_unsupported", "refuse", "open"),
            ]
        );
    }
}
