//! Cases as data: a policy, attempts under it, and what is expected of each. One file under `cases/` is one case.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use enforcer::policy::{self, Document, Policy, Selector, Severity};
use enforcer_common::counter::Outcome;
use enforcer_common::{Protocol, Reason};
use serde::Deserialize;

use crate::oracle::{self, Answer, End};

/// One file.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without its ending.
    pub name: String,
    /// What the case shows.
    pub description: String,
    /// The policy as YAML; see [`Case::text_below`].
    pub text: String,
    /// The policy, read by the product's own front-end.
    pub policy: Policy,
    /// In the order of the file.
    pub attempts: Vec<Attempt>,
}

/// One attempt and what is expected of it, as the file has it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// A service, `unmanaged`, `world`, `unknown` or an address.
    pub from: String,
    /// Likewise.
    pub to: String,
    /// The answerer's port; left out for a protocol without ports.
    #[serde(default)]
    pub port: u16,
    /// The word for the protocol.
    #[serde(default = "tcp")]
    pub proto: String,
    /// Which addresses are used.
    #[serde(default)]
    pub family: Family,
    /// The caller's port, if the attempt answers an earlier one of the other end.
    #[serde(default)]
    pub reply_port: Option<u16>,
    /// What becomes of it.
    pub expect: Expectation,
    /// The rule that allows it, by its name.
    #[serde(default)]
    pub rule: Option<String>,
    /// The word for the reason; `rule` is understood where a rule is named.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How the two ends of an attempt are addressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4 addresses and sockets.
    #[default]
    V4,
    /// IPv6 addresses and sockets.
    V6,
    /// IPv6 sockets that use IPv4 addresses in their mapped form.
    V4Mapped,
}

/// What becomes of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// It is permitted.
    Allow,
    /// It is refused.
    Deny,
    /// It passes, and is recorded as what would have been refused.
    WouldDeny,
}

impl Case {
    /// Reads every case, in the order of their names.
    ///
    /// # Errors
    ///
    /// Names the first file that cannot be read, and the attempt in it.
    pub fn load_all() -> anyhow::Result<Vec<Self>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let mut cases = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                cases.push(Self::parse(&name, &text).with_context(|| format!("read case {name}"))?);
            }
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        ensure!(!cases.is_empty(), "read {}: no case in it", directory.display());
        Ok(cases)
    }

    /// Reads one case from its text.
    ///
    /// # Errors
    ///
    /// Names the attempt that cannot be read, or what is wrong with the policy.
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let file: File = serde_yaml::from_str(text)?;
        let loaded = policy::compile_documents(&[Document::new(format!("{name}.yaml"), file.policy.clone())]);
        let Some(policy) = loaded.policy else {
            let errors = loaded.findings.iter().filter(|finding| finding.severity == Severity::Error);
            bail!("{}", errors.map(policy::Finding::render).collect::<String>());
        };
        let case = Self {
            name: name.to_owned(),
            description: file.description,
            text: file.policy,
            policy,
            attempts: file.attempts,
        };
        ensure!(!case.attempts.is_empty(), "no attempt in it");
        for service in &case.policy.services {
            let own = Selector::Cgroup(format!("{}/{}", Self::CGROUP, service.name));
            // Nothing can be made of a container by a process of a test, so a service may also select some.
            let fits = service
                .selectors
                .iter()
                .all(|selector| *selector == own || matches!(selector, Selector::Container(_)));
            ensure!(fits, "service {}: its selector is to be {own:?}", service.name);
        }
        for (number, attempt) in case.attempts.iter().enumerate() {
            attempt.attempt(&case.policy).with_context(|| case.label(number))?;
            attempt.expectation().with_context(|| case.label(number))?;
            if let Some(rule) = &attempt.rule {
                let known = case.policy.rules.iter().any(|known| *known.name == **rule);
                ensure!(known, "{}: no rule `{rule}`", case.label(number));
            }
        }
        Ok(case)
    }

    /// The policy as YAML for services whose cgroups are `NAME` right below `cgroup`, as an executor that runs real
    /// processes needs it: in the file they are below [`Case::CGROUP`].
    pub fn text_below(&self, cgroup: &str) -> String {
        self.text.replace(&format!("cgroup: {}/", Self::CGROUP), &format!("cgroup: {cgroup}/"))
    }

    /// Where the files have the services' cgroups.
    pub const CGROUP: &str = "/case";

    /// How messages name an attempt.
    pub fn label(&self, number: usize) -> String {
        let Some(attempt) = self.attempts.get(number) else { return self.name.clone() };
        let Attempt { from, to, port, proto, family, .. } = attempt;
        format!("{}, attempt {}: {from} -> {to}:{port}/{proto} ({family:?})", self.name, number + 1)
    }

    /// What is wrong with an executor's answer to an attempt, if anything is.
    ///
    /// # Errors
    ///
    /// If the attempt itself cannot be read.
    pub fn mismatch(&self, number: usize, answer: &Answer) -> anyhow::Result<Option<String>> {
        let attempt = self.attempts.get(number).context("no such attempt")?;
        let (outcome, reason) = attempt.expectation()?;
        let rule = answer.rule.and_then(|rule| self.policy.rules.get(rule)).map(|rule| &*rule.name);
        let matches = answer.outcome == outcome
            && reason.is_none_or(|reason| reason == answer.reason)
            && (attempt.rule.is_none() || attempt.rule.as_deref() == rule);
        Ok((!matches).then(|| {
            format!(
                "{}\n  expected {}, reason {}, rule {}\n  answered {}, reason {}, rule {}",
                self.label(number),
                outcome.code(),
                reason.map_or("any", Reason::code),
                attempt.rule.as_deref().unwrap_or("any"),
                answer.outcome.code(),
                answer.reason.code(),
                rule.unwrap_or("none"),
            )
        }))
    }
}

