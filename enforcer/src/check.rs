//! `enforcer check SRC DST:PORT`: one attempt, answered by the tables and the function that the programs use.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use enforcer_common::counter::Outcome;
use enforcer_common::layout::{EdgeKey, EdgeValue, Owner, PortKey, ProtocolKey};
use enforcer_common::{
    Address, Asked, Decision, Facts, Identity, Mode, Party, Port, Protocol, Reason, Verdict, decide,
    decide_create,
};
use serde::Serialize;
use thiserror::Error;

use crate::cgroups;
use crate::identities::Identities;
use crate::policy::Policy;
use crate::tables::{RuleName, Tables};

/// The question, as it was typed: nothing is known yet about its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Who calls.
    pub from: End,
    /// Who would answer.
    pub to: End,
    /// The protocol, TCP if none was named.
    pub protocol: Protocol,
    /// The answerer's port; `None` exactly for a protocol without ports.
    pub port: Option<u16>,
}

/// One end, as it was typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// A service, a network, `unmanaged` or `world`.
    Name(String),
    /// A path below the cgroup v2 root.
    Cgroup(String),
    /// An address of another host.
    Address(IpAddr),
}

impl Query {
    /// Reads `SRC` and `DST:PORT[/PROTOCOL]`, or `DST/PROTOCOL` for a protocol without ports. An IPv6 address with a
    /// port stands in brackets.
    ///
    /// # Errors
    ///
    /// Names the part that cannot be read, and what to write instead.
    pub fn parse(source: &str, destination: &str) -> Result<Self, InvalidQuery> {
        let from = End::parse(source).ok_or_else(|| InvalidQuery::Source(source.to_owned()))?;
        // A cgroup path has slashes of its own, so only a known word behind the last one is a protocol.
        let (rest, protocol, has_ports) = match destination.rsplit_once('/') {
            Some((rest, word)) => match Protocol::NAMED.into_iter().find(|(name, ..)| *name == word) {
                Some((_, protocol, has_ports)) => (rest, protocol, has_ports),
                None if destination.starts_with('/') => (destination, Protocol::TCP, true),
                None => return Err(InvalidQuery::protocol(word)),
            },
            None => (destination, Protocol::TCP, true),
        };
        let invalid = || InvalidQuery::Destination(destination.to_owned());
        if !has_ports {
            let to = End::parse(rest).ok_or_else(|| {
                match rest.rsplit_once(':').and_then(|(end, _)| End::parse(end)) {
                    Some(_) => InvalidQuery::NoPorts(protocol.name().unwrap_or_default()),
                    None => invalid(),
                }
            })?;
            return Ok(Self { from, to, protocol, port: None });
        }
        if rest.parse::<Ipv6Addr>().is_ok() {
            return Err(InvalidQuery::Brackets(rest.to_owned()));
        }
        let (end, port) =
            rest.rsplit_once(':').ok_or_else(|| InvalidQuery::PortMissing(destination.to_owned()))?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse() {
            Ok(port) if digits && port != 0 => port,
            Ok(_) | Err(_) => return Err(InvalidQuery::Port(port.to_owned())),
        };
        let to = End::parse(end).ok_or_else(invalid)?;
        Ok(Self { from, to, protocol, port: Some(port) })
    }
}

