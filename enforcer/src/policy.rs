//! A policy that is valid by construction: what the YAML means, with every name resolved.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use enforcer_common::{Mode, Protocol};
use serde::{Deserialize, Serialize};

pub use container::ContainerSelector;
pub use edit::Tail;
pub use finding::{Finding, LeftOut, Severity};
pub use rules::{Few, Rules};
pub use selector::Selector;
pub use source::Document;

use finding::Findings;
use tree::Tree;

mod conflict;
pub mod container;
pub mod edit;
pub mod finding;
pub mod nearest;
mod rules;
pub mod selector;
pub mod source;
mod spec;
mod tree;
pub mod wire;

/// What came of reading a policy.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy; none exactly if a finding is an error.
    pub policy: Option<Policy>,
    /// Everything that is wrong, in the order of the places.
    pub findings: Vec<Finding>,
    /// What else is wrong, of which there was too much.
    pub left_out: LeftOut,
    /// The files that were read, in the order of their paths.
    pub files: Vec<Arc<Path>>,
    /// What is in them.
    pub documents: Vec<Document>,
    /// What was read, used or not.
    pub fingerprint: Fingerprint,
    /// Which parts of the documents are lines with a rule on each.
    pub tails: Vec<Tail>,
}

/// Tells whether a policy is still what it was when it was last read, whether that could be used or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    documents: Vec<Document>,
    findings: Vec<String>,
}

impl Fingerprint {
    /// Of what is at `paths` now; what is as it was is not kept twice.
    pub fn take(&self, paths: &[PathBuf]) -> Self {
        Self::of(&source::read_again(paths, &self.documents))
    }

    /// Whether as much was wrong with the files themselves.
    pub fn has_same_findings(&self, other: &Self) -> bool {
        self.findings == other.findings
    }

    /// Of what was read.
    pub fn of(sources: &source::Sources) -> Self {
        Self {
            documents: sources.documents.clone(),
            findings: sources.findings.iter().map(Finding::render).collect(),
        }
    }
}

/// What documents mean, and everything that is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    /// The policy; none exactly if a finding is an error.
    pub policy: Option<Policy>,
    /// In the order of the places.
    pub findings: Vec<Finding>,
    /// How many there are besides.
    pub left_out: LeftOut,
    /// Which parts of the documents are lines with a rule on each; none if all was read by the parser of YAML.
    pub tails: Vec<Tail>,
}

impl Loaded {
    /// What was read, and what it means.
    pub fn new(sources: source::Sources, fingerprint: Fingerprint, meaning: Meaning) -> Self {
        let Meaning { policy, findings, left_out, tails } = meaning;
        let source::Sources { documents, files, .. } = sources;
        Self { policy, findings, left_out, files, documents, fingerprint, tails }
    }
}

/// Reads the files and directories at `paths` as one policy.
pub fn load(paths: &[PathBuf]) -> Loaded {
    let mut sources = source::read(paths);
    let fingerprint = Fingerprint::of(&sources);
    let meaning = parse(&sources.documents, std::mem::take(&mut sources.findings));
    Loaded::new(sources, fingerprint, meaning)
}

/// Compiles documents that have been read already as one policy; does no I/O.
pub fn compile_documents(documents: &[Document]) -> Loaded {
    let sources = source::Sources::of(documents.to_vec());
    let fingerprint = Fingerprint::of(&sources);
    let meaning = parse(documents, Vec::new());
    Loaded::new(sources, fingerprint, meaning)
}

/// Parses and checks documents that together are one policy; does no I/O. `found` is what was wrong when they were read.
pub fn parse(documents: &[Document], found: Vec<Finding>) -> Meaning {
    // Names that an unreadable file may declare are not called unknown.
    let complete = found.iter().all(|finding| finding.severity != Severity::Error);
    let mut findings = Findings::default();
    for finding in found {
        findings.add(finding);
    }
    let (policy, tails) = compile(documents, complete, &mut findings).unzip();
    let left_out = findings.left_out();
    Meaning { policy, findings: findings.into_sorted(), left_out, tails: tails.unwrap_or_default() }
}

fn compile(documents: &[Document], complete: bool, findings: &mut Findings) -> Option<(Policy, Vec<Tail>)> {
    let mut found = findings.clone();
    let parse = |document| Tree::parse_head(document, &mut found);
    let trees: Vec<Tree<'_>> = documents.iter().map(parse).collect();
    let compiled = match spec::compile(&trees, complete, &mut found) {
        Ok(compiled) => compiled,
        // There is something to be said of a line, or it has another form than generators give it.
        Err(spec::Unusual) => {
            drop(trees);
            found = findings.clone();
            let parse = |document| Tree::parse(document, &mut found);
            let trees: Vec<Tree<'_>> = documents.iter().map(parse).collect();
            spec::compile(&trees, complete, &mut found).ok()?
        }
    };
    *findings = found;
    (!findings.has_errors()).then_some(compiled)
}

