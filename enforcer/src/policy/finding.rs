//! What is wrong with a policy, where, and what to write instead.

use std::fmt::Write as _;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize};

use super::Location;
use crate::output::{printable, printable_char};

/// Characters of a source line that are shown: wider than any terminal that is read comfortably.
const EXCERPT_CHARS: usize = 120;

/// Characters of offending text that are repeated in messages and JSON.
const TEXT_CHARS: usize = 200;

/// Findings of one severity that are kept: nobody reads more, and a hostile document could have one per byte.
const MAX_FINDINGS: usize = 1_000;

/// The code of the finding that stands for those that are left out, and is none itself.
pub const TOO_MANY: &str = "too-many-findings";

/// Every code that a finding can have. Programs rely on them: one is added here, none is given another meaning.
pub const CODES: &[&str] = &[
    "alias-limit",
    "claimed-twice",
    "covers-nothing",
    "duplicate-key",
    "duplicate-name",
    "duplicate-rule",
    "empty-value",
    "every-port",
    "except-outside",
    "file-too-large",
    "host-bits",
    "ignored-file",
    "invalid-cidr",
    "invalid-listens",
    "invalid-name",
    "invalid-port",
    "invalid-selector",
    "limit",
    "mapped-cidr",
    "matches-nothing",
    "merge-key",
    "missing-field",
    "never-permitted",
    "no-policy-file",
    "not-utf8",
    "own-address",
    "protocol-without-ports",
    "recursive-alias",
    "reserved-name",
    "reserved-twice",
    "reversed-range",
    "syntax",
    "tag",
    "too-deep",
    "too-many-files",
    TOO_MANY,
    "unknown-anchor",
    "unknown-choice",
    "unknown-field",
    "unknown-mode",
    "unknown-name",
    "unknown-protocol",
    "unknown-treatment",
    "unreadable",
    "unsupported-version",
    "wrong-type",
];

/// Whether a finding keeps the policy from being used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy cannot be used.
    Error,
    /// The policy can be used, but it probably says something other than what was meant.
    Warning,
}

impl Severity {
    /// The word that opens a rendered finding.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong with a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Whether the policy can still be used.
    pub severity: Severity,
    /// A stable word for the kind of finding.
    pub code: &'static str,
    /// One line, lower case, without a full stop.
    pub message: String,
    /// Where it is.
    pub location: Location,
    /// The offending source text; empty where something is missing or the file could not be read.
    pub text: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Other places that the finding is about, each with what is there.
    #[serde(serialize_with = "serialize_related")]
    pub related: Vec<(Location, String)>,
    /// The source line, for rendering.
    #[serde(skip)]
    pub excerpt: Option<Excerpt>,
}

/// A source line, cut to what fits on a screen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Excerpt {
    line: String,
    start: usize,
    width: usize,
}

impl Finding {
    /// A finding about a whole file.
    pub fn of_file(severity: Severity, code: &'static str, location: Location, message: String) -> Self {
        debug_assert!(CODES.contains(&code), "{code} is not in the list");
        Self {
            severity,
            code,
            message,
            location,
            text: String::new(),
            hint: None,
            related: Vec::new(),
            excerpt: None,
        }
    }

    /// A finding about the `len` bytes of `source` from `start` on.
    pub fn of_text(
        severity: Severity,
        code: &'static str,
        location: Location,
        message: String,
        source: &str,
        start: usize,
        len: usize,
    ) -> Self {
        let start = floor_char_boundary(source, start);
        let end = floor_char_boundary(source, start.saturating_add(len));
        let text = source[start..end].chars().take(TEXT_CHARS).collect();
        let excerpt = Some(Excerpt::new(source, start, end));
        Self { text, excerpt, ..Self::of_file(severity, code, location, message) }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds another place, and what is there.
    #[must_use]
    pub fn related(mut self, location: Location, what: impl Into<String>) -> Self {
        self.related.push((location, what.into()));
        self
    }

    /// Several lines of plain text, the last of them ended.
    pub fn render(&self) -> String {
        let mut out = format!("{}[{}]: {}\n", self.severity.word(), self.code, printable(&self.message));
        let mut line = |args: std::fmt::Arguments<'_>| {
            out.write_fmt(args).expect("writing to a String does not fail");
            out.push('\n');
        };
        line(format_args!("  --> {}", printable(&self.location.to_string())));
        if let Some(Excerpt { line: source, start, width }) = &self.excerpt {
            line(format_args!("   | {source}"));
            line(format_args!("   | {}{}", " ".repeat(*start), "^".repeat(*width)));
        }
        for (location, what) in &self.related {
            line(format_args!("   note: {}: {}", printable(&location.to_string()), printable(what)));
        }
        if let Some(hint) = &self.hint {
            line(format_args!("   hint: {}", printable(hint)));
        }
        out
    }
}