impl End {
    fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return cgroups::as_named(Path::new(text))?.into_os_string().into_string().ok().map(Self::Cgroup);
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            let v6: Ipv6Addr = bracketed.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(IpAddr::V6(v6).to_canonical()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        let is_name = !text.is_empty() && !text.contains([':', '/', '[', ']']);
        is_name.then(|| Self::Name(text.to_owned()))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Cgroup(path) => f.write_str(path),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// A question that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidQuery {
    /// The caller is none of the things it may be.
    #[error(
        "read source `{0}`: not a name, a cgroup path or an address\n\
         hint: write a service, a network, `unmanaged`, `world`, `/a/cgroup/path` or an address, without a port"
    )]
    Source(String),
    /// The answerer is none of the things it may be.
    #[error(
        "read destination `{0}`: not a name, a cgroup path or an address before the port\n\
         hint: write it like `db:5432`, `db:53/udp`, `/a/cgroup/path:80`, `203.0.113.7:443` or `[2001:db8::7]:443`"
    )]
    Destination(String),
    /// An IPv6 address, of which the end may be a port.
    #[error(
        "read destination `{0}`: an IPv6 address without brackets and port\n\
         hint: write `[{0}]:443`, or `[{0}]/icmpv6`"
    )]
    Brackets(String),
    /// No port.
    #[error(
        "read destination `{0}`: no port\n\
         hint: write it like `{0}:443`, or `{0}/icmp` for a protocol without ports"
    )]
    PortMissing(String),
    /// A port that is none.
    #[error("read port `{0}`: not a number from 1 to 65535")]
    Port(String),
    /// A port for a protocol that has none.
    #[error(
        "read destination: {0} has no ports\n\
         hint: leave the port out"
    )]
    NoPorts(&'static str),
    /// A protocol that nobody knows.
    #[error("read protocol `{word}`: unknown\nhint: {hint}")]
    Protocol {
        /// What was typed.
        word: String,
        /// What may have been meant.
        hint: String,
    },
}

impl InvalidQuery {
    fn protocol(word: &str) -> Self {
        let names = Protocol::NAMED.map(|(name, ..)| name);
        let hint = did_you_mean(&word.to_ascii_lowercase(), names.into_iter())
            .unwrap_or_else(|| format!("protocols are {}", names.join(", ")));
        Self::Protocol { word: word.to_owned(), hint }
    }
}

/// An end that the policy cannot speak of.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum UnknownEnd {
    /// Nothing has this name.
    #[error("look up `{name}`: no service or network has this name\nhint: {hint}")]
    Name {
        /// What was typed.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// The network holds no address.
    #[error("look up `{0}`: the network holds no address, so nobody is in it")]
    EmptyNetwork(String),
    /// An address that means this host.
    #[error(
        "look up `{0}`: an address of this host does not tell who is there\n\
         hint: name the service, `unmanaged`, or the cgroup"
    )]
    Local(IpAddr),
}

/// The answer, with the words for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What `decide` says.
    pub decision: Decision,
    /// The rule that allows it.
    pub rule: Option<RuleName>,
    /// The caller, and who it is if that is not its name.
    pub from: String,
    /// The answerer, likewise.
    pub to: String,
    /// The question.
    pub query: Query,
    /// The revision that answers.
    pub revision: u32,
    /// Why, in a sentence.
    pub explanation: String,
    /// The rule that would allow it, for a denial that a rule can mend.
    pub hint: Option<String>,
    /// What is true of some of the addresses of a network that was asked for by name.
    pub note: Option<String>,
}

/// Answers `query`. `tables` are compiled from `policy` with `identities`.
///
/// A network that is named as a whole is allowed only if each of its addresses is.
///
/// # Errors
///
/// If the policy does not know one of the ends.
pub fn check(
    policy: &Policy,
    tables: &Tables,
    identities: &Identities,
    query: &Query,
) -> Result<Answer, UnknownEnd> {
    let callers = owners(policy, tables, &query.from)?;
    let answerers = owners(policy, tables, &query.to)?;
    let facts = Facts {
        caller: Party::cgroup(CALLER),
        answerer: Party::cgroup(ANSWERER),
        protocol: query.protocol,
        port: Port::new(query.port.unwrap_or(0)),
        asked: Asked::NOBODY,
        reply_port: Port::new(0),
    };
    let is_told = query.protocol.tells_ends() || !is_of_this_host(policy, &query.from, &query.to);
    let decisions: Vec<Decision> = callers
        .iter()
        .flat_map(|caller| answerers.iter().map(|answerer| (*caller, *answerer)))
        .map(|(caller, answerer)| {
            let pair = Pair { tables, caller, answerer };
            if is_told { decide(&facts, &pair) } else { decide_untold(&facts, &pair) }
        })
        .collect();
    let Some(decision) = decisions.iter().copied().min_by_key(severity) else {
        // Neither list is empty: see `owners`.
        return Err(UnknownEnd::EmptyNetwork(query.from.to_string()));
    };
    let name = |identity| identities.name(identity).unwrap_or("unknown");
    let allowed: Vec<&str> = decisions
        .iter()
        .filter(|other| Outcome::of(other) != Outcome::of(&decision))
        .map(|other| if other.from == decision.from { name(other.to) } else { name(other.from) })
        .collect();
    let note = (!allowed.is_empty()).then(|| {
        format!("it is allowed for addresses that are in all of {}", allowed.join(", or in all of "))
    });
    let (mut from, mut to) = (name(decision.from), name(decision.to));
    if !is_told && let ([caller], [answerer]) = (&callers[..], &answerers[..]) {
        (from, to) = (name(caller.identity()), name(answerer.identity()));
    }
    let rule =
        decision.rule().and_then(|rule| tables.rules.get(usize::try_from(rule.0).ok()?)).map(RuleName::from);
    Ok(Answer {
        decision,
        rule,
        from: shown(&query.from, from),
        to: shown(&query.to, to),
        query: query.clone(),
        revision: tables.revision,
        explanation: explain(decision.reason, from, to, query),
        hint: mending_rule(&decision, from, to, query),
        note,
    })
}

