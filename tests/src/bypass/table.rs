//! The corpus as tables: those for people, those that stand in the repository, and how the two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use enforcer_common::{Check, Hook};
use serde_json::{Value, json};

use super::stage::corpus;
use super::{Cell, Change, Fault, Report};

/// Families and transports, in the order of the columns.
const PATHS: [&str; 6] = ["v4/tcp", "v6/tcp", "mapped/tcp", "v4/udp", "v6/udp", "mapped/udp"];

/// What a cell begins with where this kernel lacks what the technique needs.
const ABSENT: &str = "absent";

/// The file in which the tables stand.
pub fn file() -> PathBuf {
    corpus().join("TABLE.md")
}

/// Everything as it is to stand in that file.
pub fn standing(report: &Report) -> String {
    let mut text = String::from(
        "# What blocks what\n\n\
         `cargo xtask bypass --write` writes this file, and a test compares it with what the kernel does.\n\n\
         ## Blocked\n\n\
         Each technique along each path, tried by somebody who may not call: the hook that refuses, and what the caller sees.\n\
         `kernel` blocks what would not get through without an enforcer either, `open` is a documented limit, `absent` is what the\n\
         kernel of the machine that wrote this does not have.\n\n",
    );
    text.push_str(&blocked(report));
    text.push_str("\n## Open\n\nWhat gets through, and why it does.\n\n");
    for (name, technique) in &report.techniques {
        if let Some(why) = &technique.open {
            // Writing to a string cannot fail.
            writeln!(text, "- `{name}`: {why}").unwrap_or_default();
        }
    }
    text.push_str(
        "\n## Without a hook\n\n\
         What changes when one hook is off. `O` counts paths along which what is forbidden gets through, `R` those along which what\n\
         is permitted is refused, and `x` those that end as before but by another hook, for another reason or with another errno.\n\n",
    );
    text.push_str(&without_hooks(report));
    text.push_str(
        "\n## With a check negated\n\n\
         The same when `decide` is told the opposite of what a check says, along one path of each technique. The checks:\n\n",
    );
    for (number, check) in Check::ALL.into_iter().enumerate() {
        let excuse = Fault::Negated(check).excuse().map(|why| format!(" (nothing tells: {why})"));
        writeln!(text, "{}. `{}`{}", number + 1, check.code(), excuse.unwrap_or_default())
            .unwrap_or_default();
    }
    text.push('\n');
    text.push_str(&with_checks_negated(report));
    text
}

/// How each technique is blocked, in Markdown.
pub fn blocked(report: &Report) -> String {
    let mut rows =
        vec![[vec!["technique"], PATHS.to_vec()].concat().into_iter().map(str::to_owned).collect()];
    for name in report.techniques.keys() {
        let cell = |path: &&str| {
            let cell = Cell { techniques: vec![name.clone()], path: (**path).to_owned() };
            report.blocked.get(&cell).map_or_else(String::new, |judgement| {
                format!("{} {}", judgement.by, judgement.how).trim().to_owned()
            })
        };
        rows.push(std::iter::once(name.clone()).chain(PATHS.iter().map(cell)).collect());
    }
    aligned(&rows)
}

/// What each hook's absence changes, in Markdown.
pub fn without_hooks(report: &Report) -> String {
    let faults = Hook::ALL.map(|hook| (Fault::Off(hook.name()), hook.name().to_owned()));
    changes(report, &faults)
}

/// What each check's negation changes, in Markdown.
pub fn with_checks_negated(report: &Report) -> String {
    let numbered = Check::ALL.into_iter().enumerate();
    let faults: Vec<_> =
        numbered.map(|(number, check)| (Fault::Negated(check), (number + 1).to_string())).collect();
    changes(report, &faults)
}

fn changes(report: &Report, faults: &[(Fault, String)]) -> String {
    let heads = faults.iter().map(|(_, head)| head.clone());
    let mut rows = vec![std::iter::once(String::from("technique")).chain(heads).collect()];
    for name in report.techniques.keys() {
        let cell = |(fault, _): &(Fault, String)| {
            let Some(changes) = report.changed.get(fault) else { return String::new() };
            let of_it = changes.iter().filter(|(cell, _)| cell.techniques.first() == Some(name));
            let kinds: Vec<Change> = of_it.map(|(_, change)| *change).collect();
            let count = |kind, letter| match kinds.iter().filter(|other| **other == kind).count() {
                0 => String::new(),
                number => format!("{letter}{number}"),
            };
            [count(Change::Opened, 'O'), count(Change::Refused, 'R'), count(Change::Otherwise, 'x')].concat()
        };
        rows.push(std::iter::once(name.clone()).chain(faults.iter().map(cell)).collect());
    }
    aligned(&rows)
}

/// A cell that is otherwise than it stands in the repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The table that it is in.
    pub heading: String,
    /// Its row.
    pub technique: String,
    /// Its column.
    pub column: String,
    /// What stands there, if there is such a row.
    pub before: Option<String>,
    /// What is to stand there.
    pub now: Option<String>,
}

impl Difference {
    /// Whether it is in a table of what a fault changes, rather than in that of what is blocked.
    pub fn is_of_fault(&self) -> bool {
        self.heading.starts_with("With")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |cell: &Option<String>| {
            cell.as_ref().map_or_else(|| String::from("no row"), |cell| format!("{cell:?}"))
        };
        let Self { heading, technique, column, before, now } = self;
        let (before, now) = (say(before), say(now));
        write!(f, "{heading}, {technique}, {column}: {before} stands in the table, and {now} is")
    }
}