impl Attempt {
    /// The attempt as the oracle takes it.
    ///
    /// # Errors
    ///
    /// If an end or the protocol is not known, or the family does not fit an address.
    pub fn attempt(&self, policy: &Policy) -> anyhow::Result<oracle::Attempt> {
        Ok(oracle::Attempt {
            from: self.end(&self.from, policy)?,
            to: self.end(&self.to, policy)?,
            protocol: self.protocol()?,
            port: self.port,
            reply_port: self.reply_port,
        })
    }

    /// The protocol's number.
    ///
    /// # Errors
    ///
    /// If no protocol is called so.
    pub fn protocol(&self) -> anyhow::Result<Protocol> {
        let named = Protocol::NAMED.into_iter().find(|(name, ..)| *name == self.proto);
        let (_, protocol, has_ports) = named.with_context(|| format!("no protocol `{}`", self.proto))?;
        ensure!(has_ports == (self.port != 0), "{} with port {}", self.proto, self.port);
        Ok(protocol)
    }

    /// The outcome, and the reason if one is expected.
    ///
    /// # Errors
    ///
    /// If no reason is called so, or neither a rule nor a reason is named.
    pub fn expectation(&self) -> anyhow::Result<(Outcome, Option<Reason>)> {
        let outcome = match self.expect {
            Expectation::Allow => Outcome::Allowed,
            Expectation::Deny => Outcome::Denied,
            Expectation::WouldDeny => Outcome::WouldDeny,
        };
        let Some(word) = &self.reason else {
            ensure!(self.rule.is_some(), "neither a rule nor a reason is expected");
            return Ok((outcome, Some(Reason::RuleAllows)));
        };
        let reason = Reason::ALL.iter().find(|reason| reason.code() == word);
        Ok((outcome, Some(*reason.with_context(|| format!("no reason `{word}`"))?)))
    }

    fn end(&self, name: &str, policy: &Policy) -> anyhow::Result<End> {
        match name {
            "unmanaged" => return Ok(End::Unmanaged),
            "unknown" => return Ok(End::Unknown),
            "pending" => return Ok(End::Pending),
            "world" => {
                return Ok(End::Address(match self.family {
                    Family::V4 | Family::V4Mapped => Self::WORLD_V4.into(),
                    Family::V6 => Self::WORLD_V6.into(),
                }));
            }
            _ => {}
        }
        if let Some(number) = policy.services.iter().position(|service| service.name == name) {
            return Ok(End::Service(number));
        }
        let address: IpAddr =
            name.parse().with_context(|| format!("`{name}` is no service and no address"))?;
        ensure!(address.is_ipv6() == (self.family == Family::V6), "{address} in family {:?}", self.family);
        Ok(End::Address(address))
    }

    /// What `world` stands for with IPv4 addresses; no case puts it into a network.
    pub const WORLD_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
    /// What `world` stands for with IPv6 addresses; no case puts it into a network.
    pub const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x77);
}

/// The format of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    policy: String,
    attempts: Vec<Attempt>,
}

fn tcp() -> String {
    "tcp".to_owned()
}