impl Answer {
    /// The exit code of the command: 0 if the policy allows it, 1 if not, also where that is only recorded.
    pub fn exit_code(&self) -> u8 {
        match self.decision.verdict {
            Verdict::Allow => 0,
            Verdict::Deny => 1,
        }
    }

    /// The answer as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(Record {
            outcome: Outcome::of(&self.decision).code(),
            verdict: match self.decision.verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
            },
            mode: mode(self.decision.mode),
            reason: self.decision.reason.code(),
            explanation: &self.explanation,
            rule: self.rule.as_ref().map(|rule| RuleRecord {
                name: &rule.name,
                file: rule.location.file.to_string_lossy(),
                line: rule.location.line,
                column: rule.location.column,
            }),
            source: &self.from,
            destination: &self.to,
            protocol: protocol(self.query.protocol),
            port: self.query.port,
            revision: self.revision,
            hint: self.hint.as_deref(),
            note: self.note.as_deref(),
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match Outcome::of(&self.decision) {
            Outcome::Allowed => "allowed",
            Outcome::Denied => "denied",
            Outcome::WouldDeny => "would be denied",
        };
        writeln!(f, "{outcome}: {} -> {}{}", self.from, self.to, at(&self.query))?;
        if let Some(rule) = &self.rule {
            writeln!(f, "rule: {} ({})", rule.name, rule.location)?;
        }
        write!(f, "reason: {}: {}", self.decision.reason.code(), self.explanation)?;
        match Outcome::of(&self.decision) {
            Outcome::Allowed => {}
            Outcome::Denied => write!(f, "\nmode: enforce: the attempt is refused")?,
            Outcome::WouldDeny => write!(f, "\nmode: audit: the attempt passes and is recorded")?,
        }
        if let Some(note) = &self.note {
            write!(f, "\nnote: {note}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// The fields of the JSON object.
#[derive(Serialize)]
struct Record<'a> {
    outcome: &'static str,
    verdict: &'static str,
    mode: &'static str,
    reason: &'static str,
    explanation: &'a str,
    rule: Option<RuleRecord<'a>>,
    source: &'a str,
    destination: &'a str,
    protocol: Cow<'static, str>,
    port: Option<u16>,
    revision: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

#[derive(Serialize)]
struct RuleRecord<'a> {
    name: &'a str,
    file: Cow<'a, str>,
    line: u32,
    column: u32,
}

const CALLER: u64 = 0;
const ANSWERER: u64 = 1;

/// The compiled tables, on a host with two cgroups: the ends that the question is about.
struct Pair<'a> {
    tables: &'a Tables,
    caller: Owner,
    answerer: Owner,
}

