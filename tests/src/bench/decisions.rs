//! Decisions on the host, by the function that runs in the kernel: for benchmarks and for `callgrind`.

use std::hint::black_box;

use anyhow::{Context as _, ensure};
use enforcer::identities::Identities;
use enforcer::policy::{Document, compile_documents};
use enforcer::tables::Tables;
use enforcer_common::asked::Asked;
use enforcer_common::{Facts, Party, Port, Protocol, Verdict, decide};

use super::workload::{CLIENT, CONNECTIONS, Place, SERVER, Workload};

/// The tables of a workload, with the cgroups of its client and server.
pub struct Decisions {
    tables: Tables,
    facts: Facts,
}

impl Decisions {
    /// Compiles a policy of so many rules.
    ///
    /// # Errors
    ///
    /// It is not valid.
    pub fn new(rules: usize) -> anyhow::Result<Self> {
        let text = Workload::new(rules, Place::Middle).yaml("/bench", false);
        let loaded = compile_documents(&[Document::new("policy.yaml", text)]);
        let policy = loaded.policy.context("a policy that is not valid")?;
        let mut tables = Tables::compile(&policy, &mut Identities::default(), 1)?;
        for (id, name) in [(1, CLIENT), (2, SERVER)] {
            let service = tables.services.iter().find(|service| service.name == name);
            let owner = service.context("a service of the workload")?.owner;
            tables.cgroups.insert(id, owner);
        }
        let facts = Facts {
            caller: Party::cgroup(1),
            answerer: Party::cgroup(2),
            protocol: Protocol::TCP,
            port: Port::new(CONNECTIONS),
            asked: Asked::NOBODY,
            reply_port: Port::new(0),
        };
        Ok(Self { tables, facts })
    }

    /// Decides once about what is permitted.
    pub fn permitted(&self) -> Verdict {
        decide(black_box(&self.facts), black_box(&self.tables)).verdict
    }

    /// Decides so often.
    ///
    /// # Errors
    ///
    /// A decision is not what it should be.
    pub fn repeat(&self, times: u64) -> anyhow::Result<()> {
        for _ in 0..times {
            ensure!(self.permitted() == Verdict::Allow, "what a rule permits was denied");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Decisions;

    #[test]
    fn what_is_measured_is_permitted() -> anyhow::Result<()> {
        Decisions::new(100)?.repeat(2)
    }
}