/// How a report differs from what stands in the repository, cell by cell.
///
/// # Errors
///
/// The file cannot be read.
pub fn differences(report: &Report) -> anyhow::Result<Vec<Difference>> {
    let path = file();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(compare(&cells(&text), &cells(&standing(report))))
}

/// Replaces what stands in the repository.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(report: &Report) -> anyhow::Result<()> {
    let path = file();
    fs::write(&path, standing(report)).with_context(|| format!("write {}", path.display()))
}

/// Every cell of every table in a text: by the heading above it, its row and its column.
type Cells = BTreeMap<(String, String, String), String>;

fn cells(text: &str) -> Cells {
    let mut cells = Cells::new();
    let (mut heading, mut columns) = (String::new(), Vec::new());
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("## ") {
            words.clone_into(&mut heading);
            columns.clear();
        }
        let Some(line) = line.strip_prefix('|') else { continue };
        let row: Vec<String> =
            line.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        if columns.is_empty() {
            columns = row;
        } else if let Some((name, rest)) = row.split_first().filter(|(name, _)| !name.starts_with("--")) {
            for (column, cell) in columns.iter().skip(1).zip(rest) {
                cells.insert((heading.clone(), name.clone(), column.clone()), cell.clone());
            }
        }
    }
    cells
}

fn compare(stands: &Cells, is: &Cells) -> Vec<Difference> {
    // Of what one of two kernels does not have, only one can tell.
    let absent: BTreeSet<&String> = stands
        .iter()
        .chain(is)
        .filter_map(|((_, name, _), cell)| cell.starts_with(ABSENT).then_some(name))
        .collect();
    let keys: BTreeSet<_> = stands.keys().chain(is.keys()).collect();
    let mut differences = Vec::new();
    for key in keys {
        let (heading, name, column) = key;
        let (before, now) = (stands.get(key), is.get(key));
        if before != now && !absent.contains(name) {
            differences.push(Difference {
                heading: heading.clone(),
                technique: name.clone(),
                column: column.clone(),
                before: before.cloned(),
                now: now.cloned(),
            });
        }
    }
    differences
}

/// Everything, for programs.
pub fn to_json(report: &Report, differences: &[Difference]) -> Value {
    let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
    let techniques = report.techniques.iter().map(|(name, technique)| {
        let is_of_it = |cell: &Cell| cell.techniques.first() == Some(name);
        let paths: BTreeMap<&str, Value> = report
            .blocked
            .iter()
            .filter(|(cell, _)| is_of_it(cell))
            .map(|(cell, judgement)| {
                (cell.path.as_str(), json!({ "by": judgement.by, "how": judgement.how }))
            })
            .collect();
        let faults = |is_meant: fn(&Fault) -> bool| -> BTreeMap<&str, BTreeMap<&str, &str>> {
            let meant = report.changed.iter().filter(|(fault, _)| is_meant(fault));
            meant
                .map(|(fault, changes)| {
                    let of_it = changes.iter().filter(|(cell, _)| is_of_it(cell));
                    (fault.name(), of_it.map(|(cell, change)| (cell.path.as_str(), change.code())).collect())
                })
                .filter(|(_, changes): &(&str, BTreeMap<_, _>)| !changes.is_empty())
                .collect()
        };
        json!({
            "technique": name,
            "sentence": technique.sentence,
            "open": technique.open,
            "paths": paths,
            "without_hook": faults(|fault| matches!(fault, Fault::Off(_))),
            "check_negated": faults(|fault| matches!(fault, Fault::Negated(_))),
        })
    });
    json!({
        "techniques": techniques.collect::<Vec<_>>(),
        "pairs": report.pairs,
        "wrong": report.wrong,
        "differences": differences,
    })
}

/// A Markdown table whose columns stand below each other; the first row is its head. Rows that say nothing are left out.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let says = |row: &&Vec<String>| row.iter().skip(1).any(|cell| !cell.is_empty());
    let rows: Vec<&Vec<String>> = rows.iter().filter(says).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            write!(text, "| {cell:<width$} ").unwrap_or_default();
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                write!(text, "|{:-<1$}", "", width + 2).unwrap_or_default();
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{cells, compare};

    const STANDS: &str = "# All\n\n## One\n\n| technique | v4 | v6 |\n|---|---|---|\n| a | connect4 EPERM | |\n\
                          | b | absent no B | absent no B |\n\n## Two\n\n| technique | x |\n|---|---|\n| a | O1 |\n";

    #[test]
    fn differences_are_told_cell_by_cell() {
        let is = STANDS.replace("EPERM", "EACCES").replace("| b | absent no B |", "| b | ingress dropped |");
        let compare = |is: &str| -> Vec<String> {
            compare(&cells(STANDS), &cells(is)).iter().map(ToString::to_string).collect()
        };
        let told = compare(&is);
        assert_eq!(told, [r#"One, a, v4: "connect4 EPERM" stands in the table, and "connect4 EACCES" is"#]);
        let shorter = STANDS.replace("| a | O1 |\n", "");
        let told = compare(&shorter);
        assert_eq!(told, [r#"Two, a, x: "O1" stands in the table, and no row is"#]);
        assert_eq!(compare(STANDS), [""; 0]);
    }
}