impl enforcer_common::Tables for Pair<'_> {
    fn cgroup(&self, id: u64) -> Option<Owner> {
        match id {
            CALLER => Some(self.caller),
            ANSWERER => Some(self.answerer),
            _ => None,
        }
    }

    fn network(&self, address: &Address) -> Option<Identity> {
        self.tables.network(address)
    }

    fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        self.tables.edge(key)
    }

    fn reserved(&self, key: &PortKey) -> Option<Owner> {
        enforcer_common::Tables::reserved(self.tables, key)
    }

    fn names_protocol(&self, key: &ProtocolKey) -> bool {
        self.tables.names_protocol(key)
    }
}

/// What is decided between processes of this host over a protocol that does not tell who they are: when the caller makes its socket, by its
/// own hook when it sends, and by the answerer's.
fn decide_untold(facts: &Facts, pair: &Pair<'_>) -> Decision {
    let create = decide_create(&facts.caller, facts.protocol, false, pair);
    let send = decide(&Facts { answerer: Party::UNKNOWN, ..*facts }, pair);
    let receive = decide(&Facts { caller: Party::UNKNOWN, ..*facts }, pair);
    [create, send, receive].into_iter().min_by_key(severity).unwrap_or(receive)
}

/// Less for what is worse.
fn severity(decision: &Decision) -> u8 {
    match Outcome::of(decision) {
        Outcome::Denied => 0,
        Outcome::WouldDeny => 1,
        Outcome::Allowed => 2,
    }
}

/// Whether both ends are processes of this host.
fn is_of_this_host(policy: &Policy, from: &End, to: &End) -> bool {
    let is_network =
        |name: &str| name == "world" || policy.networks.iter().any(|network| network.name == name);
    [from, to].into_iter().all(|end| match end {
        End::Name(name) => !is_network(name),
        End::Cgroup(_) => true,
        End::Address(_) => false,
    })
}

/// Everybody that `end` may be, at least one: a network named as a whole is every set that contains it.
fn owners(policy: &Policy, tables: &Tables, end: &End) -> Result<Vec<Owner>, UnknownEnd> {
    let peer = |identity| Owner::new(identity, Mode::Enforce);
    let name = match end {
        End::Cgroup(path) => return Ok(vec![tables.owner_of_path(path.as_bytes())]),
        End::Address(ip) => {
            let address = match ip {
                IpAddr::V4(v4) => Address::from_v4(v4.octets()),
                IpAddr::V6(v6) => Address::new(v6.octets()),
            };
            if address.is_loopback_or_unspecified() {
                return Err(UnknownEnd::Local(*ip));
            }
            let network = enforcer_common::Tables::network(tables, &address);
            return Ok(vec![peer(network.unwrap_or(Identity::WORLD))]);
        }
        End::Name(name) => name,
    };
    match name.as_str() {
        "unmanaged" => return Ok(vec![Owner::UNMANAGED]),
        "world" => return Ok(vec![peer(Identity::WORLD)]),
        _ => {}
    }
    if let Some(service) = tables.services.iter().find(|service| service.name == *name) {
        return Ok(vec![service.owner]);
    }
    if let Some(number) = policy.networks.iter().position(|network| network.name == *name) {
        let sets = tables.network_sets.get(number).map(Vec::as_slice).unwrap_or_default();
        if sets.is_empty() {
            return Err(UnknownEnd::EmptyNetwork(name.clone()));
        }
        return Ok(sets.iter().map(|set| peer(*set)).collect());
    }
    let names = policy
        .services
        .iter()
        .map(|service| service.name.as_str())
        .chain(policy.networks.iter().map(|network| network.name.as_str()))
        .chain(["unmanaged", "world"]);
    let hint = did_you_mean(name, names).unwrap_or_else(|| {
        "an end is a service, a network, `unmanaged`, `world`, a cgroup path that begins with `/`, or an address"
            .to_owned()
    });
    Err(UnknownEnd::Name { name: name.clone(), hint })
}

fn shown(end: &End, identity: &str) -> String {
    match end {
        End::Name(name) => name.clone(),
        End::Cgroup(_) | End::Address(_) => format!("{end} ({identity})"),
    }
}

