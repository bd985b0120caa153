//! The corpus as tables for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Cell, Change, Report};

/// Families and transports, in the order of the columns.
const PATHS: [&str; 6] = ["v4/tcp", "v6/tcp", "mapped/tcp", "v4/udp", "v6/udp", "mapped/udp"];

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
        let row: Vec<String> = std::iter::once(name.clone()).chain(PATHS.iter().map(cell)).collect();
        if row.iter().skip(1).any(|cell| !cell.is_empty()) {
            rows.push(row);
        }
    }
    aligned(&rows)
}

/// What each hook's absence changes, in Markdown.
pub fn without_hooks(report: &Report) -> String {
    let hooks: Vec<_> = report.changed.keys().collect();
    let mut rows = vec![
        std::iter::once(String::from("technique"))
            .chain(hooks.iter().map(|hook| hook.0.to_owned()))
            .collect(),
    ];
    for name in report.techniques.keys() {
        let cell = |changes: &BTreeMap<Cell, Change>| {
            let worst = changes.iter().filter(|(cell, _)| cell.techniques.first() == Some(name));
            match worst.map(|(_, change)| change).max() {
                Some(Change::Opened) => "open",
                Some(Change::Refused) => "refused",
                Some(Change::Otherwise) => "other",
                None => "",
            }
            .to_owned()
        };
        let row: Vec<String> =
            std::iter::once(name.clone()).chain(report.changed.values().map(cell)).collect();
        if row.iter().skip(1).any(|cell| !cell.is_empty()) {
            rows.push(row);
        }
    }
    aligned(&rows)
}

/// A Markdown table whose columns stand below each other; the first row is its head.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
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
