//! The host-side image of all maps: what a policy compiles to. Pure: no map, no file, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use enforcer_common::layout::{EdgeKey, EdgeValue, Owner, PortKey, ProtocolKey};
use enforcer_common::{Address, Identity, Mode, Port, limits};
use thiserror::Error;

use crate::containers::{Container, cgroup};
use crate::identities::Identities;
use crate::policy::{Existing, Location, OnAuditLoss, Policy, PortRange, Ports, Rule, Rules, Selector};

pub use claims::Claims;
pub use edges::{Difference, Edges};
pub use networks::Prefix;

mod claims;
pub mod diff;
mod edges;
mod networks;

/// Of so many rules one may be another one, or all are compiled anew.
const FEW: usize = 8;

/// Everything that a decision reads, for one revision of the policy.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Which revision of the policy this is.
    pub revision: u32,
    /// What happens to connections that are older than the enforcer.
    pub existing: Existing,
    /// What happens when decisions cannot be written down.
    pub on_audit_loss: OnAuditLoss,
    /// In the order of the policy.
    pub services: Vec<ServiceOwner>,
    /// By [`RuleId`](enforcer_common::RuleId): how records name a rule.
    pub rules: Rules,
    /// What each pair of ends may do.
    pub edges: Edges,
    /// Sorted. The longest prefix that contains an address leads to the set of networks it is in; an exception from
    /// every network around it leads to [`Identity::WORLD`], and so does an address that no prefix contains.
    pub networks: Vec<(Prefix, Identity)>,
    /// By number of the network in the policy: the sets that contain it.
    pub network_sets: Vec<Vec<Identity>>,
    /// Ports that only one service may bind.
    pub reserved: BTreeMap<PortKey, Owner>,
    /// Which service's rules name which protocol.
    pub protocols: BTreeSet<ProtocolKey>,
    /// Tells from a cgroup's path which service owns it.
    pub claims: Arc<Claims>,
    /// Whose a container is that its runtime has not told of yet; none if no container is selected, so that none is asked
    /// about.
    pub pending: Option<Owner>,
    /// Path of the root of what is judged; the forms of container paths begin there too.
    pub top: Vec<u8>,
    /// Who owns which cgroup, where a decision is made without a kernel.
    pub cgroups: HashMap<u64, Owner>,
}

/// A declared service, as cgroups and ports are owned by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceOwner {
    /// Its name.
    pub name: String,
    /// Its identity and mode.
    pub owner: Owner,
    /// Which cgroups are its own.
    pub selectors: Vec<Selector>,
}

/// How records name a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleName {
    /// Its name.
    pub name: Box<str>,
    /// Where it is written.
    pub location: Location,
}

impl RuleName {
    /// A rule that is called so and permits nothing: what is left of one whose policy is not in force any longer.
    pub fn into_rule(self) -> Rule {
        let Self { name, location } = self;
        Rule { name, from: [].into(), to: [].into(), ports: Ports::Listed([].into()), location }
    }
}

impl From<&Rule> for RuleName {
    fn from(rule: &Rule) -> Self {
        Self { name: rule.name.clone(), location: rule.location.clone() }
    }
}

impl Tables {
    /// Compiles `policy` within the limits of the maps. Names that are new get new numbers in `identities`, also
    /// when it fails.
    ///
    /// # Errors
    ///
    /// What does not fit, by how much, and what may help.
    pub fn compile(
        policy: &Policy,
        identities: &mut Identities,
        revision: u32,
    ) -> Result<Self, CapacityError> {
        Self::compile_within(policy, identities, revision, &Limits::default())
    }

    /// Compiles `policy` for the part of the cgroup tree that begins at the path `top`.
    ///
    /// # Errors
    ///
    /// As [`Tables::compile`].
    pub fn compile_below(
        policy: &Policy,
        identities: &mut Identities,
        revision: u32,
        top: &[u8],
    ) -> Result<Self, CapacityError> {
        Self::compile_at(policy, identities, revision, &Limits::default(), top)
    }