/// All the documents in force together.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// In the order of their names.
    pub services: Vec<Service>,
    /// In the order of their names.
    pub networks: Vec<Network>,
    /// In the order of files (by path) and of lines within a file. A rule's index is its
    /// [`RuleId`](enforcer_common::RuleId).
    pub rules: Rules,
    /// What the daemon does on a host that cannot enforce it.
    pub on_unsupported: OnUnsupported,
    /// What happens to connections that are older than the enforcer.
    pub existing: Existing,
    /// What happens when decisions cannot be written down.
    pub on_audit_loss: OnAuditLoss,
}

impl Policy {
    /// The same, but without its rules.
    fn without_rules(&self) -> Self {
        Self {
            services: self.services.clone(),
            networks: self.networks.clone(),
            rules: Rules::default(),
            on_unsupported: self.on_unsupported,
            existing: self.existing,
            on_audit_loss: self.on_audit_loss,
        }
    }
}

/// What happens when a decision cannot be written down: the ring buffer is full, or the audit log takes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OnAuditLoss {
    /// It is counted.
    #[default]
    Count,
    /// It is counted, and until the log works again nothing new is permitted to services in enforce mode.
    DenyNew,
}

impl OnAuditLoss {
    /// As policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::DenyNew => "deny_new",
        }
    }
}

/// What happens to a live connection that is older than the enforcer and that the policy denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Existing {
    /// It is closed at both ends.
    Close,
    /// It stays, and is recorded.
    Keep,
    /// It stays, and is recorded as what would have been closed.
    #[default]
    Audit,
}

impl Existing {
    /// As policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Keep => "keep",
            Self::Audit => "audit",
        }
    }
}

/// What the daemon does where the programs cannot be loaded or attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OnUnsupported {
    /// It does not start.
    #[default]
    Refuse,
    /// It starts without enforcing anything, and says so wherever somebody may look.
    Open,
}

impl OnUnsupported {
    /// As policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Open => "open",
        }
    }
}

/// A name declared under `services`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Unique among services and networks, and none of the reserved words.
    pub name: String,
    /// A cgroup belongs to the service if any of these matches it or one of its ancestors; with none, none does.
    pub selectors: Vec<Selector>,
    /// Ports that only this service may bind.
    pub listens: Vec<PortRange>,
    /// What happens to what is not permitted to it.
    pub mode: Mode,
    /// Where it is declared.
    pub location: Location,
}

/// A name declared under `networks`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// Unique among services and networks, and none of the reserved words.
    pub name: String,
    /// The addresses that belong to it …
    pub cidrs: Vec<Cidr>,
    /// … but for these.
    pub except: Vec<Cidr>,
    /// Where it is declared.
    pub location: Location,
}

/// An address prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Cidr {
    /// The first address.
    pub address: IpAddr,
    /// Leading bits that count: 0 to 32, or 0 to 128.
    pub prefix: u8,
}

/// One entry under `allow`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Unique among rules.
    pub name: Box<str>,
    /// Who may call; no entry means nobody.
    pub from: Few<Peer>,
    /// Who may be called; no entry means nobody.
    pub to: Few<Peer>,
    /// Where callers may reach the answerers.
    pub ports: Ports,
    /// Where it is written.
    pub location: Location,
}

/// One end that a rule names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Peer {
    /// Index into [`Policy::services`].
    Service(u32),
    /// Index into [`Policy::networks`].
    Network(u32),
    /// Local processes in no declared service.
    Unmanaged,
    /// Addresses that are not of this host, those of declared networks included.
    World,
}

/// What a rule's `ports` say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ports {
    /// `ports` was left out: every port of every protocol.
    Everything,
    /// What is listed; an empty list is nothing.
    Listed(Few<PortRange>),
}

/// One entry of `ports` or `listens`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PortRange {
    /// A protocol with all its ports (`tcp`), or one that has none (`icmp`).
    Protocol(#[serde(with = "wire::ProtocolNumber")] Protocol),
    /// `low` to `high`, both included, of a protocol that has ports.
    Ports {
        /// The protocol.
        #[serde(with = "wire::ProtocolNumber")]
        protocol: Protocol,
        /// The first port.
        low: u16,
        /// The last port.
        high: u16,
    },
}

