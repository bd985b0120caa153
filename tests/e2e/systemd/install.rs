//! The installation as README.md has it, word for word.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use enforcer_tests::machine::Machine;
use enforcer_tests::sandbox::binary;

const AT: &str = "127.0.0.1:8080";

/// The blocks of a section of README.md: the language of each, and its lines.
fn blocks(section: &str) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
    let text = std::fs::read_to_string(file)?;
    let heading = format!("## {section}\n");
    let (_, rest) = text.split_once(&heading).context("the section is not there")?;
    let rest = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let mut blocks = Vec::new();
    for part in rest.split("\n```").skip(1).step_by(2) {
        let (language, body) = part.split_once('\n').context("a block is empty")?;
        blocks.push((language.to_owned(), body.lines().map(str::to_owned).collect()));
    }
    Ok(blocks)
}

#[test]
fn the_commands_of_the_readme_install_audit_enforce_and_detach() -> anyhow::Result<()> {
    let packaging: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging");
    let machine = Machine::prepare("install")?
        .bind(binary("enforcer")?, "/clone/target/release/enforcer")
        .bind(packaging, "/clone/packaging")
        .boot()?;
    let other = || machine.connect_as("other", AT);
    let mut done = Vec::new();
    for (language, lines) in blocks("Install")? {
        if language == "yaml" {
            machine.write("/etc/enforcer/policy.yaml", &format!("{}\n", lines.join("\n")))?;
            continue;
        }
        for line in lines {
            let command = line.strip_prefix("# ").with_context(|| format!("{line} is no command"))?;
            if command.starts_with("grep ") {
                // What there is to be found.
                machine.serve_as("orders", AT)?;
                let reply = other()?;
                assert_eq!(reply.text, "hello", "{reply:?}");
                let log = "/var/log/enforcer/audit.jsonl";
                machine.wait_until("it is recorded", |machine| Ok(machine.read(log)?.contains("no-rule")))?;
            }
            let told = machine.run("sh", &["-c", &format!("cd /clone && {command}")])?;
            if command.starts_with("grep ") {
                ensure!(told.contains(r#""service":"orders""#), "{told}");
            } else if command.contains("status") {
                ensure!(told.contains("enforcing revision 1: 2 services, 1 rules"), "{told}");
            } else if command.contains("reload enforcer") || command.contains("disable") {
                let reply = other()?;
                ensure!(reply.is_refused(), "after {command}: {reply:?}");
                assert_eq!(machine.connect_as("nginx", AT)?.text, "hello", "after {command}");
            } else if command == "enforcer detach" {
                assert_eq!(other()?.text, "hello");
            }
            done.push(command.to_owned());
        }
    }
    assert_eq!(done.len(), 16, "{done:?}");
    Ok(())
}