    /// Compiles `policy` for the same part of the cgroup tree as `self`, which was compiled from `before`: if some rules alone
    /// are other ones, by these, and otherwise as [`Tables::compile_below`]. What comes of it is the same.
    ///
    /// # Errors
    ///
    /// As [`Tables::compile`].
    pub fn compile_next(
        &self,
        before: &Policy,
        policy: &Policy,
        identities: &mut Identities,
        revision: u32,
    ) -> Result<Self, CapacityError> {
        let limits = Limits::default();
        let changed = if before.services == policy.services && before.networks == policy.networks {
            before.rules.changed(&policy.rules, policy.rules.len() / FEW)
        } else {
            None
        };
        let Some(changed) = changed else {
            return Self::compile_at(policy, identities, revision, &limits, &self.top);
        };
        let identity_of = identity_of(&self.services);
        let mut sets: Vec<Identity> = self.network_sets.iter().flatten().copied().collect();
        sets.sort_unstable();
        sets.dedup();
        let world: Vec<Identity> = [Identity::WORLD].into_iter().chain(sets).collect();
        let ends = edges::Ends { services: &identity_of, networks: &self.network_sets, world: &world };
        let (old, new): (Vec<_>, Vec<_>) =
            changed.into_iter().map(|(number, old, new)| ((number, old), (number, new))).unzip();
        let edges = edges::change(&self.edges, &policy.rules, &old, &new, &ends, identities, &limits)?;
        let named = |rules: &[(u32, &Rule)]| -> BTreeSet<ProtocolKey> {
            rules.iter().flat_map(|(_, rule)| named_protocols(rule, &identity_of)).collect()
        };
        let (named_before, named_now) = (named(&old), named(&new));
        // What is not named by these any longer may be by others.
        let protocols = if named_before.is_subset(&named_now) {
            let protocols: BTreeSet<ProtocolKey> = self.protocols.union(&named_now).copied().collect();
            if protocols.len() > limits.protocols {
                return Err(CapacityError::Protocols { number: protocols.len(), limit: limits.protocols });
            }
            protocols
        } else {
            protocols(policy, &identity_of, &limits)?
        };
        Ok(Self {
            revision,
            existing: policy.existing,
            on_audit_loss: policy.on_audit_loss,
            rules: policy.rules.clone(),
            edges,
            protocols,
            services: self.services.clone(),
            networks: self.networks.clone(),
            network_sets: self.network_sets.clone(),
            reserved: self.reserved.clone(),
            claims: self.claims.clone(),
            pending: self.pending,
            top: self.top.clone(),
            cgroups: HashMap::new(),
        })
    }

    /// Compiles `policy` within the given limits, which may be below those of the maps.
    ///
    /// # Errors
    ///
    /// As [`Tables::compile`].
    pub fn compile_within(
        policy: &Policy,
        identities: &mut Identities,
        revision: u32,
        limits: &Limits,
    ) -> Result<Self, CapacityError> {
        Self::compile_at(policy, identities, revision, limits, b"/")
    }

    fn compile_at(
        policy: &Policy,
        identities: &mut Identities,
        revision: u32,
        limits: &Limits,
        top: &[u8],
    ) -> Result<Self, CapacityError> {
        let services = services(policy, identities, limits)?;
        let pending = pending(&services);
        if policy.rules.len() > limits.rules {
            return Err(CapacityError::Rules { number: policy.rules.len(), limit: limits.rules });
        }
        let networks = networks::compile(&policy.networks, identities, limits)?;
        let identity_of = identity_of(&services);
        let world: Vec<Identity> = [Identity::WORLD].into_iter().chain(networks.sets).collect();
        let ends = edges::Ends { services: &identity_of, networks: &networks.sets_of, world: &world };
        Ok(Self {
            revision,
            existing: policy.existing,
            on_audit_loss: policy.on_audit_loss,
            rules: policy.rules.clone(),
            edges: edges::compile(policy, &ends, identities, limits)?,
            networks: networks.prefixes,
            network_sets: networks.sets_of,
            reserved: reserved(policy, &services, limits)?,
            protocols: protocols(policy, &identity_of, limits)?,
            claims: Arc::new(Claims::compile(&services, pending, top)?),
            services,
            pending,
            top: top.to_vec(),
            cgroups: HashMap::new(),
        })
    }
}

