//! `enforcer check SRC DST:PORT`: one attempt, answered by the tables and the function that the programs use.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use enforcer_common::counter::Outcome;
use enforcer_common::layout::{EdgeKey, EdgeValue, Owner, PortKey, ProtocolKey};
use enforcer_common::{
    Address, Decision, Facts, Identity, Mode, Party, Port, Protocol, Reason, Verdict, decide,
};
use serde::Serialize;
use thiserror::Error;

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
            return Some(Self::Cgroup(text.to_owned()));
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
        caller: Party::Cgroup(CALLER),
        answerer: Party::Cgroup(ANSWERER),
        protocol: query.protocol,
        port: Port::new(query.port.unwrap_or(0)),
        reply_port: None,
    };
    let decisions: Vec<Decision> = callers
        .iter()
        .flat_map(|caller| answerers.iter().map(|answerer| (*caller, *answerer)))
        .map(|(caller, answerer)| decide(&facts, &Pair { tables, caller, answerer }))
        .collect();
    let severity = |decision: &&Decision| match Outcome::of(decision) {
        Outcome::Denied => 0,
        Outcome::WouldDeny => 1,
        Outcome::Allowed => 2,
    };
    let Some(decision) = decisions.iter().min_by_key(severity).copied() else {
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
    let (from, to) = (name(decision.from), name(decision.to));
    let rule = decision.rule.and_then(|rule| tables.rules.get(usize::try_from(rule.0).ok()?)).cloned();
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

/// Everybody that `end` may be, at least one: a network named as a whole is every set that contains it.
fn owners(policy: &Policy, tables: &Tables, end: &End) -> Result<Vec<Owner>, UnknownEnd> {
    let peer = |identity| Owner::new(identity, Mode::Enforce);
    let name = match end {
        End::Cgroup(path) => return Ok(vec![tables.owner_of_path(path.as_bytes())]),
        End::Address(ip) => {
            let address = match ip {
                IpAddr::V4(v4) => Address::from_v4(v4.octets()),
                IpAddr::V6(v6) => Address(v6.octets()),
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
        Reason::SourceUnknown => "the caller cannot be identified".to_owned(),
        Reason::DestinationUnknown => "the answerer cannot be identified".to_owned(),
        Reason::PortReserved => format!("the port is reserved by `{to}`"),
        Reason::RawSocket => format!("`{from}` is a declared service, and may not open raw sockets"),
        Reason::ProtocolNotListed => format!("no rule of `{from}` names the protocol"),
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
