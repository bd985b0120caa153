//! Which lines of a policy are other ones, and what it means then: so that of a million rules only those are parsed.
//!
//! Of text nothing is looked at here but where lines end. Which part of a document is a list of lines with a rule on each
//! is told by whoever has parsed the whole; if a change lies elsewhere, or makes a line another kind of thing, the whole
//! is parsed again.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use enforcer_common::limits::MAX_RULES;
use serde::{Deserialize, Serialize};

use super::{Document, Policy, Rule, Rules};

/// Bytes that are compared at a time.
const BLOCK: usize = 4096;

/// The end of a document, each line of which is one rule, in the form in which lines are read without the parser of YAML.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tail {
    /// The number of the document.
    pub document: usize,
    /// Its first byte in there.
    pub start: usize,
    /// The number of its first line.
    pub line: u32,
    /// Spaces before each rule.
    pub indent: usize,
    /// The number of its first rule.
    pub first: usize,
    /// How many rules it has.
    pub rules: usize,
}

/// Lines in the place of others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// The number of the document.
    pub document: usize,
    /// The number of the first line.
    pub line: u32,
    /// Spaces before each rule.
    pub indent: usize,
    /// The bytes that are there now.
    pub text: Range<usize>,
    /// How many lines they are.
    pub lines: usize,
    /// The numbers of the rules that were there.
    pub rules: Range<usize>,
    /// The place of the tail among the tails.
    tail: usize,
}

/// What makes documents that were parsed what they are now; nothing if it is more than lines of their tails.
pub fn edits(before: &[Document], now: &[Document], tails: &[Tail]) -> Option<Vec<Edit>> {
    if before.len() != now.len() {
        return None;
    }
    let mut edits = Vec::new();
    for (document, (before, now)) in before.iter().zip(now).enumerate() {
        if before.file != now.file {
            return None;
        }
        if Arc::ptr_eq(&before.text, &now.text) || before.text == now.text {
            continue;
        }
        let (place, tail) = tails.iter().enumerate().find(|(_, tail)| tail.document == document)?;
        edits.push(edit(before.text.as_bytes(), now.text.as_bytes(), (place, tail))?);
    }
    Some(edits)
}

fn edit(before: &[u8], now: &[u8], (place, tail): (usize, &Tail)) -> Option<Edit> {
    let same = common(before.chunks(BLOCK), now.chunks(BLOCK)) * BLOCK;
    let (rest_before, rest_now) = (before.get(same..)?, now.get(same..)?);
    let same = same + common(rest_before.iter(), rest_now.iter());
    // The line begins behind the last end of one that is in both.
    let start = now.get(..same)?.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if start < tail.start {
        return None;
    }
    let (rest_before, rest_now) = (before.get(start..)?, now.get(start..)?);
    let same = common(rest_before.rchunks(BLOCK), rest_now.rchunks(BLOCK)) * BLOCK;
    let head = |bytes: &'_ [u8]| bytes.len().saturating_sub(same);
    let (head_before, head_now) = (rest_before.get(..head(rest_before))?, rest_now.get(..head(rest_now))?);
    let same = same.min(rest_before.len()).min(rest_now.len())
        + common(head_before.iter().rev(), head_now.iter().rev());
    let (old_end, new_end) = (rest_before.len() - same, rest_now.len() - same);
    let ends_line = |bytes: &[u8], end: usize| end == 0 || bytes.get(end - 1) == Some(&b'\n');
    let skipped = if ends_line(rest_before, old_end) && ends_line(rest_now, new_end) {
        0
    } else {
        let rest = rest_now.get(new_end..)?;
        rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1)
    };
    let (old, new) = (rest_before.get(..old_end + skipped)?, rest_now.get(..new_end + skipped)?);
    let first = lines(before.get(tail.start..start)?);
    let (gone, come) = (lines(old), lines(new));
    // A list without a line is no list of lines.
    if first + gone > tail.rules || tail.rules - gone + come == 0 {
        return None;
    }
    Some(Edit {
        document: tail.document,
        line: tail.line.checked_add(u32::try_from(first).ok()?)?,
        indent: tail.indent,
        text: start..start + new.len(),
        lines: come,
        rules: tail.first + first..tail.first + first + gone,
        tail: place,
    })
}