impl Tables {
    /// Who owns the cgroup at `path`, counted from the cgroup v2 root: the service with a selector that matches it
    /// or, failing that, its nearest ancestor; [`Owner::UNMANAGED`] if there is none.
    ///
    /// Two services that claim the same cgroup make its owner unknown, which is denied towards every service.
    pub fn owner_of_path(&self, path: &[u8]) -> Owner {
        let mut cgroup = path;
        loop {
            let mut owners = self
                .services
                .iter()
                .filter(|service| service.selectors.iter().any(|selector| selector.matches(cgroup)))
                .map(|service| service.owner);
            match (owners.next(), owners.next()) {
                (Some(owner), None) => return owner,
                (Some(_), Some(_)) => return Owner::new(Identity::UNKNOWN, Mode::Enforce),
                (None, _) => {}
            }
            if let Some(pending) = self.pending
                && cgroup::exactly(cgroup, &self.top).is_some_and(|found| found.user.is_none())
            {
                return pending;
            }
            cgroup = match cgroup.iter().rposition(|byte| *byte == b'/') {
                Some(0) if cgroup.len() > 1 => b"/",
                Some(end) if end > 0 => cgroup.split_at(end).0,
                Some(_) | None => return Owner::UNMANAGED,
            };
        }
    }
}

impl Tables {
    /// The services that select a container by what its runtime says of it.
    pub fn selecting<'a>(&'a self, container: &'a Container) -> impl Iterator<Item = &'a ServiceOwner> {
        self.services.iter().filter(|service| {
            service.selectors.iter().any(|selector| match selector {
                Selector::Container(selector) => selector.matches(container),
                Selector::Systemd(_) | Selector::Cgroup(_) => false,
            })
        })
    }

    /// Whose the container's own cgroup is, when its runtime has told of it; `by_path` is whose it is by its path alone. A
    /// container that no service selects is what its path says. Two services that claim it make its owner unknown, which
    /// is denied.
    pub fn owner_of_container(&self, container: &Container, by_path: Owner) -> Owner {
        let unknown = Owner::new(Identity::UNKNOWN, Mode::Enforce);
        let mut selecting = self.selecting(container).map(|service| service.owner);
        match (selecting.next(), selecting.next()) {
            (None, _) => by_path,
            (Some(owner), None) if owner == by_path || by_path.identity() == Identity::UNMANAGED => owner,
            (Some(_), _) => unknown,
        }
    }
}

impl enforcer_common::Tables for Tables {
    fn cgroup(&self, id: u64) -> Option<Owner> {
        self.cgroups.get(&id).copied()
    }

    fn network(&self, address: &Address) -> Option<Identity> {
        let mut longest = 128;
        loop {
            let bound = Prefix::new(*address, longest);
            let index = self.networks.partition_point(|(prefix, _)| *prefix <= bound).checked_sub(1)?;
            let (nearest, identity) = self.networks.get(index)?;
            if nearest.contains(address) {
                return Some(*identity);
            }
            // Prefixes nest or are apart, so those that contain the address lie around the nearest one too: they are
            // no longer than what the two have in common, which is less than `longest`.
            longest = nearest.common_bits(address);
        }
    }

    fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        self.edges.get(key)
    }

    fn reserved(&self, key: &PortKey) -> Option<Owner> {
        self.reserved.get(key).copied()
    }

    fn names_protocol(&self, key: &ProtocolKey) -> bool {
        self.protocols.contains(key)
    }
}

