//! `enforcer validate`: reads a policy as the daemon would, and tells everything that is wrong with it.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::policy::finding::TOO_MANY;
use crate::policy::{self, Finding, LeftOut, Loaded, Severity};

/// How findings are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people: each finding with its source line, and a closing line.
    Text,
    /// For programs: one JSON object.
    Json,
}

/// Reads the policy at `paths` and writes what was found. Returns whether the policy can be used.
///
/// # Errors
///
/// Fails if writing does.
pub fn run(paths: &[PathBuf], format: Format, out: &mut dyn Write) -> io::Result<bool> {
    let loaded = policy::load(paths);
    match format {
        Format::Text => write_text(&loaded, out)?,
        Format::Json => write_json(&loaded, out)?,
    }
    out.flush()?;
    Ok(loaded.policy.is_some())
}

fn write_text(loaded: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    for finding in &loaded.findings {
        writeln!(out, "{}", finding.render())?;
    }
    let warnings = number(loaded, Severity::Warning);
    match &loaded.policy {
        Some(policy) => {
            write!(
                out,
                "policy is valid: {}, {}, {}",
                count(policy.services.len(), "service"),
                count(policy.networks.len(), "network"),
                count(policy.rules.len(), "rule"),
            )?;
            if warnings > 0 {
                write!(out, " ({})", count(warnings, "warning"))?;
            }
            writeln!(out)
        }
        None => {
            let errors = number(loaded, Severity::Error);
            writeln!(out, "{}, {}", count(errors, "error"), count(warnings, "warning"))
        }
    }
}

fn write_json(loaded: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        valid: bool,
        services: usize,
        networks: usize,
        rules: usize,
        errors: usize,
        warnings: usize,
        left_out: LeftOut,
        files: Vec<String>,
        findings: &'a [Finding],
    }
    let policy = loaded.policy.as_ref();
    let report = Report {
        valid: policy.is_some(),
        services: policy.map_or(0, |policy| policy.services.len()),
        networks: policy.map_or(0, |policy| policy.networks.len()),
        rules: policy.map_or(0, |policy| policy.rules.len()),
        errors: number(loaded, Severity::Error),
        warnings: number(loaded, Severity::Warning),
        left_out: loaded.left_out,
        files: loaded.files.iter().map(|file| file.display().to_string()).collect(),
        findings: &loaded.findings,
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

/// How many findings of this severity there are, shown or not.
fn number(loaded: &Loaded, severity: Severity) -> usize {
    let is_counted = |finding: &&Finding| finding.severity == severity && finding.code != TOO_MANY;
    let left_out = match severity {
        Severity::Error => loaded.left_out.errors,
        Severity::Warning => loaded.left_out.warnings,
    };
    loaded.findings.iter().filter(is_counted).count() + left_out
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