fn at(query: &Query) -> String {
    match query.port {
        Some(port) => format!(":{port}/{}", protocol(query.protocol)),
        None => format!("/{}", protocol(query.protocol)),
    }
}

/// As a rule's `ports` would list it.
fn listed(query: &Query) -> String {
    match query.port {
        Some(port) => format!("{port}/{}", protocol(query.protocol)),
        None => protocol(query.protocol).into_owned(),
    }
}

fn explain(reason: Reason, from: &str, to: &str, query: &Query) -> String {
    let listed = listed(query);
    match reason {
        Reason::NotManaged => "neither end is a declared service".to_owned(),
        Reason::SameService => format!("a service may always reach itself, and both ends are `{from}`"),
        Reason::RuleAllows => format!("a rule lets `{from}` reach `{to}` at {listed}"),
        Reason::Reply => format!("it answers a flow that a rule lets `{to}` open to `{from}`"),
        Reason::NobodyListens => "nothing listens there, so the kernel refuses it itself".to_owned(),
        Reason::LeftToIngress => "the answerer is told by the ingress hook, which decides".to_owned(),
        Reason::NoRule => format!("no rule lets `{from}` reach `{to}`"),
        Reason::PortNotListed => format!("rules let `{from}` reach `{to}`, but not at {listed}"),
        Reason::SourceUnknown | Reason::DestinationUnknown if !query.protocol.tells_ends() => {
            format!("who is at the other end of {} cannot be told on one host", protocol(query.protocol))
        }
        Reason::SourceUnknown => "the caller cannot be identified".to_owned(),
        Reason::DestinationUnknown => "the answerer cannot be identified".to_owned(),
        Reason::AuditLost => {
            "decisions cannot be written down at present, and the policy wants nothing new then".to_owned()
        }
        Reason::SourcePending => "the caller is a container that its runtime has not told of yet".to_owned(),
        Reason::DestinationPending => {
            "the answerer is a container that its runtime has not told of yet".to_owned()
        }
        Reason::PortReserved => format!("the port is reserved by `{to}`"),
        Reason::RawSocket => format!("`{from}` is a declared service, and may not open raw sockets"),
        Reason::ProtocolNotListed => {
            format!("no rule of `{from}` names {}", protocol(query.protocol))
        }
        Reason::Unparsable => "the packet cannot be read far enough to decide about it".to_owned(),
        Reason::TableMissing => "a table that the decision needs is missing or damaged".to_owned(),
    }
}

fn mending_rule(decision: &Decision, from: &str, to: &str, query: &Query) -> Option<String> {
    match decision.reason {
        Reason::NoRule | Reason::PortNotListed => {}
        Reason::NotManaged
        | Reason::SameService
        | Reason::RuleAllows
        | Reason::Reply
        | Reason::NobodyListens
        | Reason::LeftToIngress
        | Reason::SourceUnknown
        | Reason::DestinationUnknown
        | Reason::AuditLost
        | Reason::SourcePending
        | Reason::DestinationPending
        | Reason::PortReserved
        | Reason::RawSocket
        | Reason::ProtocolNotListed
        | Reason::Unparsable
        | Reason::TableMissing => return None,
    }
    // A rule cannot name what several networks have in common.
    if [from, to].iter().any(|end| end.contains(Identities::SEPARATOR)) {
        return None;
    }
    let ports = listed(query);
    Some(format!(
        "this rule allows it: - {{ name: {from}-to-{to}, from: {from}, to: {to}, ports: [{ports}] }}"
    ))
}

fn protocol(protocol: Protocol) -> Cow<'static, str> {
    protocol.name().map_or_else(|| Cow::Owned(protocol.0.to_string()), Cow::Borrowed)
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