/// The capacities that a policy is compiled within; the default is what the maps hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// See [`limits::MAX_SERVICES`].
    pub services: usize,
    /// See [`limits::MAX_SELECTORS`].
    pub selectors: usize,
    /// See [`limits::MAX_RULES`].
    pub rules: usize,
    /// See [`limits::MAX_RANGES_PER_PAIR`].
    pub ranges_per_pair: usize,
    /// See [`limits::MAX_EDGES`].
    pub edges: usize,
    /// See [`limits::MAX_PREFIXES`].
    pub prefixes: usize,
    /// See [`limits::MAX_RESERVED`].
    pub reserved: usize,
    /// See [`limits::MAX_PROTOCOLS`].
    pub protocols: usize,
    /// Pairs that rules name, counted once for every rule that names them: bounds the memory that compiling takes.
    pub grants: usize,
    /// Networks of all sets together: bounds what overlapping networks multiply to.
    pub network_set_members: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let entries = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            services: limits::MAX_SERVICES,
            selectors: limits::MAX_SELECTORS,
            rules: limits::MAX_RULES,
            ranges_per_pair: limits::MAX_RANGES_PER_PAIR,
            edges: entries(limits::MAX_EDGES),
            prefixes: entries(limits::MAX_PREFIXES),
            reserved: entries(limits::MAX_RESERVED),
            protocols: entries(limits::MAX_PROTOCOLS),
            // 200 MB while compiling.
            grants: 4 * entries(limits::MAX_EDGES),
            network_set_members: 16 * entries(limits::MAX_PREFIXES),
        }
    }
}

/// A policy that is valid, and larger than the tables.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CapacityError {
    /// Too many services.
    #[error("compile policy: {number} services, the limit is {limit}")]
    Services {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many selectors.
    #[error("compile policy: {number} selectors, the limit is {limit}")]
    Selectors {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Selectors whose automaton grows too large.
    #[error(
        "compile policy: the {selectors} selectors are too many to match at once: {cause}\n\
         hint: use fewer selectors with several stars"
    )]
    Claims {
        /// How many selectors there are.
        selectors: usize,
        /// What has grown too large.
        cause: String,
    },
    /// Too many rules.
    #[error("compile policy: {number} rules, the limit is {limit}")]
    Rules {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many port ranges between two ends.
    #[error(
        "compile policy: {number} port ranges from `{from}` to `{to}`, the limit is {limit}\n\
         hint: join neighbouring ports into ranges, or name the whole protocol"
    )]
    Ranges {
        /// The caller.
        from: String,
        /// The answerer.
        to: String,
        /// How many there are after merging.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many pairs of ends, or too many of them with long port lists.
    #[error(
        "compile policy: {number} edges, the limit is {limit}\n\
         hint: an edge is a pair of ends, and one more for every {} port ranges beyond the first {}",
        EdgeValue::RANGES,
        EdgeValue::RANGES
    )]
    Edges {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Rules that name the same pairs over and over.
    #[error(
        "compile policy: the rules together name {number} pairs of ends, the limit is {limit}\n\
         hint: a rule names every pair of its `from` and its `to`; `world` counts once for every set of networks"
    )]
    Grants {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many prefixes.
    #[error("compile policy: {number} prefixes in all networks together, the limit is {limit}")]
    Prefixes {
        /// How many there are after merging.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Networks that overlap too much.
    #[error(
        "compile policy: the networks overlap {number} times, the limit is {limit}\n\
         hint: an address that is in several networks counts once for each of them"
    )]
    NetworkSetMembers {
        /// How many there are, as far as they were counted.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many reserved ports.
    #[error("compile policy: {number} ports under `listens`, the limit is {limit}")]
    Reserved {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too many protocols of too many services.
    #[error("compile policy: {number} protocols of all services together, the limit is {limit}")]
    Protocols {
        /// How many there are.
        number: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Every number was given to some name of this or an earlier revision.
    #[error(
        "compile policy: no identity is left for a new name\n\
         hint: numbers of names that vanished are kept; `enforcer detach` and a fresh start free them"
    )]
    Identities,
}

fn services(
    policy: &Policy,
    identities: &mut Identities,
    limits: &Limits,
) -> Result<Vec<ServiceOwner>, CapacityError> {
    let number = policy.services.len();
    if number > limits.services {
        return Err(CapacityError::Services { number, limit: limits.services });
    }
    let number = policy.services.iter().map(|service| service.selectors.len()).sum();
    if number > limits.selectors {
        return Err(CapacityError::Selectors { number, limit: limits.selectors });
    }
    policy
        .services
        .iter()
        .map(|service| {
            let identity = identities.intern_service(&service.name).ok_or(CapacityError::Identities)?;
            Ok(ServiceOwner {
                name: service.name.clone(),
                owner: Owner::new(identity, service.mode),
                selectors: service.selectors.clone(),
            })
        })
        .collect()
}