impl Excerpt {
    /// Whether it is no longer than this, with its mark.
    pub(super) fn is_at_most(&self, chars: usize) -> bool {
        // A character has up to four bytes.
        self.line.len() <= 4 * chars && self.start <= chars && self.width <= chars
    }

    fn new(source: &str, start: usize, end: usize) -> Self {
        // Looks no further than what is shown, so that a file of one huge line costs nothing per finding.
        let before = &source[floor_char_boundary(source, start.saturating_sub(4 * EXCERPT_CHARS))..start];
        let before = before.rsplit('\n').next().unwrap_or(before).trim_start_matches('\u{feff}');
        let after = &source[start..floor_char_boundary(source, start.saturating_add(4 * EXCERPT_CHARS))];
        let after = after.split(['\n', '\r']).next().unwrap_or(after);

        let marked = source[start..end].split(['\n', '\r']).next().unwrap_or_default().trim_end();
        let marked = marked.chars().take(EXCERPT_CHARS / 2).count().max(1);
        let total_before = before.chars().count();
        let kept_before = total_before.min(EXCERPT_CHARS - marked);
        let total_after = after.chars().count();
        let kept_after = total_after.min(EXCERPT_CHARS - kept_before);

        let mut line = String::new();
        let mut start = kept_before;
        if kept_before < total_before {
            line.push_str("...");
            start += 3;
        }
        line.extend(before.chars().skip(total_before - kept_before).map(printable_char));
        line.extend(after.chars().take(kept_after).map(printable_char));
        if kept_after < total_after {
            line.push_str("...");
        }
        Self { line: line.trim_end().to_owned(), start, width: marked }
    }
}

/// What is wrong with a piece of text, before it is known where the text stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// As in [`Finding::code`].
    pub code: &'static str,
    /// As in [`Finding::message`].
    pub message: String,
    /// As in [`Finding::hint`].
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Findings as they are made: bounded, but counted to the end.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    errors: Kept,
    warnings: Kept,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    list: Vec<Finding>,
    more: usize,
}

/// Findings that there are besides those that were kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// Those that are errors.
    pub errors: usize,
    /// Those that are warnings.
    pub warnings: usize,
}

impl LeftOut {
    /// What the last finding says of them; nothing if there are none.
    fn message(self) -> Option<String> {
        let count = |number: usize, what: &str| match number {
            0 => None,
            1 => Some(format!("1 more {what}")),
            _ => Some(format!("{number} more {what}s")),
        };
        match (count(self.errors, "error"), count(self.warnings, "warning")) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(format!("{one} left out")),
            (Some(errors), Some(warnings)) => Some(format!("{errors} and {warnings} left out")),
        }
    }
}

impl Findings {
    /// Whether another finding of this severity would be kept, so that its text is worth making.
    pub fn wants(&self, severity: Severity) -> bool {
        match severity {
            Severity::Error => self.errors.list.len() < MAX_FINDINGS,
            Severity::Warning => self.warnings.list.len() < MAX_FINDINGS,
        }
    }

    /// Keeps a finding, or counts it if there are too many.
    pub fn add(&mut self, finding: Finding) {
        self.add_with(finding.severity, || finding);
    }

    /// The same with a finding of this severity that is made only if it is kept.
    pub fn add_with(&mut self, severity: Severity, make: impl FnOnce() -> Finding) {
        let kept = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if kept.list.len() < MAX_FINDINGS {
            kept.list.push(make());
        } else {
            kept.more += 1;
        }
    }

    /// Whether there was an error.
    pub fn has_errors(&self) -> bool {
        !self.errors.list.is_empty()
    }

    /// How many were counted and not kept.
    pub fn left_out(&self) -> LeftOut {
        LeftOut { errors: self.errors.more, warnings: self.warnings.more }
    }

