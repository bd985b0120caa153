//! From YAML trees to a policy: the only file that knows the policy format.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use enforcer_common::{Mode, Protocol, limits};

use super::conflict;
use super::container::{self, ContainerSelector};
use super::finding::{Findings, Problem, Severity, quoted};
use super::rules::Builder;
use super::tree::{Children, Field, Line, Lines, NodeId, Tree, Value};
use super::{
    Cidr, Existing, Few, Location, Network, OnAuditLoss, OnUnsupported, Peer, Policy, PortRange, Ports, Rule,
    Rules, Selector, Service, Tail,
};

mod value;

pub(super) use super::tree::Unusual;
pub(super) use value::{nearest, suggest};

/// Comparisons that "did you mean" may cost in one run: enough for every finding of a policy that people write.
const MAX_COMPARISONS: usize = 1_000_000;

/// Compiles all trees as one policy. The result is of use only if no error was found.
///
/// `complete` tells that no file is missing, so that a name that nobody declares is an error. `Unusual` is told of lines
/// without nodes of which a finding is to be made.
pub(super) fn compile(
    trees: &[Tree<'_>],
    complete: bool,
    findings: &mut Findings,
) -> Result<(Policy, Vec<Tail>), Unusual> {
    let complete = complete && trees.iter().all(|tree| tree.complete);
    let (told, state) = (HashSet::new(), RandomState::new());
    Compiler { trees, findings, complete, comparisons: 0, told, state }.compile()
}

struct Compiler<'t, 'f> {
    trees: &'t [Tree<'t>],
    findings: &'f mut Findings,
    complete: bool,
    comparisons: usize,
    /// Findings about files with aliases, as numbers: what an alias stands for is looked at once more wherever it is named.
    told: HashSet<u64>,
    state: RandomState,
}

/// A node and the tree it is in.
#[derive(Clone, Copy)]
struct At<'t> {
    tree: &'t Tree<'t>,
    id: NodeId,
    /// A finding tells already that its value is not what belongs there.
    is_told: bool,
}

/// A name under `services` or `networks`.
struct Declared<'t> {
    name: &'t str,
    key: At<'t>,
    body: At<'t>,
}