/// It may turn out to be of any service that selects containers, so it is refused if one of these enforces.
fn pending(services: &[ServiceOwner]) -> Option<Owner> {
    let selecting = services.iter().filter(|service| {
        service.selectors.iter().any(|selector| matches!(selector, Selector::Container(_)))
    });
    let mut modes = selecting.map(|service| service.owner.mode());
    let first = modes.next()?;
    let enforces = [first].into_iter().chain(modes).any(|mode| mode == Mode::Enforce);
    Some(Owner::new(Identity::PENDING, if enforces { Mode::Enforce } else { Mode::Audit }))
}

/// A port that two services list belongs to the first of them. Port 0 is nobody's: binding it asks for any free one.
fn reserved(
    policy: &Policy,
    services: &[ServiceOwner],
    limits: &Limits,
) -> Result<BTreeMap<PortKey, Owner>, CapacityError> {
    let mut reserved = BTreeMap::new();
    for (service, owner) in policy.services.iter().zip(services) {
        for range in &service.listens {
            let (protocol, ports) = match *range {
                PortRange::Protocol(protocol) => (protocol, 1..=u16::MAX),
                PortRange::Ports { protocol, low, high } => (protocol, low.max(1)..=high),
            };
            for port in ports {
                reserved.entry(PortKey::new(protocol, Port::new(port))).or_insert(owner.owner);
            }
        }
    }
    if reserved.len() > limits.reserved {
        return Err(CapacityError::Reserved { number: reserved.len(), limit: limits.reserved });
    }
    Ok(reserved)
}

fn identity_of(services: &[ServiceOwner]) -> Vec<Identity> {
    services.iter().map(|service| service.owner.identity()).collect()
}

fn protocols(
    policy: &Policy,
    identity_of: &[Identity],
    limits: &Limits,
) -> Result<BTreeSet<ProtocolKey>, CapacityError> {
    let mut keys = Vec::new();
    let mut bound = 65_536;
    for rule in &policy.rules {
        if keys.len() > bound {
            // A million rules of a few services name the same few keys.
            keys.sort_unstable();
            keys.dedup();
            bound = bound.max(2 * keys.len());
        }
        keys.extend(named_protocols(rule, identity_of));
    }
    keys.sort_unstable();
    keys.dedup();
    if keys.len() > limits.protocols {
        return Err(CapacityError::Protocols { number: keys.len(), limit: limits.protocols });
    }
    Ok(keys.into_iter().collect())
}