    /// All findings in the order of their locations, errors before warnings in one place. Where some are left out, the last
    /// one says how many.
    pub fn into_sorted(self) -> Vec<Finding> {
        let left_out = self.left_out();
        let mut all = self.errors.list;
        all.extend(self.warnings.list);
        all.sort_by(|a, b| (&a.location, a.severity, a.code).cmp(&(&b.location, b.severity, b.code)));
        if let (Some(message), Some(last)) = (left_out.message(), all.last()) {
            let severity = if left_out.errors > 0 { Severity::Error } else { Severity::Warning };
            all.push(Finding::of_file(severity, TOO_MANY, last.location.clone(), message));
        }
        all
    }
}

/// Source text in a message: short, and without what a terminal would obey.
pub(crate) fn quoted(text: &str) -> String {
    const CHARS: usize = 64;
    let mut out = String::from("`");
    out.extend(text.chars().take(CHARS).map(printable_char));
    if text.chars().nth(CHARS).is_some() {
        out.push_str("...");
    }
    out.push('`');
    out
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

impl Serialize for Location {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Location", 3)?;
        out.serialize_field("file", &self.file.to_string_lossy())?;
        out.serialize_field("line", &self.line)?;
        out.serialize_field("column", &self.column)?;
        out.end()
    }
}

fn serialize_related<S: serde::Serializer>(
    related: &[(Location, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Related<'a> {
        location: &'a Location,
        message: &'a str,
    }
    serializer.collect_seq(related.iter().map(|(location, message)| Related { location, message }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Finding, Findings, MAX_FINDINGS, Severity, TOO_MANY, quoted};
    use crate::policy::Location;

    fn location(line: u32) -> Location {
        Location { file: Path::new("a.yaml").into(), line, column: 1 }
    }

    fn finding(severity: Severity, line: u32) -> Finding {
        Finding::of_file(severity, "syntax", location(line), String::from("message"))
    }

    #[test]
    fn long_lines_are_windowed_around_the_mark() {
        let source = format!("{}BAD{}", "a".repeat(10_000), "b".repeat(10_000));
        let rendered = Finding::of_text(
            Severity::Error,
            "syntax",
            location(1),
            String::from("message"),
            &source,
            10_000,
            3,
        )
        .render();
        let lines: Vec<&str> = rendered.lines().collect();
        assert!(lines.iter().all(|line| line.len() < 140), "{rendered}");
        let column = lines[3].find("^^^").expect("the mark is there");
        assert_eq!(&lines[2][column..column + 3], "BAD");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        let source = "a: \u{1b}[31m\u{202e}x\u{7}";
        let finding = Finding::of_text(
            Severity::Error,
            "syntax",
            location(1),
            format!("unknown {}", quoted(&source[3..])),
            source,
            3,
            5,
        );
        let rendered = finding.hint("\u{1b}[0m").render();
        assert!(rendered.chars().all(|c| c == '\n' || !c.is_control()), "{rendered:?}");
        assert!(!rendered.contains('\u{202e}'));
    }

    #[test]
    fn errors_are_not_crowded_out_and_the_rest_is_counted() {
        let mut findings = Findings::default();
        for line in 0..5_000 {
            findings.add(finding(Severity::Warning, line));
        }
        assert!(!findings.has_errors());
        findings.add(finding(Severity::Error, 7));
        assert!(findings.has_errors());
        let all = findings.into_sorted();
        assert_eq!(all.len(), MAX_FINDINGS + 2);
        assert_eq!(all.iter().filter(|finding| finding.severity == Severity::Error).count(), 1);
        assert_eq!(all.last().map(|finding| finding.message.as_str()), Some("4000 more warnings left out"));
        assert!(all[..MAX_FINDINGS].is_sorted_by_key(|finding| &finding.location));
    }

    #[test]
    fn one_finding_says_what_is_left_out_of_both() {
        for (errors, warnings, expected) in [
            (1_000, 1_000, None),
            (1_001, 0, Some("1 more error left out")),
            (3_000, 999, Some("2000 more errors left out")),
            (3_000, 2_500, Some("2000 more errors and 1500 more warnings left out")),
        ] {
            let mut findings = Findings::default();
            for (severity, number) in [(Severity::Error, errors), (Severity::Warning, warnings)] {
                (0..number).for_each(|line| findings.add_with(severity, || finding(severity, line)));
            }
            let left_out = findings.left_out();
            let all = findings.into_sorted();
            let (last, kept): (Vec<_>, Vec<_>) = all.iter().partition(|finding| finding.code == TOO_MANY);
            assert_eq!(last.first().map(|finding| finding.message.as_str()), expected);
            assert!(last.len() <= 1);
            assert_eq!(kept.len() + left_out.errors + left_out.warnings, (errors + warnings) as usize);
        }
    }
}
