//! systemd as it is: a real one, with the daemon as the unit that is shipped and this workspace's programs as services.

use std::path::Path;

use anyhow::Context as _;
use enforcer_tests::machine::{Machine, Prepared};
use enforcer_tests::sandbox::{Finished, binary};
use serde_json::Value;

mod identity;
mod install;
mod proxies;
mod unit;

const AUDIT: &str = "/var/log/enforcer/audit.jsonl";

/// A machine on which enforcer is installed as its packaging wants it, with a policy.
fn prepare(name: &str, policy: &str) -> anyhow::Result<Prepared> {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging");
    Machine::prepare(name)?
        .bind(binary("enforcer")?, "/usr/bin/enforcer")
        .bind(packaging.join("enforcer.service"), "/usr/lib/systemd/system/enforcer.service")
        .bind(packaging.join("enforcer.sysusers"), "/usr/lib/sysusers.d/enforcer.conf")
        .bind(packaging.join("enforcer.tmpfiles"), "/usr/lib/tmpfiles.d/enforcer.conf")
        .bind(packaging.join("enforcer.logrotate"), "/etc/logrotate.d/enforcer")
        .write("/etc/enforcer/policy.yaml", policy)
}

/// The same, running, with every attempt recorded and the daemon started at boot.
fn enforcing(name: &str, policy: &str) -> anyhow::Result<Machine> {
    prepare(name, policy)?
        .write(
            "/etc/systemd/system/enforcer.service.d/test.conf",
            &format!(
                "[Service]\nExecStart=\nExecStart=/usr/bin/enforcer run --policy /etc/enforcer --audit {AUDIT} \
                 --log-allowed\n"
            ),
        )?
        .wants("enforcer.service")
        .boot()
}

/// Stops the daemon, and returns what it wrote.
fn finish(machine: &Machine) -> anyhow::Result<Finished> {
    machine.systemctl(&["stop", "enforcer.service"])?;
    finished(machine.records(AUDIT)?)
}

/// The same, where the log was rotated once.
fn finish_rotated(machine: &Machine) -> anyhow::Result<Finished> {
    machine.systemctl(&["stop", "enforcer.service"])?;
    let mut records = machine.records(&format!("{AUDIT}.1"))?;
    records.extend(machine.records(AUDIT)?);
    finished(records)
}

fn finished(records: Vec<Value>) -> anyhow::Result<Finished> {
    let stop = records.last().filter(|record| record["kind"] == "stop").context("there is no stop record")?;
    Ok(Finished { stop: stop.clone(), records, words: String::new() })
}