/// Which protocols a rule that grants something names, for each of the services that it names.
fn named_protocols(rule: &Rule, identity_of: &[Identity]) -> impl Iterator<Item = ProtocolKey> {
    use crate::policy::Peer;

    let grants = !rule.from.is_empty() && !rule.to.is_empty();
    let peers = rule.from.iter().chain(&rule.to).filter(move |_| grants);
    let services = peers.filter_map(|peer| match peer {
        Peer::Service(number) => identity_of.get(usize::try_from(*number).ok()?).copied(),
        Peer::Network(_) | Peer::Unmanaged | Peer::World => None,
    });
    let ranges = match &rule.ports {
        Ports::Everything => None,
        Ports::Listed(ranges) => Some(ranges),
    };
    services.flat_map(move |service| {
        let everything = ranges.is_none().then(|| ProtocolKey::any(service));
        let listed = ranges.into_iter().flatten().map(move |range| match range {
            PortRange::Protocol(protocol) | PortRange::Ports { protocol, .. } => {
                ProtocolKey::new(service, *protocol)
            }
        });
        everything.into_iter().chain(listed)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use enforcer_common::layout::{Owner, ProtocolKey};
    use enforcer_common::{Identity, Mode, Protocol};

    use super::{Identities, Tables};
    use crate::policy::{Location, Peer, Policy, PortRange, Ports, Rule, Selector, Service};

    fn location() -> Location {
        Location { file: Path::new("policy.yaml").into(), line: 1, column: 1 }
    }

    fn service(name: &str, mode: Mode, selectors: &[&str]) -> Service {
        let selectors = selectors.iter().map(|path| Selector::Cgroup((*path).to_owned())).collect();
        Service { name: name.to_owned(), selectors, listens: Vec::new(), mode, location: location() }
    }

    fn rule(from: &[Peer], to: &[Peer], ports: Ports) -> Rule {
        Rule {
            name: "rule".into(),
            from: from.to_vec().into(),
            to: to.to_vec().into(),
            ports,
            location: location(),
        }
    }

    fn compile(policy: &Policy, identities: &mut Identities) -> Tables {
        Tables::compile(policy, identities, 7).expect("small")
    }

    #[test]
    fn a_cgroup_belongs_to_the_nearest_selector_above_it() {
        let policy = Policy {
            services: vec![
                service("shop", Mode::Enforce, &["/shop.slice"]),
                service("till", Mode::Audit, &["/shop.slice/till", "/spare"]),
                service("twice", Mode::Enforce, &["/spare", "/other"]),
                service("never", Mode::Enforce, &[]),
            ],
            ..Policy::default()
        };
        let tables = compile(&policy, &mut Identities::default());
        assert_eq!(tables.revision, 7);
        let [shop, till, twice, _] = tables.services.as_slice() else { panic!("four services") };
        assert_eq!(till.owner.mode(), Mode::Audit);
        let conflict = Owner::new(Identity::UNKNOWN, Mode::Enforce);
        for (path, owner) in [
            ("/shop.slice", shop.owner),
            ("/shop.slice/web/worker", shop.owner),
            ("/shop.slice/till", till.owner),
            ("/shop.slice/till/1", till.owner),
            ("/shop.slice.d", Owner::UNMANAGED),
            ("/user.slice/shop.slice", Owner::UNMANAGED),
            ("/other/x", twice.owner),
            ("/spare/x", conflict),
            ("/", Owner::UNMANAGED),
            ("", Owner::UNMANAGED),
        ] {
            assert_eq!(tables.owner_of_path(path.as_bytes()), owner, "{path}");
        }
    }

    #[test]
    fn protocols_are_those_of_rules_that_grant_something() {
        let listed = |protocol| Ports::Listed([PortRange::Protocol(protocol)].into());
        let [a, b, c] = [0, 1, 2].map(Peer::Service);
        let policy = Policy {
            services: ["a", "b", "c"].map(|name| service(name, Mode::Enforce, &[])).to_vec(),
            rules: vec![
                rule(&[a], &[b], listed(Protocol::SCTP)),
                rule(&[a, Peer::World], &[c], listed(Protocol::ICMP)),
                rule(&[b], &[Peer::Unmanaged], Ports::Everything),
                rule(&[c], &[], listed(Protocol::DCCP)),
                rule(&[c], &[a], Ports::Listed([].into())),
            ]
            .into(),
            ..Policy::default()
        };
        let tables = compile(&policy, &mut Identities::default());
        let [a, b, c] = [0, 1, 2].map(|index: usize| tables.services[index].owner.identity());
        let keys = [
            ProtocolKey::new(a, Protocol::SCTP),
            ProtocolKey::new(a, Protocol::ICMP),
            ProtocolKey::new(b, Protocol::SCTP),
            ProtocolKey::any(b),
            ProtocolKey::new(c, Protocol::ICMP),
        ];
        assert_eq!(tables.protocols, keys.into_iter().collect());
    }

    #[test]
    fn identities_survive_a_change_of_the_policy() {
        let mut identities = Identities::default();
        let named = |names: &[&str]| Policy {
            services: names.iter().map(|name| service(name, Mode::Enforce, &[])).collect(),
            ..Policy::default()
        };
        let first = compile(&named(&["b", "c"]), &mut identities);
        let second = compile(&named(&["a", "c"]), &mut identities);
        assert_eq!(first.services[1].owner, second.services[1].owner);
        assert_ne!(first.services[0].owner, second.services[0].owner);
        let third = compile(&named(&["b"]), &mut identities);
        assert_eq!(first.services[0].owner, third.services[0].owner);
    }
}