fn did_you_mean<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    // A third of the letters: beyond that it is another word.
    let close = (typed.chars().count() / 3).max(1);
    names
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(distance, _)| *distance <= close)
        .min()
        .map(|(_, name)| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Query, check};
    use crate::identities::Identities;
    use crate::policy::{Cidr, Location, Network, Peer, Policy, PortRange, Ports, Rule, Selector, Service};
    use crate::tables::Tables;
    use enforcer_common::{Mode, Protocol};

    fn location(line: u32) -> Location {
        Location { file: Path::new("shop.yaml").into(), line, column: 5 }
    }

    /// `db` (audit), `old` (audit) and `web`; `office` lies inside `partner`.
    fn policy() -> Policy {
        let service = |name: &str, mode| Service {
            name: name.to_owned(),
            selectors: vec![Selector::Cgroup(format!("/{name}"))],
            listens: Vec::new(),
            mode,
            location: location(1),
        };
        let network = |name: &str, cidrs: &[(&str, u8)]| Network {
            name: name.to_owned(),
            cidrs: cidrs
                .iter()
                .map(|(address, prefix)| Cidr { address: address.parse().expect("valid"), prefix: *prefix })
                .collect(),
            except: Vec::new(),
            location: location(2),
        };
        let rule = |line, name: &str, from, to, ports: Vec<PortRange>| Rule {
            name: name.into(),
            from: [from].into(),
            to: [to].into(),
            ports: Ports::Listed(ports.into()),
            location: location(line),
        };
        let port = |protocol, port| PortRange::Ports { protocol, low: port, high: port };
        Policy {
            services: vec![
                service("db", Mode::Audit),
                service("old", Mode::Audit),
                service("web", Mode::Enforce),
            ],
            networks: vec![
                network("nowhere", &[]),
                network("office", &[("203.0.113.64", 26)]),
                network("partner", &[("203.0.113.0", 24), ("2001:db8::", 32)]),
            ],
            rules: vec![
                rule(12, "ledger", Peer::Service(2), Peer::Service(0), vec![port(Protocol::TCP, 5432)]),
                rule(13, "desk", Peer::Network(1), Peer::Service(2), vec![port(Protocol::TCP, 22)]),
                rule(14, "hook", Peer::Service(2), Peer::Network(2), vec![port(Protocol::TCP, 443)]),
                rule(15, "ping", Peer::World, Peer::Service(2), vec![PortRange::Protocol(Protocol::ICMP)]),
                rule(16, "stream", Peer::Service(0), Peer::Network(2), vec![port(Protocol::UDPLITE, 9)]),
            ]
            .into(),
            ..Policy::default()
        }
    }

    fn ask(source: &str, destination: &str) -> Result<super::Answer, String> {
        let policy = policy();
        let mut identities = Identities::default();
        let tables = Tables::compile(&policy, &mut identities, 3).expect("small");
        let query = Query::parse(source, destination).map_err(|error| error.to_string())?;
        check(&policy, &tables, &identities, &query).map_err(|error| error.to_string())
    }

    #[test]
    fn answers() {
        for (source, destination, exit_code, text) in [
            (
                "web",
                "db:5432",
                0,
                "allowed: web -> db:5432/tcp\nrule: ledger (shop.yaml:12:5)\n\
                 reason: rule: a rule lets `web` reach `db` at 5432/tcp",
            ),
            (
                "/web/worker",
                "/db:5432/tcp",
                0,
                "allowed: /web/worker (web) -> /db (db):5432/tcp\nrule: ledger (shop.yaml:12:5)\n\
                 reason: rule: a rule lets `web` reach `db` at 5432/tcp",
            ),
            (
                "//web/./worker/",
                "//db:5432/tcp",
                0,
                "allowed: /web/worker (web) -> /db (db):5432/tcp\nrule: ledger (shop.yaml:12:5)\n\
                 reason: rule: a rule lets `web` reach `db` at 5432/tcp",
            ),
            (
                "web",
                "db:5432/udp",
                1,
                "denied: web -> db:5432/udp\n\
                 reason: port-not-listed: rules let `web` reach `db`, but not at 5432/udp\n\
                 mode: enforce: the attempt is refused\n\
                 hint: this rule allows it: - { name: web-to-db, from: web, to: db, ports: [5432/udp] }",
            ),
            (
                "old",
                "db:1",
                1,
                "would be denied: old -> db:1/tcp\n\
                 reason: no-rule: no rule lets `old` reach `db`\n\
                 mode: audit: the attempt passes and is recorded\n\
                 hint: this rule allows it: - { name: old-to-db, from: old, to: db, ports: [1/tcp] }",
            ),
            (
                "unmanaged",
                "/elsewhere:1",
                0,
                "allowed: unmanaged -> /elsewhere (unmanaged):1/tcp\n\
                 reason: not-managed: neither end is a declared service",
            ),
            (
                "web",
                "web:1",
                0,
                "allowed: web -> web:1/tcp\n\
                 reason: same-service: a service may always reach itself, and both ends are `web`",
            ),
            // Over what does not tell who is there nobody of this host reaches a service, nor a service anybody.
            (
                "web",
                "web:1/sctp",
                1,
                "denied: web -> web:1/sctp\n\
                 reason: protocol-not-listed: no rule of `web` names sctp\n\
                 mode: enforce: the attempt is refused",
            ),
            (
                "db",
                "/web:9/udplite",
                1,
                "denied: db -> /web (web):9/udplite\n\
                 reason: source-unknown: who is at the other end of udplite cannot be told on one host\n\
                 mode: enforce: the attempt is refused",
            ),
            (
                "db",
                "unmanaged:9/udplite",
                1,
                "would be denied: db -> unmanaged:9/udplite\n\
                 reason: destination-unknown: who is at the other end of udplite cannot be told on one host\n\
                 mode: audit: the attempt passes and is recorded",
            ),
            (
                "unmanaged",
                "web:9/dccp",
                1,
                "denied: unmanaged -> web:9/dccp\n\
                 reason: source-unknown: who is at the other end of dccp cannot be told on one host\n\
                 mode: enforce: the attempt is refused",
            ),
            (
                "unmanaged",
                "/elsewhere:9/dccp",
                0,
                "allowed: unmanaged -> /elsewhere (unmanaged):9/dccp\n\
                 reason: not-managed: neither end is a declared service",
            ),
            (
                "db",
                "partner:9/udplite",
                0,
                "allowed: db -> partner:9/udplite\nrule: stream (shop.yaml:16:5)\n\
                 reason: rule: a rule lets `db` reach `partner` at 9/udplite",
            ),
            (
                "web",
                "203.0.113.7:443",
                0,
                "allowed: web -> 203.0.113.7 (partner):443/tcp\nrule: hook (shop.yaml:14:5)\n\
                 reason: rule: a rule lets `web` reach `partner` at 443/tcp",
            ),
            (
                "web",
                "[::ffff:203.0.113.70]:443",
                0,
                "allowed: web -> 203.0.113.70 (office,partner):443/tcp\nrule: hook (shop.yaml:14:5)\n\
                 reason: rule: a rule lets `web` reach `office,partner` at 443/tcp",
            ),
            (
                "web",
                "[2001:db9::1]:443",
                1,
                "denied: web -> [2001:db9::1] (world):443/tcp\n\
                 reason: no-rule: no rule lets `web` reach `world`\n\
                 mode: enforce: the attempt is refused\n\
                 hint: this rule allows it: - { name: web-to-world, from: web, to: world, ports: [443/tcp] }",
            ),
            // The network as a whole is not allowed what only a part of it is.
            (
                "partner",
                "web:22",
                1,
                "denied: partner -> web:22/tcp\n\
                 reason: port-not-listed: rules let `partner` reach `web`, but not at 22/tcp\n\
                 mode: enforce: the attempt is refused\n\
                 note: it is allowed for addresses that are in all of office,partner\n\
                 hint: this rule allows it: - { name: partner-to-web, from: partner, to: web, ports: [22/tcp] }",
            ),
            (
                "world",
                "web/icmp",
                0,
                "allowed: world -> web/icmp\nrule: ping (shop.yaml:15:5)\n\
                 reason: rule: a rule lets `world` reach `web` at icmp",
            ),
        ] {
            let answer = ask(source, destination).expect(destination);
            assert_eq!(answer.to_string(), text);
            assert_eq!(answer.exit_code(), exit_code, "{text}");
        }
    }

    #[test]
    fn questions_that_cannot_be_answered() {
        for (source, destination, text) in [
            ("wbe", "db:1", "look up `wbe`: no service or network has this name\nhint: did you mean `web`?"),
            (
                "web",
                "ofice:1",
                "look up `ofice`: no service or network has this name\nhint: did you mean `office`?",
            ),
            (
                "web",
                "something-else:1",
                "look up `something-else`: no service or network has this name\n\
                 hint: an end is a service, a network, `unmanaged`, `world`, a cgroup path that begins with `/`, \
                 or an address",
            ),
            ("web", "nowhere:1", "look up `nowhere`: the network holds no address, so nobody is in it"),
            (
                "web",
                "127.0.0.1:80",
                "look up `127.0.0.1`: an address of this host does not tell who is there\n\
                 hint: name the service, `unmanaged`, or the cgroup",
            ),
            (
                "web:1",
                "db:1",
                "read source `web:1`: not a name, a cgroup path or an address\n\
                 hint: write a service, a network, `unmanaged`, `world`, `/a/cgroup/path` or an address, \
                 without a port",
            ),
            (
                "/a/../b",
                "db:1",
                "read source `/a/../b`: not a name, a cgroup path or an address\n\
                 hint: write a service, a network, `unmanaged`, `world`, `/a/cgroup/path` or an address, \
                 without a port",
            ),
            (
                "web",
                "[2001:db8::g]:1",
                "read destination `[2001:db8::g]:1`: not a name, a cgroup path or an address before the port\n\
                 hint: write it like `db:5432`, `db:53/udp`, `/a/cgroup/path:80`, `203.0.113.7:443` or \
                 `[2001:db8::7]:443`",
            ),
            (
                "web",
                "2001:db8::7:443",
                "read destination `2001:db8::7:443`: an IPv6 address without brackets and port\n\
                 hint: write `[2001:db8::7:443]:443`, or `[2001:db8::7:443]/icmpv6`",
            ),
            (
                "web",
                "db",
                "read destination `db`: no port\n\
                 hint: write it like `db:443`, or `db/icmp` for a protocol without ports",
            ),
            ("web", "db:0", "read port `0`: not a number from 1 to 65535"),
            ("web", "db:+1", "read port `+1`: not a number from 1 to 65535"),
            ("web", "db:65536", "read port `65536`: not a number from 1 to 65535"),
            ("web", "/db:/tcp", "read port ``: not a number from 1 to 65535"),
            ("web", "db:1/icmp", "read destination: icmp has no ports\nhint: leave the port out"),
            ("web", "db:1/tpc", "read protocol `tpc`: unknown\nhint: did you mean `tcp`?"),
            (
                "web",
                "db:1/quic",
                "read protocol `quic`: unknown\n\
                 hint: protocols are tcp, udp, sctp, dccp, udplite, icmp, icmpv6",
            ),
        ] {
            assert_eq!(ask(source, destination).expect_err(destination), text);
        }
    }

    #[test]
    fn json_says_what_the_text_says() {
        let allowed = ask("web", "db:5432").expect("answer").to_json();
        assert_eq!(
            allowed,
            serde_json::json!({
                "outcome": "allowed", "verdict": "allow", "mode": "enforce", "reason": "rule",
                "explanation": "a rule lets `web` reach `db` at 5432/tcp",
                "rule": { "name": "ledger", "file": "shop.yaml", "line": 12, "column": 5 },
                "source": "web", "destination": "db", "protocol": "tcp", "port": 5432, "revision": 3,
            })
        );
        let denied = ask("old", "db/icmp").expect("answer").to_json();
        assert_eq!(
            denied,
            serde_json::json!({
                "outcome": "would-deny", "verdict": "deny", "mode": "audit", "reason": "no-rule",
                "explanation": "no rule lets `old` reach `db`", "rule": null,
                "source": "old", "destination": "db", "protocol": "icmp", "port": null, "revision": 3,
                "hint": "this rule allows it: - { name: old-to-db, from: old, to: db, ports: [icmp] }",
            })
        );
    }
}