/// The parts of all documents, not yet looked into.
#[derive(Default)]
struct Parts<'t> {
    mode: Option<(At<'t>, Mode)>,
    on_unsupported: Option<(At<'t>, OnUnsupported)>,
    existing: Option<(At<'t>, Existing)>,
    on_audit_loss: Option<(At<'t>, OnAuditLoss)>,
    services: Vec<Declared<'t>>,
    networks: Vec<Declared<'t>>,
    rules: Vec<At<'t>>,
    /// Trees with lines, each with its number, and the number of rules that stand before them.
    lines: Vec<(usize, usize, &'t Tree<'t>)>,
    names: HashMap<&'t str, At<'t>>,
}

impl<'t> At<'t> {
    fn value(self) -> Value<'t> {
        if self.is_told { Value::Invalid } else { self.tree.value(self.id) }
    }

    fn with(self, id: NodeId) -> Self {
        Self { tree: self.tree, id, is_told: false }
    }

    fn location(self) -> Location {
        self.tree.location(self.id)
    }
}

impl<'t> Compiler<'t, '_> {
    fn compile(mut self) -> Result<(Policy, Vec<Tail>), Unusual> {
        let mut parts = Parts::default();
        for (number, tree) in self.trees.iter().enumerate() {
            if tree.roots.is_empty() && tree.complete {
                let message = String::from("the file says nothing, not even its version");
                let location = tree.beginning();
                let finding = super::Finding::of_file(Severity::Error, "missing-field", location, message);
                self.findings.add(finding.hint("begin it with `version: 1`"));
            }
            for root in &tree.roots {
                self.document(At { tree, id: *root, is_told: false }, &mut parts);
            }
            if tree.lines.is_some() {
                parts.lines.push((parts.rules.len(), number, tree));
            }
        }
        self.limit(&parts.services, limits::MAX_SERVICES, "services", |declared| declared.key);
        self.limit(&parts.rules, limits::MAX_RULES, "rules", |rule| *rule);

        let mode = parts.mode.map_or(Mode::Enforce, |(_, mode)| mode);
        parts.services.sort_by_key(|declared| declared.name);
        parts.networks.sort_by_key(|declared| declared.name);
        let mut peers = HashMap::with_capacity(parts.services.len() + parts.networks.len() + 2);
        // There are fewer than numbers, or findings tell so.
        peers.extend((0..).zip(&parts.services).map(|(index, service)| (service.name, Peer::Service(index))));
        peers.extend((0..).zip(&parts.networks).map(|(index, network)| (network.name, Peer::Network(index))));
        // Last, so that a name that takes one of these words does not change what rules mean.
        peers.insert("unmanaged", Peer::Unmanaged);
        peers.insert("world", Peer::World);

        let mut selectors = Vec::new();
        let mut listens = Vec::new();
        let services = parts
            .services
            .iter()
            .enumerate()
            .map(|(index, declared)| self.service(index, declared, mode, &mut selectors, &mut listens))
            .collect();
        let mut prefixes = Vec::new();
        let networks = parts.networks.iter().map(|declared| self.network(declared, &mut prefixes)).collect();
        self.limit(&selectors, limits::MAX_SELECTORS, "selectors", |(_, _, at)| *at);
        self.limit(&prefixes, limits::MAX_PREFIXES as usize, "address prefixes", |at| *at);

        self.claimed_twice(&parts.services, &selectors);
        self.reserved_twice(&parts.services, listens);
        let (rules, tails) = self.rules(&parts.rules, &parts.lines, &peers)?;
        let on_unsupported = parts.on_unsupported.map_or(OnUnsupported::Refuse, |(_, found)| found);
        let existing = parts.existing.map_or_else(Existing::default, |(_, existing)| existing);
        let on_audit_loss = parts.on_audit_loss.map_or_else(OnAuditLoss::default, |(_, choice)| choice);
        Ok((Policy { services, networks, rules, on_unsupported, existing, on_audit_loss }, tails))
    }

    // The document and its sections.

    fn document(&mut self, root: At<'t>, parts: &mut Parts<'t>) {
        let names = ["version", "defaults", "services", "networks", "allow"];
        let Some([version, defaults, services, networks, allow]) = self.fields(root, "a policy", names)
        else {
            // What it declares is not known.
            self.complete = false;
            return;
        };
        match version {
            None => self.error(
                root,
                Problem::new("missing-field", "the document does not say its `version`")
                    .hint("begin it with `version: 1`"),
            ),
            Some(version) => {
                let found = match version.value() {
                    Value::Text("1") if version.tree.is_plain(version.id) => None,
                    Value::Invalid => None,
                    Value::Text("1") => Some(String::from("a text")),
                    Value::Text(text) => Some(quoted(text)),
                    other @ (Value::Null | Value::List(_) | Value::Mapping(_)) => {
                        Some(String::from(kind(other)))
                    }
                };
                if let Some(found) = found {
                    let message = format!("the version of the format is the number 1, not {found}");
                    let problem = Problem::new("unsupported-version", message);
                    self.error(version, problem.hint("write `version: 1`"));
                }
            }
        }
        // Another version's sections may mean something else, but this version's findings help nearly always.
        self.sections(parts, defaults, services, networks, allow);
    }

    fn sections(
        &mut self,
        parts: &mut Parts<'t>,
        defaults: Option<At<'t>>,
        services: Option<At<'t>>,
        networks: Option<At<'t>>,
        allow: Option<At<'t>>,
    ) {
        if let Some(defaults) = defaults.filter(|at| !matches!(at.value(), Value::Null))
            && let Some([mode, on_unsupported, existing, on_audit_loss]) =
                self.fields(defaults, "`defaults`", ["mode", "on_unsupported", "existing", "on_audit_loss"])
        {
            self.once(&mut parts.mode, mode, "mode", value::parse_mode);
            self.once(
                &mut parts.on_unsupported,
                on_unsupported,
                "`on_unsupported`",
                value::parse_on_unsupported,
            );
            self.once(&mut parts.existing, existing, "`existing`", value::parse_existing);
            self.once(&mut parts.on_audit_loss, on_audit_loss, "`on_audit_loss`", value::parse_on_audit_loss);
        }
        for (section, what, declared) in
            [(services, "service", &mut parts.services), (networks, "network", &mut parts.networks)]
        {
            let Some(section) = section else { continue };
            let hint = format!("write a mapping of names: `{what}s: {{ name: {{ ... }} }}`");
            let Some(entries) = self.mapping(section, &format!("`{what}s`"), &hint) else { continue };
            for (key, body) in entries.pairs() {
                let (key, body) = (section.with(key), section.with(body));
                let Some(name) = self.name(key, what) else {
                    // What a merge key would have brought is not known.
                    self.complete &= !matches!(key.value(), Value::Text(_));
                    continue;
                };
                if value::is_address(name) {
                    let message = format!("{} is an address, and cannot name a {what}", quoted(name));
                    let problem = Problem::new("invalid-name", message);
                    self.error(
                        key,
                        problem.hint("choose another name: `enforcer check` takes this one for the address"),
                    );
                }
                if value::RESERVED.contains(&name) {
                    let problem = Problem::new(
                        "reserved-name",
                        format!("{} is a reserved word and cannot name a {what}", quoted(name)),
                    );
                    self.error(key, problem.hint("choose another name"));
                } else if let Some(first) = parts.names.get(name) {
                    let message = format!("the name {} is declared twice", quoted(name));
                    let hint = "services and networks share one set of names, across all files";
                    self.twice(key, *first, "duplicate-name", &message, hint);
                } else {
                    parts.names.insert(name, key);
                }
                // What is declared under a wrong name is looked into all the same, for findings of its own.
                declared.push(Declared { name, key, body });
            }
        }
        if let Some(allow) = allow.filter(|at| !matches!(at.value(), Value::Null)) {
            match allow.value() {
                Value::List(rules) => parts.rules.extend(rules.map(|rule| allow.with(rule))),
                other => self.wrong_type(
                    allow,
                    other,
                    "`allow` is a list of rules",
                    "write `- { name: ..., from: ..., to: ..., ports: [...] }` for each",
                ),
            }
        }
    }

    /// Reads a default that all files together set once.
    fn once<T>(
        &mut self,
        set: &mut Option<(At<'t>, T)>,
        at: Option<At<'t>>,
        what: &str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) {
        let Some(at) = at else { return };
        match set {
            Some((first, _)) => {
                let message = format!("the default {what} is set twice");
                self.twice(at, *first, "duplicate-name", &message, "all files together have one default");
            }
            None => *set = self.text(at, &format!("a default {what}"), parse).map(|found| (at, found)),
        }
    }

    fn service(
        &mut self,
        index: usize,
        declared: &Declared<'t>,
        default: Mode,
        selectors: &mut Vec<(usize, Selector, At<'t>)>,
        listens: &mut Vec<(PortRange, usize, At<'t>)>,
    ) -> Service {
        let mut service = Service {
            name: declared.name.to_owned(),
            selectors: Vec::new(),
            listens: Vec::new(),
            mode: default,
            location: declared.key.tree.location(declared.key.id),
        };
        let names = ["match", "listens", "mode", "comment"];
        let Some([matches, ports, mode, comment]) = self.fields(declared.body, "a service", names) else {
            return service;
        };
        self.comment(comment);
        if let Some(mode) = mode.and_then(|mode| self.text(mode, "a mode", value::parse_mode)) {
            service.mode = mode;
        }
        let hint = "write `match: [{ systemd: nginx.service }]`";
        match matches {
            None => {
                let message = format!("the service {} does not say what it matches", quoted(declared.name));
                self.error(declared.key, Problem::new("missing-field", message).hint(hint));
            }
            Some(matches) => {
                for entry in self.list(matches, "`match` is a list of selectors", hint) {
                    if let Some(selector) = self.selector(entry) {
                        selectors.push((index, selector.clone(), entry));
                        service.selectors.push(selector);
                    }
                }
                self.warn_if_empty(matches, "the service matches nothing: it has no selector");
            }
        }
        if let Some(ports) = ports {
            let hint = "write `listens: [8080/tcp]`";
            for entry in self.list(ports, "`listens` is a list of ports", hint) {
                let Some(range) = self.text(entry, "a port", parse_listen) else { continue };
                listens.push((range, index, entry));
                service.listens.push(range);
            }
            self.warn_if_empty(ports, "an empty `listens` reserves no port");
        }
        service
    }

    fn selector(&mut self, entry: At<'t>) -> Option<Selector> {
        const KINDS: [&str; 3] = ["systemd", "cgroup", "container"];
        if let Value::Text(text) = entry.value() {
            let kind = if text.starts_with('/') { "cgroup" } else { "systemd" };
            let (key, name) = without_space(text, KINDS).unwrap_or((kind, text));
            let problem = Problem::new("wrong-type", "a selector says what kind of name it is");
            self.error(entry, problem.hint(format!("write `{{ {key}: {name} }}`")));
            return None;
        }
        let [systemd, cgroup, container] = self.fields(entry, "a selector", KINDS)?;
        match (systemd, cgroup, container) {
            (Some(unit), None, None) => self.text(unit, "a unit", Selector::parse_systemd),
            (None, Some(path), None) => self.text(path, "a cgroup path", Selector::parse_cgroup),
            (None, None, Some(container)) => self.container(container),
            (Some(_), Some(second), _) | (Some(_), None, Some(second)) | (None, Some(_), Some(second)) => {
                let problem = Problem::new("invalid-selector", "one entry holds one selector");
                let key = match entry.value() {
                    Value::Mapping(entries) => entries.pairs().find(|(_, value)| *value == second.id),
                    Value::Null | Value::Text(_) | Value::List(_) | Value::Invalid => None,
                };
                self.error(
                    key.map_or(second, |(key, _)| entry.with(key)),
                    problem.hint("write each as an entry of its own; a service is what any of them matches"),
                );
                None
            }
            (None, None, None) => {
                if let Value::Mapping(children) = entry.value()
                    && children.is_empty()
                {
                    let problem = Problem::new("missing-field", "the selector is empty");
                    self.error(
                        entry,
                        problem.hint("write `{ systemd: nginx.service }` or `{ cgroup: /path }`"),
                    );
                }
                None
            }
        }
    }

    /// A container selector; nothing if a finding tells what is wrong with a part of it, since without that part it would
    /// select more than was meant.
    fn container(&mut self, entry: At<'t>) -> Option<Selector> {
        if let Value::Text(text) = entry.value() {
            let problem = Problem::new("wrong-type", "a container selector says what is to match");
            self.error(entry, problem.hint(format!("write `container: {{ name: {text} }}`")));
            return None;
        }
        let names = ["name", "image", "label", "id", "runtime", "pod", "namespace"];
        let fields = self.fields(entry, "a container selector", names)?;
        let is_whole = |value: &Value<'_>| match value {
            Value::Mapping(children) => children.pairs().count() == fields.iter().flatten().count(),
            Value::Null | Value::Text(_) | Value::List(_) | Value::Invalid => false,
        };
        let mut whole = is_whole(&entry.value());
        if whole && fields.iter().all(Option::is_none) {
            let problem = Problem::new("missing-field", "the container selector is empty");
            self.error(
                entry,
                problem.hint("write `container: { name: pg-main }`; `name: \"*\"` is any name"),
            );
            return None;
        }
        let [name, image, label, id, runtime, pod, namespace] = fields;
        let mut selector = ContainerSelector::default();
        let texts = [
            (name, "a container's name", container::parse_name as fn(&str) -> _, &mut selector.name),
            (image, "an image", container::parse_image, &mut selector.image),
            (id, "a container's id", container::parse_id, &mut selector.id),
            (pod, "a pod's name", container::parse_kubernetes, &mut selector.pod),
            (namespace, "a namespace's name", container::parse_kubernetes, &mut selector.namespace),
        ];
        for (at, what, parse, field) in texts {
            *field = at.and_then(|at| self.text(at, what, parse));
            whole &= at.is_some() == field.is_some();
        }
        selector.runtime = runtime.and_then(|at| self.text(at, "a runtime", container::parse_runtime));
        whole &= runtime.is_some() == selector.runtime.is_some();
        if let Some(label) = label {
            let labels = self.labels(label);
            whole &= labels.is_some();
            selector.labels = labels.unwrap_or_default();
        }
        whole.then(|| Selector::Container(Box::new(selector)))
    }

    fn labels(&mut self, at: At<'t>) -> Option<Vec<(String, String)>> {
        let entries = match at.value() {
            Value::Mapping(entries) => entries,
            other => {
                let rule = "`label` is a mapping of keys and values";
                self.wrong_type(at, other, rule, "write `label: { app: web }`");
                return None;
            }
        };
        if entries.is_empty() {
            let problem = Problem::new("missing-field", "`label` names no label");
            self.error(at, problem.hint("write `label: { app: web }`, or leave it out"));
            return None;
        }
        let mut labels: Vec<(String, String)> = Vec::new();
        let mut keys: HashMap<&'t str, At<'t>> = HashMap::new();
        let mut whole = true;
        for (key, value) in entries.pairs() {
            let (key, value) = (at.with(key), at.with(value));
            let name = self.key(key);
            if let Some(name) = name
                && let Some(first) = keys.insert(name, key)
            {
                let message = format!("the label {} is there twice", quoted(name));
                self.twice(key, first, "duplicate-key", &message, "remove one of them");
                whole = false;
            }
            let name = name.and_then(|_| self.text(key, "a label", container::parse_label));
            let value = self.text(value, "a label's value", container::parse_label);
            whole &= name.is_some() && value.is_some();
            labels.extend(name.zip(value));
        }
        labels.sort();
        whole.then_some(labels)
    }

    fn network(&mut self, declared: &Declared<'t>, prefixes: &mut Vec<At<'t>>) -> Network {
        let mut network = Network {
            name: declared.name.to_owned(),
            cidrs: Vec::new(),
            except: Vec::new(),
            location: declared.key.tree.location(declared.key.id),
        };
        let names = ["cidrs", "except", "comment"];
        let Some([cidrs, except, comment]) = self.fields(declared.body, "a network", names) else {
            return network;
        };
        self.comment(comment);
        let mut listed = Vec::new();
        let mut complete = true;
        match cidrs {
            None => {
                let message = format!("the network {} does not say its addresses", quoted(declared.name));
                let problem = Problem::new("missing-field", message);
                self.error(declared.key, problem.hint("write `cidrs: [203.0.113.0/24]`"));
            }
            Some(cidrs) => {
                for entry in self.list(
                    cidrs,
                    "`cidrs` is a list of address prefixes",
                    "write `cidrs: [203.0.113.0/24]`",
                ) {
                    prefixes.push(entry);
                    let cidr = self.text(entry, "an address prefix", value::parse_cidr);
                    complete &= cidr.is_some();
                    listed.extend(cidr.map(|cidr| (cidr, entry)));
                }
                self.warn_if_empty(cidrs, "the network matches nothing: it has no addresses");
            }
        }
        for (cidr, entry) in &listed {
            if value::is_own(*cidr) {
                let message = format!(
                    "{}/{} is of this host, and no address of this host is ever in a network",
                    cidr.address, cidr.prefix
                );
                let problem = Problem::new("own-address", message);
                self.error(*entry, problem.hint("name the service that is there, or `unmanaged`"));
            }
        }
        network.cidrs.extend(listed.iter().map(|(cidr, _)| *cidr));
        let Some(except) = except else { return network };
        let known: HashSet<Cidr> = network.cidrs.iter().copied().collect();
        let mut exceptions = HashSet::new();
        for entry in
            self.list(except, "`except` is a list of address prefixes", "write `except: [203.0.113.9/32]`")
        {
            prefixes.push(entry);
            let Some(cidr) = self.text(entry, "an address prefix", value::parse_cidr) else { continue };
            if wider(cidr).any(|wider| known.contains(&wider)) {
                exceptions.insert(cidr);
            } else if complete && !known.is_empty() {
                let message = format!(
                    "the exception {}/{} is in none of the network's `cidrs`",
                    cidr.address, cidr.prefix
                );
                let problem = Problem::new("except-outside", message);
                self.error(entry, problem.hint("remove it, or add what it is an exception from"));
            }
            network.except.push(cidr);
        }
        for (cidr, entry) in listed {
            if wider(cidr).any(|wider| exceptions.contains(&wider)) {
                let message =
                    format!("nothing is left of {}/{}: an exception covers it", cidr.address, cidr.prefix);
                let problem = Problem::new("matches-nothing", message);
                self.warn(entry, problem.hint("remove it, or narrow the exception"));
            }
        }
        network
    }

    // Rules.

    fn rules(
        &mut self,
        entries: &[At<'t>],
        lines: &[(usize, usize, &'t Tree<'t>)],
        peers: &HashMap<&'t str, Peer>,
    ) -> Result<(Rules, Vec<Tail>), Unusual> {
        let mut names: HashMap<&'t str, At<'t>> = HashMap::with_capacity(entries.len());
        let (mut rules, mut tails) = (Builder::default(), Vec::new());
        // Of names that stand in lines, and of all others if there are lines.
        let (state, mut hashes) = (RandomState::new(), Vec::new());
        let mut start = 0;
        // Behind the last lines is the rest.
        let parts = lines
            .iter()
            .map(|(end, number, tree)| (*end, Some((*number, *tree))))
            .chain([(entries.len(), None)]);
        for (end, tree) in parts {
            for entry in entries.get(start..end).into_iter().flatten() {
                if let Some(rule) = self.rule(*entry, &mut names, peers) {
                    rules.push(rule);
                }
            }
            start = end;
            let Some((document, tree)) = tree else { continue };
            let Some(lines) = tree.lines else { continue };
            let (file, first) = (tree.file(), rules.len());
            for line in lines {
                let rule = plain_rule(&file, &line?, peers).ok_or(Unusual)?;
                hashes.push(state.hash_one(&rule.name));
                rules.push(rule);
                if rules.len() > limits::MAX_RULES {
                    return Err(Unusual);
                }
            }
            tails.push(lines.tail(document, first, rules.len() - first));
        }
        if !hashes.is_empty() {
            // Who shares a number may share the name.
            hashes.extend(names.keys().map(|name| state.hash_one(name)));
            hashes.sort_unstable();
            if hashes.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
                return Err(Unusual);
            }
        }
        Ok((rules.finish(), tails))
    }

    fn rule(
        &mut self,
        entry: At<'t>,
        names: &mut HashMap<&'t str, At<'t>>,
        peers: &HashMap<&'t str, Peer>,
    ) -> Option<Rule> {
        let [name, from, to, ports_at, comment] =
            self.fields(entry, "a rule", ["name", "from", "to", "ports", "comment"])?;
        self.comment(comment);
        let rule_name = match name {
            None => {
                let problem = Problem::new("missing-field", "the rule has no name");
                self.error(entry, problem.hint("add `name:`; refusals and records are told by it"));
                None
            }
            Some(name) => self.name(name, "rule").inspect(|text| {
                if let Some(first) = names.get(text) {
                    let message = format!("two rules are called {}", quoted(text));
                    // A rule that is an alias has its name elsewhere.
                    let is_alias = name.location() == first.location();
                    self.twice(
                        if is_alias { entry } else { name },
                        *first,
                        "duplicate-rule",
                        &message,
                        "give each rule a name of its own, across all files",
                    );
                } else {
                    names.insert(text, name);
                }
            }),
        };
        let from = self.peers(entry, from, "from", peers);
        let to = self.peers(entry, to, "to", peers);
        let ports = match ports_at {
            None => {
                let at = name.unwrap_or(entry);
                let message = "the rule has no `ports`, so it permits every port of every protocol";
                self.warn(at, Problem::new("every-port", message).hint("add `ports: [443/tcp]`"));
                Ports::Everything
            }
            Some(ports) => {
                let mut listed = Vec::new();
                for port in self.list(ports, "`ports` is a list of ports", "write `ports: [8080/tcp]`") {
                    listed.extend(self.text(port, "a port", value::parse_ports));
                }
                self.warn_if_empty(ports, "the rule matches nothing: its `ports` are empty");
                Ports::Listed(listed.into())
            }
        };
        let (from, to) = (from?, to?);
        if let (Ports::Listed(listed), Some(ports)) = (&ports, ports_at)
            && let Some(protocol) = never_told(&from, &to, listed)
        {
            let message = format!(
                "{protocol} between processes of this host is refused where a service is one, rule or not"
            );
            let problem = Problem::new("never-permitted", message);
            self.warn(
                ports,
                problem
                    .hint("who is at the other end cannot be told; use tcp or udp, or name `world` if it is another host"),
            );
        }
        let is_service = |peer: &Peer| matches!(peer, Peer::Service(_));
        if !from.is_empty() && !to.is_empty() && !from.iter().chain(&to).any(is_service) {
            let message = "the rule covers nothing: neither end is a service";
            let problem = Problem::new("covers-nothing", message);
            self.error(
                name.unwrap_or(entry),
                problem.hint("only the traffic of declared services is judged; name a service on one side"),
            );
        }
        Some(Rule {
            name: rule_name?.into(),
            from: from.into(),
            to: to.into(),
            ports,
            location: entry.tree.location(entry.id),
        })
    }

    /// One end of a rule; nothing if a finding tells what is wrong with it.
    fn peers(
        &mut self,
        rule: At<'t>,
        field: Option<At<'t>>,
        name: &str,
        known: &HashMap<&'t str, Peer>,
    ) -> Option<Vec<Peer>> {
        let Some(field) = field else {
            let problem = Problem::new("missing-field", format!("the rule has no `{name}`"));
            self.error(
                rule,
                problem.hint(format!("add `{name}:` with a service, a network, `unmanaged` or `world`")),
            );
            return None;
        };
        match field.value() {
            Value::List(children) => {
                let mut peers = Vec::new();
                let mut complete = true;
                for child in children {
                    match self.peer(field.with(child), known) {
                        // Said twice is said once.
                        Some(peer) if peers.contains(&peer) => {}
                        Some(peer) => peers.push(peer),
                        None => complete = false,
                    }
                }
                self.warn_if_empty(field, &format!("the rule matches nothing: its `{name}` is empty"));
                complete.then_some(peers)
            }
            Value::Text(_) | Value::Null | Value::Mapping(_) | Value::Invalid => {
                self.peer(field, known).map(|peer| vec![peer])
            }
        }
    }

    fn peer(&mut self, at: At<'t>, known: &HashMap<&'t str, Peer>) -> Option<Peer> {
        let hint = "write the name of a service or network, `unmanaged` or `world`";
        let text = self.scalar(at, "a name", hint)?;
        if let Some(peer) = known.get(text) {
            return Some(*peer);
        }
        if text == "unknown" || text == "pending" {
            let message = format!("no rule can name `{text}`: records call an end so that is not identified");
            self.error(at, Problem::new("reserved-name", message).hint(hint));
        } else if self.complete {
            // A file that could not be read to its end may be the one that declares the name.
            let problem =
                Problem::new("unknown-name", format!("no service or network is called {}", quoted(text)));
            let near = if self.findings.wants(Severity::Error) {
                self.nearest(text, known.keys().copied())
            } else {
                None
            };
            self.error(
                at,
                match near {
                    Some(near) => problem.hint(value::did_you_mean(near)),
                    None if value::check_name(text).is_err() => problem.hint(hint),
                    None => problem.hint("declare it under `services` or `networks`"),
                },
            );
        }
        None
    }

    // Conflicts between services.

    fn claimed_twice(&mut self, services: &[Declared<'t>], selectors: &[(usize, Selector, At<'t>)]) {
        let entries: Vec<(usize, &Selector)> =
            selectors.iter().map(|(owner, selector, _)| (*owner, selector)).collect();
        let conflicts = match conflict::find(&entries) {
            Ok(conflicts) => conflicts,
            Err(conflict::TooManyGlobs { compared }) => {
                if let Some((_, _, at)) = selectors.iter().find(|(_, selector, _)| !selector.is_exact()) {
                    let message = format!(
                        "the selectors with `*` or `?` are too many to compare: gave up after {compared} comparisons"
                    );
                    let problem = Problem::new("limit", message);
                    self.error(*at, problem.hint("begin their patterns with fixed text, or write fewer"));
                }
                return;
            }
        };
        if let Some(last) = conflicts.get(conflict::MAX_CONFLICTS - 1) {
            let message = format!(
                "services claim the same cgroups {} times or more: gave up there",
                conflict::MAX_CONFLICTS
            );
            let (_, _, at) = &selectors[last.second];
            self.error(
                *at,
                Problem::new("limit", message).hint("narrow those that are told of, and look again"),
            );
        }
        for conflict in conflicts {
            let (first_owner, _, first) = &selectors[conflict.first];
            let (second_owner, _, second) = &selectors[conflict.second];
            if services[*first_owner].name == services[*second_owner].name {
                // One name declared twice has been reported already.
                continue;
            }
            let [(early, early_owner), (late, late_owner)] =
                in_order([(*first, &services[*first_owner]), (*second, &services[*second_owner])]);
            let what = match &selectors[conflict.first].1 {
                Selector::Container(_) => "container",
                Selector::Systemd(_) | Selector::Cgroup(_) => "cgroup",
            };
            let message = format!(
                "a {what} can be claimed by two services, {} and {}: for example {}",
                quoted(early_owner.name),
                quoted(late_owner.name),
                quoted(&conflict.example),
            );
            let claims = format!("{} claims it here", quoted(early_owner.name));
            self.findings.add_with(Severity::Error, || {
                late.tree
                    .finding(late.id, Severity::Error, "claimed-twice", message)
                    .related(early.location(), claims)
                    .hint(if what == "container" {
                        "narrow one of them"
                    } else {
                        "narrow one of them; a selector claims what is below a cgroup too"
                    })
            });
        }
    }

    fn reserved_twice(&mut self, services: &[Declared<'t>], mut listens: Vec<(PortRange, usize, At<'t>)>) {
        listens.sort_by_key(|(range, owner, _)| (*range, *owner));
        // The range that reaches furthest so far, and the furthest of another service.
        let mut reach: [Option<(Protocol, u16, usize, At<'t>)>; 2] = [None, None];
        for (range, owner, at) in listens {
            let PortRange::Ports { protocol, low, high } = range else { continue };
            let other = reach.iter().flatten().find(|(reached, end, other, _)| {
                *reached == protocol && *end >= low && services[*other].name != services[owner].name
            });
            if let Some((_, end, other, first)) = other {
                let [(early, early_owner), (late, late_owner)] =
                    in_order([(*first, &services[*other]), (at, &services[owner])]);
                let both =
                    if low == high.min(*end) { low.to_string() } else { format!("{low}-{}", high.min(*end)) };
                let message = format!(
                    "two services reserve port {both}: {} and {}",
                    quoted(early_owner.name),
                    quoted(late_owner.name),
                );
                let what = format!("{} reserves it here", quoted(early_owner.name));
                self.findings.add_with(Severity::Error, || {
                    late.tree
                        .finding(late.id, Severity::Error, "reserved-twice", message)
                        .related(early.location(), what)
                        .hint("leave the port to one of them")
                });
            }
            let further = |slot: &Option<(Protocol, u16, usize, At<'t>)>| {
                slot.is_none_or(|(reached, end, ..)| reached != protocol || end < high)
            };
            let entry = Some((protocol, high, owner, at));
            if reach[0].is_some_and(|(_, _, other, _)| other == owner) {
                if further(&reach[0]) {
                    reach[0] = entry;
                }
            } else if further(&reach[0]) {
                reach[1] = reach[0];
                reach[0] = entry;
            } else if further(&reach[1]) {
                reach[1] = entry;
            }
        }
    }

    // What all parts of the format share.

    /// The values of a mapping with fixed keys. Reports every other key, and keys that are there twice.
    fn fields<const N: usize>(
        &mut self,
        at: At<'t>,
        what: &str,
        names: [&'static str; N],
    ) -> Option<[Option<At<'t>>; N]> {
        let entries = match at.value() {
            Value::Mapping(entries) => entries,
            other => {
                let hint = match other {
                    Value::Text(text) => without_space(text, names).map(space_after_colon),
                    Value::Null | Value::List(_) | Value::Mapping(_) | Value::Invalid => None,
                };
                let hint = hint.unwrap_or_else(|| format!("its fields are {}", names.join(", ")));
                self.wrong_type(at, other, &format!("{what} is a mapping"), &hint);
                return None;
            }
        };
        let mut keys: [Option<At<'t>>; N] = [None; N];
        let mut values: [Option<At<'t>>; N] = [None; N];
        // What stands behind keys that are nearly the right ones.
        let mut meant: [Option<At<'t>>; N] = [None; N];
        let mut is_merged = false;
        for (key, value) in entries.pairs() {
            let (key, value) = (at.with(key), at.with(value));
            let Some(text) = self.key(key) else {
                is_merged |= matches!(key.value(), Value::Text(_));
                continue;
            };
            let Some(index) = names.iter().position(|name| *name == text) else {
                let problem = Problem::new("unknown-field", format!("{what} has no field {}", quoted(text)));
                let (name, hint, value) = if let Some(found) = without_space(text, names) {
                    (Some(found.0), space_after_colon(found), At { is_told: true, ..key })
                } else if let Some(name) = self.nearest(text, names) {
                    (Some(name), value::did_you_mean(name), value)
                } else {
                    (None, format!("its fields are {}", names.join(", ")), value)
                };
                self.error(key, problem.hint(hint));
                if let Some(index) = names.iter().position(|known| Some(*known) == name) {
                    meant[index].get_or_insert(value);
                }
                continue;
            };
            match keys[index] {
                Some(first) => {
                    let message = format!("the field {} is there twice", quoted(text));
                    self.twice(key, first, "duplicate-key", &message, "remove one of them");
                }
                None => (keys[index], values[index]) = (Some(key), Some(value)),
            }
        }
        // One mistake is told once: nothing is missing that has another name, or that a merge key would have brought.
        for (value, meant) in values.iter_mut().zip(meant) {
            *value = value.or(meant);
        }
        (!is_merged).then_some(values)
    }

    fn mapping(&mut self, at: At<'t>, what: &str, hint: &str) -> Option<Children<'t>> {
        match at.value() {
            Value::Mapping(entries) => Some(entries),
            Value::Null => None,
            other => {
                self.wrong_type(at, other, &format!("{what} is a mapping"), hint);
                None
            }
        }
    }

    fn list(&mut self, at: At<'t>, rule: &str, hint: &str) -> impl Iterator<Item = At<'t>> + use<'t> {
        let children = match at.value() {
            Value::List(children) => Some(children),
            other => {
                self.wrong_type(at, other, rule, hint);
                None
            }
        };
        children.into_iter().flatten().map(move |id| at.with(id))
    }

    fn key(&mut self, at: At<'t>) -> Option<&'t str> {
        match at.value() {
            Value::Text("<<") if at.tree.is_plain(at.id) => {
                let problem = Problem::new("merge-key", "merge keys have no meaning in a policy");
                self.error(at, problem.hint("write the fields out"));
                None
            }
            Value::Text(text) => Some(text),
            other => {
                self.wrong_type(at, other, "a key is a name", "write `name: value`");
                None
            }
        }
    }

    /// A name, whose form may be wrong: then a finding says so.
    fn name(&mut self, at: At<'t>, what: &str) -> Option<&'t str> {
        let text = match at.value() {
            Value::Text("<<") => self.key(at)?,
            Value::Text(text) => text,
            other => {
                let rule = format!("the name of a {what} is a text");
                self.wrong_type(at, other, &rule, "put a name that YAML takes for something else in quotes");
                return None;
            }
        };
        if let Err(problem) = value::check_name(text) {
            self.error(at, problem);
        }
        Some(text)
    }

    fn scalar(&mut self, at: At<'t>, what: &str, hint: &str) -> Option<&'t str> {
        match at.value() {
            Value::Text(text) => Some(text),
            other => {
                self.wrong_type(at, other, &format!("{what} is a text"), hint);
                None
            }
        }
    }

    fn text<T>(&mut self, at: At<'t>, what: &str, parse: impl Fn(&str) -> Result<T, Problem>) -> Option<T> {
        let text = self.scalar(at, what, "write one value")?;
        parse(text).map_err(|problem| self.error(at, problem)).ok()
    }

    fn comment(&mut self, comment: Option<At<'t>>) {
        if let Some(comment) = comment {
            self.scalar(comment, "a comment", "put the comment in quotes");
        }
    }

    fn wrong_type(&mut self, at: At<'t>, found: Value<'t>, rule: &str, hint: &str) {
        let code = match found {
            Value::Invalid => return,
            Value::Null => "empty-value",
            Value::Text(_) | Value::List(_) | Value::Mapping(_) => "wrong-type",
        };
        self.error(at, Problem::new(code, format!("{rule}, not {}", kind(found))).hint(hint));
    }

    fn warn_if_empty(&mut self, at: At<'t>, message: &str) {
        if let Value::List(children) = at.value()
            && children.is_empty()
        {
            let hint = "an empty list is nothing, never everything";
            self.warn(at, Problem::new("matches-nothing", message).hint(hint));
        }
    }

    fn limit<T>(&mut self, items: &[T], limit: usize, what: &str, place: impl Fn(&T) -> At<'t>) {
        if let Some(first) = items.get(limit) {
            let message = format!("the policy has {} {what}, the limit is {limit}", items.len());
            let problem = Problem::new("limit", message);
            self.error(place(first), problem.hint("this is the first one too many"));
        }
    }

    fn nearest<'a>(&mut self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        let left = MAX_COMPARISONS.saturating_sub(self.comparisons);
        let counted = known.into_iter().take(left).inspect(|_| self.comparisons += 1);
        value::nearest(word, counted)
    }

    fn twice(&mut self, at: At<'t>, first: At<'t>, code: &'static str, message: &str, hint: &str) {
        self.findings.add_with(Severity::Error, || {
            let finding = at.tree.finding(at.id, Severity::Error, code, message);
            finding.related(first.location(), "the first is here").hint(hint)
        });
    }

    fn error(&mut self, at: At<'t>, problem: Problem) {
        self.add(at, Severity::Error, problem);
    }

    fn warn(&mut self, at: At<'t>, problem: Problem) {
        self.add(at, Severity::Warning, problem);
    }

    fn add(&mut self, at: At<'t>, severity: Severity, problem: Problem) {
        let Problem { code, message, hint } = problem;
        if at.tree.has_aliases {
            let number = self.state.hash_one((std::ptr::from_ref(at.tree), at.id, code, &message));
            if !self.told.insert(number) {
                return;
            }
        }
        self.findings.add_with(severity, || {
            let mut finding = at.tree.finding(at.id, severity, code, message);
            finding.hint = hint;
            finding
        });
    }
}

/// Two places by which services are in conflict, the earlier one first. Where an alias makes them one place, the later is
/// where the second service is declared.
fn in_order<'a, 't>(mut both: [(At<'t>, &'a Declared<'t>); 2]) -> [(At<'t>, &'a Declared<'t>); 2] {
    both.sort_by_key(|(at, owner)| (at.location(), owner.key.location()));
    let [(first, _), (second, owner)] = &mut both;
    if first.location() == second.location() {
        *second = owner.key;
    }
    both
}

/// A field's name and what stands behind its colon, if no space does.
fn without_space<'n, 's, const N: usize>(text: &'s str, names: [&'n str; N]) -> Option<(&'n str, &'s str)> {
    let (key, value) = text.split_once(':')?;
    names.into_iter().find(|name| *name == key).map(|name| (name, value))
}

fn space_after_colon((name, value): (&str, &str)) -> String {
    let value = value.split_whitespace().next().unwrap_or("...");
    format!("put a space after the colon: {}", quoted(&format!("{name}: {value}")))
}

/// The rules that lines of a tail mean, of which the first has the number `line`; nothing if a finding is to be made of one of
/// them, or if one has another form. `names` are those of services and of networks, in the order of their numbers.
pub(super) fn lines(
    (services, networks): (&[String], &[String]),
    file: &Arc<Path>,
    (text, line, indent): (&str, u32, usize),
) -> Option<Vec<Rule>> {
    let mut peers = HashMap::with_capacity(services.len() + networks.len() + 2);
    peers.extend((0..).zip(services).map(|(index, name)| (name.as_str(), Peer::Service(index))));
    peers.extend((0..).zip(networks).map(|(index, name)| (name.as_str(), Peer::Network(index))));
    peers.insert("unmanaged", Peer::Unmanaged);
    peers.insert("world", Peer::World);
    Lines::of(text, line, indent).map(|line| plain_rule(file, &line.ok()?, &peers)).collect()
}

/// The rule that a line means; nothing if a finding is to be made of it.
fn plain_rule(file: &Arc<Path>, line: &Line<'_>, known: &HashMap<&str, Peer>) -> Option<Rule> {
    if matches!(line.comment, Some(Field::List(_))) {
        return None;
    }
    let (Field::Word(name), Field::List(_)) = (line.name?, line.ports?) else { return None };
    value::check_name(name).ok()?;
    let peers = |field: Field<'_>| -> Option<Few<Peer>> {
        if let Field::Word(word) = field {
            return Some(Few::One(*known.get(word)?));
        }
        let mut peers = Vec::new();
        for word in field.words() {
            let peer = known.get(word)?;
            if !peers.contains(peer) {
                peers.push(*peer);
            }
        }
        Some(peers.into())
    };
    let (from, to) = (peers(line.from?)?, peers(line.to?)?);
    if !from.iter().chain(&to).any(|peer| matches!(peer, Peer::Service(_))) {
        return None;
    }
    let mut ports = line.ports?.words().map(|word| value::parse_ports(word).ok());
    let ports = match (ports.next()?, ports.next()) {
        (only, None) => Few::One(only?),
        (first, second) => {
            let listed: Option<Vec<PortRange>> = [first].into_iter().chain(second).chain(ports).collect();
            listed?.into()
        }
    };
    if never_told(&from, &to, &ports).is_some() {
        return None;
    }
    let location = Location { file: file.clone(), line: line.line, column: line.column };
    Some(Rule { name: name.into(), from, to, ports: Ports::Listed(ports), location })
}

/// The protocol of a rule that can permit nothing by it, since the programs tell who is at both ends within this host only where it is of
/// TCP, UDP or ICMP.
fn never_told(from: &[Peer], to: &[Peer], ports: &[PortRange]) -> Option<&'static str> {
    let untold = ports.iter().find_map(|range| {
        let (PortRange::Protocol(protocol) | PortRange::Ports { protocol, .. }) = range;
        if protocol.tells_ends() { None } else { protocol.name() }
    })?;
    let is_here = |peer: &Peer| matches!(peer, Peer::Service(_) | Peer::Unmanaged);
    let is_certain = !from.is_empty() && !to.is_empty();
    (is_certain && from.iter().chain(to).all(is_here)).then_some(untold)
}

/// Ports that a service reserves: of protocols whose `bind` the kernel shows to programs.
fn parse_listen(text: &str) -> Result<PortRange, Problem> {
    let range = value::parse_ports(text)?;
    let protocol = match range {
        PortRange::Protocol(protocol) | PortRange::Ports { protocol, .. } => protocol,
    };
    if protocol != Protocol::TCP && protocol != Protocol::UDP {
        let problem = Problem::new("invalid-listens", format!("{} cannot be reserved", quoted(text)));
        return Err(problem.hint("only ports of tcp and udp can; rules may name other protocols"));
    }
    match range {
        PortRange::Ports { .. } => Ok(range),
        PortRange::Protocol(_) => {
            let problem =
                Problem::new("invalid-listens", format!("{} names no port to reserve", quoted(text)));
            Err(problem.hint(format!("write `8080/{text}`, or `1-65535/{text}` if all of them are meant")))
        }
    }
}

fn kind(value: Value<'_>) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Text(_) => "a text",
        Value::List(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Invalid => "invalid",
    }
}

/// The prefix itself, and all that it lies in.
fn wider(cidr: Cidr) -> impl Iterator<Item = Cidr> {
    (0..=cidr.prefix).map(move |prefix| truncate(cidr, prefix))
}

fn truncate(cidr: Cidr, prefix: u8) -> Cidr {
    let address = match cidr.address {
        IpAddr::V4(v4) => {
            let octets = value::masked(u128::from(v4.to_bits()) << 96, prefix).to_be_bytes();
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        }
        IpAddr::V6(v6) => IpAddr::V6(value::masked(v6.to_bits(), prefix).into()),
    };
    Cidr { address, prefix }
}