/// How many the two have in common at their beginning.
fn common<T: PartialEq>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// What a policy means after edits, for each of which the rules of its lines are given; nothing if a rule's name is there
/// twice then, or there are too many rules.
pub fn apply(
    policy: &Policy,
    tails: &[Tail],
    edits: &[Edit],
    rules: Vec<Vec<Rule>>,
) -> Option<(Policy, Vec<Tail>)> {
    let (mut next, mut tails) = (policy.rules.clone(), tails.to_vec());
    let mut fresh: HashSet<Box<str>> = HashSet::new();
    for rule in rules.iter().flatten() {
        if !fresh.insert(rule.name.clone()) {
            return None;
        }
    }
    for edit in edits {
        for rule in edit.rules.clone().filter_map(|number| policy.rules.get(number)) {
            fresh.remove(&rule.name);
        }
    }
    // From the last one on, so that the numbers of those before stay what they are.
    for (edit, rules) in edits.iter().zip(rules).rev() {
        let (gone, come) = (edit.rules.len(), rules.len());
        next = next.with(edit.rules.clone(), rules);
        let tail = tails.get_mut(edit.tail)?;
        let behind = edit.rules.start + come..tail.first + tail.rules - gone + come;
        tail.rules = tail.rules - gone + come;
        if come != gone {
            next = moved(&next, behind, gone, come)?;
            for tail in tails.iter_mut().skip(edit.tail + 1) {
                tail.first = tail.first - gone + come;
            }
        }
    }
    if next.len() > MAX_RULES || (!fresh.is_empty() && is_taken(&next, &fresh)) {
        return None;
    }
    Some((Policy { rules: next, ..policy.without_rules() }, tails))
}

/// The same rules, of which some stand further down, or up: where `gone` lines were before them, there are `come`.
fn moved(rules: &Rules, range: Range<usize>, gone: usize, come: usize) -> Option<Rules> {
    let (gone, come) = (u32::try_from(gone).ok()?, u32::try_from(come).ok()?);
    let moved = range.clone().map(|number| {
        let mut rule = rules.get(number)?.clone();
        rule.location.line = rule.location.line.checked_sub(gone)?.checked_add(come)?;
        Some(rule)
    });
    let moved: Option<Vec<Rule>> = moved.collect();
    Some(rules.with(range, moved?))
}

