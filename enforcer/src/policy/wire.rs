//! What the process that parses a policy is given, and what it answers: bounded on the way, checked on arrival.
//!
//! A sequence of values in postcard's encoding, one for each service, rule or finding, so that neither end holds a second
//! copy of the whole. Files are numbered, since each of a million rules names one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use enforcer_common::{Mode, Protocol};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::edit::Edit;
use super::finding::{CODES, Excerpt, Finding, Severity};
use super::{
    Cidr, Document, Existing, Few, LeftOut, Location, Meaning, Network, OnAuditLoss, OnUnsupported, Peer,
    Policy, PortRange, Ports, Rule, Rules, Selector, Service, Tail, spec,
};

/// Stands at the end, so that what was cut short is not taken for a whole.
const END: u32 = 0x656e_6421;

/// Characters of an excerpt, and columns of its mark: more than any that is made.
const MAX_EXCERPT: usize = 4096;

/// Why a message is not taken.
#[derive(Debug, Error)]
pub enum WireError {
    /// It is cut short, or no such message.
    #[error("decode: {0}")]
    Damaged(#[from] postcard::Error),
    /// It says something that no policy says.
    #[error("decode: {0}")]
    Senseless(&'static str),
}

/// How a protocol is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Protocol")]
pub(super) struct ProtocolNumber(u8);

/// How a mode is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode")]
enum ModeWord {
    Enforce,
    Audit,
}

#[derive(Serialize, Deserialize)]
struct Moded(#[serde(with = "ModeWord")] Mode);

/// What stands before the parts of an answer.
#[derive(Serialize, Deserialize)]
struct Head {
    is_valid: bool,
    on_unsupported: OnUnsupported,
    existing: Existing,
    on_audit_loss: OnAuditLoss,
    services: usize,
    networks: usize,
    rules: usize,
    findings: usize,
    left_out: LeftOut,
    tails: usize,
}

/// The number of a file, a line and a column.
type Place = (u32, u32, u32);

type ServiceOnWire = (String, Vec<Selector>, Vec<PortRange>, Moded, Place);
type NetworkOnWire = (String, Vec<Cidr>, Vec<Cidr>, Place);
type RuleOnWire = (Box<str>, Few<Peer>, Few<Peer>, Ports, Place);
type FindingOnWire =
    (Severity, String, String, Place, String, Option<String>, Vec<(Place, String)>, Option<Excerpt>);

/// What is to be parsed.
#[derive(Debug)]
pub enum Question {
    /// All documents of a policy, with what was found wrong when they were read.
    Whole(Vec<Document>, Vec<Finding>),
    /// Some lines of a policy of which all else is known.
    Lines(Lines),
}

/// Lines with a rule on each.
#[derive(Debug)]
pub struct Lines {
    /// The names of the services, in the order of their numbers.
    services: Vec<String>,
    /// Likewise, of the networks.
    networks: Vec<String>,
    /// The lines that stand together.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    file: Arc<Path>,
    text: String,
    line: u32,
    indent: usize,
}

/// Writes what is to be parsed: documents, and what was found wrong when they were read.
///
/// # Errors
///
/// `out` does not take it.
pub fn write_question(documents: &[Document], found: &[Finding], out: impl Write) -> io::Result<()> {
    let mut files = Files::default();
    files.add_all(documents.iter().map(|document| &document.file));
    files.add_all(places(found));
    let mut writer = Writer { out, files };
    writer.files()?;
    writer.value(&(true, documents.len(), found.len()))?;
    for document in documents {
        let file = writer.files.number(&document.file);
        writer.value(&(file, &*document.text))?;
    }
    writer.findings(found)?;
    writer.value(&END)?;
    writer.out.flush()
}

/// Writes which lines of `documents` are to be parsed, of which all else is that of `policy`.
///
/// # Errors
///
/// `out` does not take it.
pub fn write_lines(
    policy: &Policy,
    documents: &[Document],
    edits: &[Edit],
    out: impl Write,
) -> io::Result<()> {
    let mut files = Files::default();
    let edits: Vec<(&Document, &str, &Edit)> = edits
        .iter()
        .filter_map(|edit| {
            let document = documents.get(edit.document)?;
            Some((document, document.text.get(edit.text.clone())?, edit))
        })
        .collect();
    files.add_all(edits.iter().map(|(document, ..)| &document.file));
    let mut writer = Writer { out, files };
    writer.files()?;
    writer.value(&(false, edits.len(), 0_usize))?;
    writer.value(&policy.services.iter().map(|service| &service.name).collect::<Vec<_>>())?;
    writer.value(&policy.networks.iter().map(|network| &network.name).collect::<Vec<_>>())?;
    for (document, text, edit) in edits {
        let file = writer.files.number(&document.file);
        writer.value(&(file, text, edit.line, edit.indent))?;
    }
    writer.value(&END)?;
    writer.out.flush()
}

/// Reads what [`write_question`] or [`write_lines`] has written.
///
/// # Errors
///
/// It is not that.
pub fn read_question(bytes: &[u8]) -> Result<Question, WireError> {
    let mut reader = Reader::new(bytes)?;
    let (is_whole, parts, findings): (bool, usize, usize) = reader.value()?;
    if !is_whole {
        let (services, networks) = (reader.value()?, reader.value()?);
        let parts = reader.list(parts, |reader| {
            let (file, text, line, indent): (u32, String, u32, usize) = reader.value()?;
            Ok(Part { file: reader.file(file)?, text, line, indent })
        })?;
        reader.end()?;
        return Ok(Question::Lines(Lines { services, networks, parts }));
    }
    let documents = reader.list(parts, |reader| {
        let (file, text): (u32, Box<str>) = reader.value()?;
        Ok(Document { file: reader.file(file)?, text: text.into() })
    })?;
    let findings = reader.list(findings, Reader::finding)?;
    reader.end()?;
    Ok(Question::Whole(documents, findings))
}

/// Parses lines, and writes the rules that they are, or that they are something else.
///
/// # Errors
///
/// `out` does not take it.
pub fn answer_lines(lines: &Lines, out: impl Write) -> io::Result<()> {
    let Lines { services, networks, parts } = lines;
    let parse =
        |part: &Part| spec::lines((services, networks), &part.file, (&part.text, part.line, part.indent));
    let rules: Option<Vec<Vec<Rule>>> = parts.iter().map(parse).collect();
    let mut files = Files::default();
    files.add_all(parts.iter().map(|part| &part.file));
    let mut writer = Writer { out, files };
    writer.files()?;
    writer.value(&rules.as_ref().map(|rules| rules.iter().map(Vec::len).collect::<Vec<_>>()))?;
    for rule in rules.iter().flatten().flatten() {
        writer.rule(rule)?;
    }
    writer.value(&END)?;
    writer.out.flush()
}

/// Reads what [`answer_lines`] has written of these edits; nothing if the whole is to be parsed. What is relied upon
/// elsewhere is checked, as by [`read_answer`].
///
/// # Errors
///
/// It is not that.
pub fn read_lines(
    bytes: &[u8],
    policy: &Policy,
    documents: &[Document],
    edits: &[Edit],
) -> Result<Option<Vec<Vec<Rule>>>, WireError> {
    let mut reader = Reader::new(bytes)?;
    let Some(numbers): Option<Vec<usize>> = reader.value()? else {
        reader.end()?;
        return Ok(None);
    };
    check(numbers.iter().eq(edits.iter().map(|edit| &edit.lines)), "rules that it was not asked for")?;
    let rules = edits.iter().map(|edit| {
        let mut rules =
            reader.list(edit.lines, |reader| reader.rule(policy.services.len(), policy.networks.len()))?;
        let document = documents.get(edit.document).ok_or(WireError::Senseless("a place in no file"))?;
        for (line, rule) in (edit.line..).zip(&mut rules) {
            let Location { file, line: found, .. } = &mut rule.location;
            check(*found == line && *file == document.file, "a rule that stands elsewhere")?;
            // The very one that other rules have.
            *file = document.file.clone();
        }
        Ok(rules)
    });
    let rules = rules.collect::<Result<_, WireError>>()?;
    reader.end()?;
    Ok(Some(rules))
}

/// Writes what came of parsing.
///
/// # Errors
///
/// `out` does not take it.
pub fn write_answer(meaning: &Meaning, out: impl Write) -> io::Result<()> {
    let nothing = Policy::default();
    let policy = meaning.policy.as_ref().unwrap_or(&nothing);
    let mut files = Files::default();
    files.add_all(policy.services.iter().map(|service| &service.location.file));
    files.add_all(policy.networks.iter().map(|network| &network.location.file));
    files.add_all(policy.rules.iter().map(|rule| &rule.location.file));
    files.add_all(places(&meaning.findings));
    let mut writer = Writer { out, files };
    writer.files()?;
    writer.value(&Head {
        is_valid: meaning.policy.is_some(),
        on_unsupported: policy.on_unsupported,
        existing: policy.existing,
        on_audit_loss: policy.on_audit_loss,
        services: policy.services.len(),
        networks: policy.networks.len(),
        rules: policy.rules.len(),
        findings: meaning.findings.len(),
        left_out: meaning.left_out,
        tails: meaning.tails.len(),
    })?;
    for Service { name, selectors, listens, mode, location } in &policy.services {
        let place = writer.place(location);
        writer.value(&(name, selectors, listens, Moded(*mode), place))?;
    }
    for Network { name, cidrs, except, location } in &policy.networks {
        let place = writer.place(location);
        writer.value(&(name, cidrs, except, place))?;
    }
    policy.rules.iter().try_for_each(|rule| writer.rule(rule))?;
    writer.findings(&meaning.findings)?;
    meaning.tails.iter().try_for_each(|tail| writer.value(tail))?;
    writer.value(&END)?;
    writer.out.flush()
}

/// Reads what [`write_answer`] has written. What is relied upon elsewhere is checked here: whoever parses a policy chooses
/// what it permits, but nothing else.
///
/// # Errors
///
/// It is not that.
pub fn read_answer(bytes: &[u8]) -> Result<Meaning, WireError> {
    let mut reader = Reader::new(bytes)?;
    let head: Head = reader.value()?;
    let services = reader.list(head.services, |reader| {
        let (name, selectors, listens, Moded(mode), place): ServiceOnWire = reader.value()?;
        check(listens.iter().all(is_range), "a port range that ends before it begins")?;
        Ok(Service { name, selectors, listens, mode, location: reader.place(place)? })
    })?;
    let networks = reader.list(head.networks, |reader| {
        let (name, cidrs, except, place): NetworkOnWire = reader.value()?;
        check(cidrs.iter().chain(&except).all(is_cidr), "a prefix that is longer than its address")?;
        Ok(Network { name, cidrs, except, location: reader.place(place)? })
    })?;
    let rules = (0..head.rules).map(|_| reader.rule(head.services, head.networks));
    let rules: Rules = rules.collect::<Result<_, WireError>>()?;
    let findings = reader.list(head.findings, Reader::finding)?;
    let tails = reader.list(head.tails, Reader::value::<Tail>)?;
    // They follow each other in the order of documents, as their rules do.
    let mut end = (None, 0);
    for tail in &tails {
        let is_next = end.0.is_none_or(|before| before < tail.document) && tail.first >= end.1;
        end = (Some(tail.document), tail.first.saturating_add(tail.rules));
        check(is_next && end.1 <= head.rules, "lines of rules that it has not")?;
    }
    reader.end()?;
    let has_error = findings.iter().any(|finding| finding.severity == Severity::Error);
    check(head.is_valid != has_error, "a policy with an error, or none without")?;
    let policy = Policy {
        services,
        networks,
        rules,
        on_unsupported: head.on_unsupported,
        existing: head.existing,
        on_audit_loss: head.on_audit_loss,
    };
    Ok(Meaning { policy: head.is_valid.then_some(policy), findings, left_out: head.left_out, tails })
}

fn check(is_so: bool, what: &'static str) -> Result<(), WireError> {
    if is_so { Ok(()) } else { Err(WireError::Senseless(what)) }
}

fn is_range(range: &PortRange) -> bool {
    match range {
        PortRange::Protocol(_) => true,
        PortRange::Ports { low, high, .. } => low <= high,
    }
}

fn is_cidr(cidr: &Cidr) -> bool {
    match cidr.address {
        IpAddr::V4(_) => cidr.prefix <= 32,
        IpAddr::V6(_) => cidr.prefix <= 128,
    }
}

/// The files that findings are about.
fn places(findings: &[Finding]) -> impl Iterator<Item = &Arc<Path>> {
    findings.iter().flat_map(|finding| {
        let related = finding.related.iter().map(|(location, _)| &location.file);
        std::iter::once(&finding.location.file).chain(related)
    })
}

/// Files by their numbers.
#[derive(Default)]
struct Files {
    list: Vec<Arc<Path>>,
    numbers: HashMap<Arc<Path>, u32>,
    /// The one that was asked for last, which most often is asked for again.
    last: Option<(Arc<Path>, u32)>,
}

impl Files {
    fn add_all<'a>(&mut self, files: impl Iterator<Item = &'a Arc<Path>>) {
        for file in files {
            self.number(file);
        }
    }

    fn number(&mut self, file: &Arc<Path>) -> u32 {
        if let Some((last, number)) = &self.last
            && Arc::ptr_eq(last, file)
        {
            return *number;
        }
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(file.clone()).or_insert(next);
        if number == next {
            self.list.push(file.clone());
        }
        self.last = Some((file.clone(), number));
        number
    }
}

struct Writer<W> {
    out: W,
    files: Files,
}

impl<W: Write> Writer<W> {
    fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        postcard::to_io(value, Unflushed(&mut self.out)).map(drop).map_err(io::Error::other)
    }

    fn files(&mut self) -> io::Result<()> {
        let paths: Vec<&[u8]> = self.files.list.iter().map(|file| file.as_os_str().as_bytes()).collect();
        postcard::to_io(&paths, Unflushed(&mut self.out)).map(drop).map_err(io::Error::other)
    }

    fn place(&mut self, location: &Location) -> Place {
        (self.files.number(&location.file), location.line, location.column)
    }

    fn rule(&mut self, Rule { name, from, to, ports, location }: &Rule) -> io::Result<()> {
        let place = self.place(location);
        self.value(&(name, from, to, ports, place))
    }

    fn findings(&mut self, findings: &[Finding]) -> io::Result<()> {
        for finding in findings {
            let Finding { severity, code, message, location, text, hint, related, excerpt } = finding;
            let place = self.place(location);
            let related: Vec<(Place, &String)> =
                related.iter().map(|(location, what)| (self.place(location), what)).collect();
            self.value(&(severity, code, message, place, text, hint, related, excerpt))?;
        }
        Ok(())
    }
}

/// Does not pass on that `postcard` flushes after each value: a million rules would be as many calls of the kernel.
struct Unflushed<W>(W);

impl<W: Write> Write for Unflushed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    files: Vec<Arc<Path>>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (paths, rest): (Vec<&[u8]>, _) = postcard::take_from_bytes(bytes)?;
        let files = paths.into_iter().map(|path| Path::new(OsStr::from_bytes(path)).into()).collect();
        Ok(Self { rest, files })
    }

    fn value<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        let (value, rest) = postcard::take_from_bytes(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    fn list<T>(
        &mut self,
        length: usize,
        read: impl Fn(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        // Each takes more than a byte, so that no length makes room for more than there can be.
        let mut list = Vec::with_capacity(length.min(self.rest.len() / 4));
        for _ in 0..length {
            list.push(read(self)?);
        }
        list.shrink_to_fit();
        Ok(list)
    }

    fn file(&self, number: u32) -> Result<Arc<Path>, WireError> {
        let file = usize::try_from(number).ok().and_then(|number| self.files.get(number));
        file.cloned().ok_or(WireError::Senseless("a place in no file"))
    }

    fn place(&self, (file, line, column): Place) -> Result<Location, WireError> {
        Ok(Location { file: self.file(file)?, line, column })
    }

    /// A rule about some of so many services and networks.
    fn rule(&mut self, services: usize, networks: usize) -> Result<Rule, WireError> {
        let (name, from, to, ports, place): RuleOnWire = self.value()?;
        let is_below = |index: u32, end| usize::try_from(index).is_ok_and(|index| index < end);
        let is_peer = |peer: &Peer| match *peer {
            Peer::Service(index) => is_below(index, services),
            Peer::Network(index) => is_below(index, networks),
            Peer::Unmanaged | Peer::World => true,
        };
        check(from.iter().chain(&to).all(is_peer), "a rule about what is not declared")?;
        if let Ports::Listed(ranges) = &ports {
            check(ranges.iter().all(is_range), "a port range that ends before it begins")?;
        }
        Ok(Rule { name, from, to, ports, location: self.place(place)? })
    }

    fn finding(&mut self) -> Result<Finding, WireError> {
        let (severity, code, message, place, text, hint, related, excerpt): FindingOnWire = self.value()?;
        let code = CODES.iter().find(|known| **known == code);
        let related = related.into_iter().map(|(place, what)| Ok::<_, WireError>((self.place(place)?, what)));
        check(excerpt.as_ref().is_none_or(|excerpt| excerpt.is_at_most(MAX_EXCERPT)), "a huge excerpt")?;
        Ok(Finding {
            severity,
            code: code.copied().ok_or(WireError::Senseless("a finding of no kind"))?,
            message,
            location: self.place(place)?,
            text,
            hint,
            related: related.collect::<Result<_, _>>()?,
            excerpt,
        })
    }

    fn end(mut self) -> Result<(), WireError> {
        check(self.value::<u32>()? == END && self.rest.is_empty(), "more than a policy")
    }
}

#[cfg(test)]
mod tests {
    use super::{Question, WireError, read_answer, read_question, write_answer, write_question};
    use crate::policy::finding::{Finding, Severity};
    use crate::policy::{Document, Location, Meaning, parse};

    const POLICY: &str = "version: 1
defaults: { mode: audit, on_unsupported: open, existing: keep, on_audit_loss: deny_new }
services:
  web: { match: [{ systemd: nginx.service }], mode: enforce }
  orders: { match: [{ cgroup: /shop.slice/orders-*.scope }], listens: [8080/tcp, 53/udp] }
  db: { match: [{ container: { name: pg-main, runtime: docker, label: { tier: back } } }] }
networks:
  stripe: { cidrs: [203.0.113.0/24, \"2001:db8:5::/48\"], except: [203.0.113.9/32] }
allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
  - { name: ping, from: [unmanaged, world], to: [web, db], ports: [icmp, udp, 9000-9010/tcp] }
  - { name: all, from: orders, to: stripe }
";

    const WRONG: &str = "version: 1
services:
  web: { match: [{ systemd: nginx.service }] }
  web: { match: [{ systemd: other.service }] }
allow:
  - { name: a, from: web, to: nobody, ports: [0/tcp] }
";

    fn documents() -> Vec<Document> {
        // A file's name need not be text.
        let name = std::ffi::OsStr::from_bytes(b"b\xff.yaml");
        use std::os::unix::ffi::OsStrExt as _;
        vec![Document::new("a.yaml", POLICY), Document::new(name, "version: 1\nservices: {}\n")]
    }

    fn meanings() -> Vec<Meaning> {
        let location = Location { file: std::path::Path::new("c.yaml").into(), line: 1, column: 1 };
        let unread =
            Finding::of_file(Severity::Error, "unreadable", location, String::from("Permission denied"));
        vec![
            parse(&documents(), Vec::new()),
            parse(&[Document::new("a.yaml", WRONG)], Vec::new()),
            parse(&documents(), vec![unread]),
            parse(&[], Vec::new()),
        ]
    }

    fn answer(meaning: &Meaning) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_answer(meaning, &mut bytes).expect("memory takes it");
        bytes
    }

    #[test]
    fn what_is_answered_arrives_as_it_was() {
        let meanings = meanings();
        assert!(meanings[0].policy.is_some(), "{:?}", meanings[0].findings);
        assert!(meanings[1].findings.iter().any(|finding| !finding.related.is_empty()));
        for meaning in meanings {
            let arrived = read_answer(&answer(&meaning)).expect("a whole answer");
            assert_eq!(format!("{arrived:?}"), format!("{meaning:?}"));
        }
    }

    #[test]
    fn what_is_asked_arrives_as_it_was() {
        let (documents, found) = (documents(), meanings().swap_remove(1).findings);
        let mut bytes = Vec::new();
        write_question(&documents, &found, &mut bytes).expect("memory takes it");
        let arrived = read_question(&bytes).expect("a whole question");
        assert_eq!(format!("{arrived:?}"), format!("{:?}", Question::Whole(documents, found)));
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_no_answer() {
        for meaning in meanings() {
            let mut whole = answer(&meaning);
            for length in 0..whole.len() {
                assert!(read_answer(&whole[..length]).is_err(), "{length} of {}", whole.len());
            }
            whole.push(0);
            assert!(matches!(read_answer(&whole), Err(WireError::Senseless(_))));
        }
    }

    #[test]
    fn what_no_policy_says_is_not_taken() {
        use crate::policy::{Peer, Policy, PortRange, Ports, Rule};
        use enforcer_common::Protocol;
        let meaning = meanings().swap_remove(0);
        let policy = meaning.policy.expect("valid");
        let mut prefix = policy.clone();
        let bend = |bend: fn(&mut Rule, u32)| {
            let services = u32::try_from(policy.services.len()).expect("few");
            let rules = policy.rules.iter().cloned().map(|mut rule| {
                bend(&mut rule, services);
                rule
            });
            Policy { rules: rules.collect(), ..policy.clone() }
        };
        let stranger = bend(|rule, services| rule.from = [Peer::Service(services)].into());
        let reversed = bend(|rule, _| {
            let range = PortRange::Ports { protocol: Protocol::TCP, low: 2, high: 1 };
            rule.ports = Ports::Listed([range].into());
        });
        prefix.networks[0].cidrs[0].prefix = 129;
        for bent in [stranger, reversed, prefix] {
            let bytes = answer(&Meaning { policy: Some(bent), ..Meaning::default() });
            assert!(matches!(read_answer(&bytes), Err(WireError::Senseless(_))));
        }
        let silent = answer(&Meaning::default());
        assert!(matches!(read_answer(&silent), Err(WireError::Senseless(_))), "invalid, and no error");
    }
}