/// A place in a policy file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The file as it was named.
    pub file: Arc<Path>,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::finding::{Finding, Findings};
    use super::tree::Tree;
    use super::{Document, Policy, Rules, Tail, compile, spec};

    /// What is read of lines without nodes, and what the parser of YAML makes of them.
    fn both(documents: &[Document]) -> [(Option<Rules>, Vec<Finding>); 2] {
        let rules = |(policy, _): (Policy, Vec<Tail>)| policy.rules;
        let (mut quick, mut slow) = (Findings::default(), Findings::default());
        let read = compile(documents, true, &mut quick).map(rules);
        let trees: Vec<Tree<'_>> =
            documents.iter().map(|document| Tree::parse(document, &mut slow)).collect();
        let parsed = spec::compile(&trees, true, &mut slow).ok().filter(|_| !slow.has_errors()).map(rules);
        [(read, quick.into_sorted()), (parsed, slow.into_sorted())]
    }

    const HEAD: &str = "version: 1\nservices:\n  a: { match: [{ cgroup: /a }] }\n  b: { match: [{ cgroup: /b }] }\n\
                        networks:\n  n: { cidrs: [10.0.0.0/8] }\n";

    #[test]
    fn lines_are_read_without_nodes() {
        let line =
            "  - { name: r1, from: [a, b, a], to: n, ports: [80/tcp, 53-54/udp, icmp], comment: so }\n";
        let document = Document::new("policy.yaml", format!("{HEAD}allow:\n{line}"));
        let tree = Tree::parse_head(&document, &mut Findings::default());
        assert!(tree.lines.is_some());
        let [read, parsed] = both(&[document]);
        assert_eq!(read, parsed);
        assert_eq!(read.0.map(|rules| rules.len()), Some(1));
    }

    fn field(key: &'static str, usual: &'static [&'static str]) -> impl Strategy<Value = String> {
        let strange = [
            "a",
            "r1",
            "[a]",
            "[]",
            "null",
            "world",
            "[unmanaged, world]",
            "80/tcp",
            "[0/tcp]",
            "[80/tcp, 5/sctp]",
            "unknown",
            "<<",
            "x/y",
            "\"a\"",
        ];
        let value =
            prop_oneof![60 => prop::sample::select(usual), 1 => prop::sample::select(strange.to_vec())];
        value.prop_map(move |value| format!("{key}: {value}"))
    }

    fn line() -> impl Strategy<Value = String> {
        let names = &["r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r-10"];
        let peers = &["a", "b", "[a, b]", "[a, n]", "[b, b]", "world", "unmanaged"];
        let ports = &["[80/tcp]", "[80/tcp, 443/tcp]", "[1-9/udp]", "[icmp, 5-6/tcp, tcp]", "[tcp]"];
        let fields = (
            field("name", names),
            field("from", peers),
            field("to", &["a", "b", "[a, b]"]),
            field("ports", ports),
        );
        let more = prop_oneof![20 => Just(None), 2 => field("comment", &["so"]).prop_map(Some), 1 => field("to", &["a"]).prop_map(Some), 1 => field("other", &["a"]).prop_map(Some)];
        let shape = prop_oneof![60 => Just(("  - { ", " }\n")), 1 => Just(("  - {", "}\n")), 1 => Just(("- { ", " }\n")), 1 => Just(("  - { ", " }  # so\n"))];
        (fields, more, 0_usize..20, shape).prop_map(
            |((name, from, to, ports), more, missing, (begin, end))| {
                let mut fields = vec![name, from, to, ports];
                fields.extend(more);
                if missing < fields.len() {
                    fields.remove(missing);
                }
                format!("{begin}{}{end}", fields.join(", "))
            },
        )
    }

    proptest! {
        #[test]
        fn lines_mean_what_the_parser_makes_of_them(
            first in prop::collection::vec(line(), 0..4),
            second in prop::collection::vec(line(), 0..4),
            more in prop::sample::select(vec!["", "", "allow: []\n", "---\nversion: 1\n", "defaults: { mode: audit }\n"]),
        ) {
            let documents = [
                Document::new("a.yaml", format!("{HEAD}{more}allow:\n{}", first.concat())),
                Document::new("b.yaml", format!("version: 1\nallow:\n{}", second.concat())),
            ];
            let [read, parsed] = both(&documents);
            prop_assert_eq!(read, parsed);
        }
    }
}