/// Whether one of the names, each of which is that of a rule, is that of a second one.
fn is_taken(rules: &Rules, names: &HashSet<Box<str>>) -> bool {
    let lengths: HashSet<usize> = names.iter().map(|name| name.len()).collect();
    let named = rules.iter().filter(|rule| lengths.contains(&rule.name.len()) && names.contains(&rule.name));
    named.take(names.len() + 1).count() > names.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::{self, Question};
    use super::super::{Document, Meaning, parse};
    use super::{apply, edits};

    const HEAD: &str =
        "version: 1\nservices:\n  a: { match: [{ cgroup: /a }] }\n  b: { match: [{ cgroup: /b }] }\n";

    /// What documents mean that differ from others in some lines; nothing if the whole is to be parsed.
    fn edited(before: &[Document], known: &Meaning, now: &[Document]) -> Option<Meaning> {
        let policy = known.policy.as_ref()?;
        let edits = edits(before, now, &known.tails)?;
        let (mut question, mut answer) = (Vec::new(), Vec::new());
        wire::write_lines(policy, now, &edits, &mut question).expect("memory takes it");
        let asked = wire::read_question(&question).expect("a whole question");
        let Question::Lines(lines) = asked else { panic!("{asked:?}") };
        wire::answer_lines(&lines, &mut answer).expect("memory takes it");
        for length in 0..answer.len() {
            wire::read_lines(&answer[..length], policy, now, &edits).expect_err("cut short");
        }
        let rules = wire::read_lines(&answer, policy, now, &edits).expect("a whole answer")?;
        let (policy, tails) = apply(policy, &known.tails, &edits, rules)?;
        let (findings, left_out) = (known.findings.clone(), known.left_out);
        Some(Meaning { policy: Some(policy), findings, left_out, tails })
    }

    fn documents(texts: &[String]) -> Vec<Document> {
        let documents = texts.iter().enumerate();
        documents.map(|(number, text)| Document::new(format!("{number}.yaml"), text.as_str())).collect()
    }

    fn line(name: usize, port: usize) -> String {
        format!("  - {{ name: r{name}, from: a, to: b, ports: [{port}/tcp] }}\n")
    }

    fn text(head: &str, lines: &[String]) -> String {
        format!("{head}allow:\n{}", lines.concat())
    }

    #[test]
    fn lines_that_are_other_ones_are_parsed_alone() {
        let lines: Vec<String> = (0..6).map(|number| line(number, 80 + number)).collect();
        let others: Vec<String> = (6..9).map(|number| line(number, 80)).collect();
        let before = documents(&[text(HEAD, &lines), text("version: 1\n", &others)]);
        let known = parse(&before, Vec::new());
        assert_eq!(known.tails.len(), 2);
        type Change = fn(&mut Vec<String>);
        let changes: [(&str, Change, bool); 15] = [
            ("nothing", |_| {}, true),
            ("a port", |lines| lines[2] = line(2, 9), true),
            ("the first", |lines| lines[0] = line(0, 9), true),
            ("the last", |lines| lines[5] = line(5, 9), true),
            ("two apart", |lines| (lines[1], lines[4]) = (line(1, 9), line(4, 9)), true),
            ("one is gone", |lines| drop(lines.remove(3)), true),
            ("one more", |lines| lines.insert(3, line(77, 9)), true),
            ("one more at the end", |lines| lines.push(line(77, 9)), true),
            ("two change places", |lines| lines.swap(2, 3), true),
            ("the same line twice", |lines| lines.insert(3, line(3, 83)), false),
            ("a name of the other file", |lines| lines[2] = line(7, 9), false),
            ("all are gone", Vec::clear, false),
            ("another form", |lines| lines[2].insert_str(4, "  "), false),
            ("nobody's name", |lines| lines[2] = lines[2].replace("from: a", "from: c"), false),
            ("no end", |lines| lines[5] = lines[5].trim_end().to_owned(), false),
        ];
        for (what, change, is_short) in changes {
            let mut changed = lines.clone();
            change(&mut changed);
            let now = documents(&[text(HEAD, &changed), text("version: 1\n", &others)]);
            let short = edited(&before, &known, &now);
            assert_eq!(short.is_some(), is_short, "{what}");
            if let Some(short) = short {
                assert_eq!(format!("{short:?}"), format!("{:?}", parse(&now, Vec::new())), "{what}");
            }
        }
        // What stands before the lines, a file more or less, or one of another name.
        for unlike in [
            documents(&[text(&HEAD.replace("/b", "/c"), &lines), text("version: 1\n", &others)]),
            documents(&[text(HEAD, &lines)]),
            documents(&[
                text(HEAD, &lines),
                text("version: 1\n", &others),
                text("version: 1\n", &[line(77, 1)]),
            ]),
            vec![before[0].clone(), Document::new("2.yaml", before[1].text.clone())],
        ] {
            assert!(edited(&before, &known, &unlike).is_none());
        }
    }

    #[test]
    fn a_policy_of_another_form_is_parsed_as_a_whole() {
        let block = format!("{HEAD}allow:\n  - name: r1\n    from: a\n    to: b\n    ports: [80/tcp]\n");
        let before = documents(std::slice::from_ref(&block));
        let known = parse(&before, Vec::new());
        assert!(known.policy.is_some() && known.tails.is_empty());
        assert!(edited(&before, &known, &documents(&[block.replace("80/", "81/")])).is_none());
    }

    fn some_lines() -> impl Strategy<Value = Vec<(usize, usize)>> {
        prop::collection::vec((0_usize..40, 1_usize..4), 0..12)
    }

    proptest! {
        #[test]
        fn a_policy_means_what_it_means_however_it_was_read(
            first in some_lines(),
            second in some_lines(),
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0_usize..4, 0_usize..40, 1_usize..4), 1..6),
        ) {
            let lines = |numbers: &[(usize, usize)]| numbers.iter().map(|(name, port)| line(*name, *port)).collect::<Vec<_>>();
            let mut files = [lines(&first), lines(&second)];
            let render = |files: &[Vec<String>; 2]| documents(&[text(HEAD, &files[0]), text("version: 1\n", &files[1])]);
            let mut before = render(&files);
            let mut known = parse(&before, Vec::new());
            for (is_first, at, deed, name, port) in steps {
                let file = &mut files[usize::from(is_first)];
                let at = at.index(file.len() + 1);
                match (deed, at < file.len()) {
                    (0, true) => drop(file.remove(at)),
                    (1, true) => file[at] = line(name, port),
                    (_, _) => file.insert(at, line(name, port)),
                }
                let now = render(&files);
                let whole = parse(&now, Vec::new());
                if let Some(short) = edited(&before, &known, &now) {
                    prop_assert_eq!(format!("{short:?}"), format!("{whole:?}"));
                    known = short;
                } else {
                    known = whole;
                }
                before = now;
            }
        }
    }
}
