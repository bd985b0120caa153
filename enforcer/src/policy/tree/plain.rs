//! The lines that generators write by the million: one rule each, in the simplest form that YAML has for it.
//!
//! [`Lines`] reads them without making nodes, as long as nothing is to be said of any of them. Otherwise they are read
//! into the very nodes that the parser would make of them; what has any other form is left to the parser, and then the
//! whole file is. Properties hold the three against each other.

use super::{IN_SOURCE, Kind, Node, narrow};
use crate::policy::edit;

/// What stands before the list.
const KEY: &str = "allow:\n";

/// The end of a file that is a list of such lines.
pub(super) struct Tail {
    /// Where the first of them begins; everything before it is the parser's.
    pub(super) start: usize,
    /// The list, and everything in it; `next` counts from the list.
    pub(super) nodes: Vec<Node>,
}

/// The lines at the end of a file, which may yet turn out to have another form.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    indent: usize,
}

/// A rule as one line has it. Its words mean themselves, and nothing to YAML.
pub(crate) struct Line<'a> {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) name: Option<Field<'a>>,
    pub(crate) from: Option<Field<'a>>,
    pub(crate) to: Option<Field<'a>>,
    pub(crate) ports: Option<Field<'a>>,
    pub(crate) comment: Option<Field<'a>>,
}

/// What stands behind a key: at least one word.
#[derive(Clone, Copy)]
pub(crate) enum Field<'a> {
    Word(&'a str),
    /// What stands between the brackets.
    List(&'a str),
}

impl<'a> Field<'a> {
    /// The words, of which a field without brackets has one.
    pub(crate) fn words(self) -> impl Iterator<Item = &'a str> {
        let (Self::Word(words) | Self::List(words)) = self;
        words.split(", ")
    }
}

/// A line has a form that is left to the parser.
pub(crate) struct Unusual;

impl<'a> Lines<'a> {
    /// Where such lines would begin: behind the first line that is `allow:`.
    pub(super) fn find(text: &'a str) -> Option<Self> {
        let at = if text.starts_with(KEY) { KEY.len() } else { text.find("\nallow:\n")? + 1 + KEY.len() };
        let lines = text.get(..at)?.bytes().filter(|byte| *byte == b'\n').count();
        let indent = text.as_bytes().get(at..)?.iter().take_while(|byte| **byte == b' ').count();
        // Without, the parser lets such a list begin elsewhere.
        (indent > 0).then_some(Self { text, at, line: narrow(lines + 1), indent })
    }

    /// Lines of which it is known where they stand.
    pub(crate) fn of(text: &'a str, line: u32, indent: usize) -> Self {
        Self { text, at: 0, line, indent }
    }

    /// What they are to a document, if all of them were read.
    pub(crate) fn tail(&self, document: usize, first: usize, rules: usize) -> edit::Tail {
        edit::Tail { document, start: self.at, line: self.line, indent: self.indent, first, rules }
    }

    /// Where the first of them begins; everything before it is the parser's.
    pub(super) fn start(&self) -> usize {
        self.at
    }

    fn read(&mut self) -> Option<Line<'a>> {
        let mut line = Line {
            line: self.line,
            // Of the bracket behind the dash and a space.
            column: narrow(self.indent + 3),
            name: None,
            from: None,
            to: None,
            ports: None,
            comment: None,
        };
        let spaces = self.text.as_bytes().get(self.at..self.at + self.indent)?;
        if spaces.iter().any(|byte| *byte != b' ') {
            return None;
        }
        self.at += self.indent;
        self.skip(b"- { ")?;
        loop {
            let field = match self.word()? {
                "name" => &mut line.name,
                "from" => &mut line.from,
                "to" => &mut line.to,
                "ports" => &mut line.ports,
                "comment" => &mut line.comment,
                _ => return None,
            };
            self.skip(b": ")?;
            let value = if self.skip(b"[").is_some() {
                let start = self.at;
                self.word()?;
                while self.skip(b"]").is_none() {
                    self.skip(b", ")?;
                    self.word()?;
                }
                Field::List(self.text.get(start..self.at - 1)?)
            } else {
                Field::Word(self.word()?)
            };
            if field.replace(value).is_some() {
                return None;
            }
            if self.skip(b" }\n").is_some() {
                self.line += 1;
                return Some(line);
            }
            self.skip(b", ")?;
        }
    }

    /// Goes on behind `words`, which must be next.
    fn skip(&mut self, words: &[u8]) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        rest.starts_with(words).then(|| self.at += words.len())
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = word(self.text.as_bytes().get(self.at..)?)?;
        let start = self.at;
        self.at += word;
        self.text.get(start..self.at)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, Unusual>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.text.len()).then(|| self.read().ok_or(Unusual))
    }
}

/// The bytes of a word that means itself, and nothing to YAML.
fn word(text: &[u8]) -> Option<usize> {
    let length = text.iter().take_while(|byte| is_plain(**byte)).count();
    let word = text.get(..length)?;
    (word.first()?.is_ascii_alphanumeric() && !word.eq_ignore_ascii_case(b"null")).then_some(length)
}

/// Reads the end of a file; nothing if it has another form.
pub(super) fn tail(text: &str) -> Option<Tail> {
    let Lines { at: start, line, indent, .. } = Lines::find(text)?;
    // Lines are about 60 bytes, and have ten nodes.
    let mut reader = Reader { bytes: text.as_bytes(), at: start, line, begin: start, nodes: Vec::new() };
    reader.nodes.reserve((text.len() - start) / 6);
    let list = reader.push(Kind::List, start + indent, 0);
    while reader.at < text.len() {
        reader.item(indent)?;
    }
    if reader.nodes.len() == 1 {
        return None;
    }
    reader.close(list, text.len());
    Some(Tail { start, nodes: reader.nodes })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
    /// Where the line begins.
    begin: usize,
    nodes: Vec<Node>,
}

impl Reader<'_> {
    fn push(&mut self, kind: Kind, start: usize, len: usize) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node {
            kind,
            start: narrow(start),
            len: narrow(len),
            line: self.line,
            column: narrow(start - self.begin) + 1,
            next: narrow(index + 1),
            text: IN_SOURCE,
        });
        index
    }

    fn close(&mut self, index: usize, end: usize) {
        let next = narrow(self.nodes.len());
        if let Some(node) = self.nodes.get_mut(index) {
            node.next = next;
            node.len = narrow(end).saturating_sub(node.start);
        }
    }

    /// Goes on behind `words`, which must be next.
    fn skip(&mut self, words: &[u8]) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        rest.starts_with(words).then(|| self.at += words.len())
    }

    /// `  - { key: value, key: [value, value] }` and the end of the line.
    fn item(&mut self, indent: usize) -> Option<()> {
        let spaces = self.bytes.get(self.at..self.at + indent)?;
        if spaces.iter().any(|byte| *byte != b' ') {
            return None;
        }
        self.at += indent;
        self.skip(b"- {")?;
        let item = self.push(Kind::Mapping, self.at - 1, 1);
        self.skip(b" ")?;
        loop {
            self.scalar()?;
            self.skip(b": ")?;
            match self.bytes.get(self.at)? {
                b'[' => self.list()?,
                _ => self.scalar()?,
            }
            if self.skip(b" }").is_some() {
                break;
            }
            self.skip(b", ")?;
        }
        self.close(item, self.at);
        self.skip(b"\n")?;
        (self.line, self.begin) = (self.line + 1, self.at);
        Some(())
    }

    fn list(&mut self) -> Option<()> {
        let list = self.push(Kind::List, self.at, 1);
        self.at += 1;
        loop {
            self.scalar()?;
            if self.skip(b"]").is_some() {
                break;
            }
            self.skip(b", ")?;
        }
        self.close(list, self.at);
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        let length = word(self.bytes.get(self.at..)?)?;
        self.push(Kind::Plain, self.at, length);
        self.at += length;
        Some(())
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::finding::Findings;
    use super::super::super::source::Document;
    use super::super::{Node, Tree};

    /// The nodes of a text by the parser alone, and by both.
    fn both(text: &str) -> (Vec<Node>, Vec<Node>, bool) {
        let document = Document::new("policy.yaml", text);
        let (mut slow, mut fast) = (Findings::default(), Findings::default());
        let parsed = Tree::parse_slowly(&document, &mut slow);
        let read = Tree::parse_tail(&document);
        let is_read = read.is_some();
        let tree = Tree::parse(&document, &mut fast);
        assert_eq!(parsed.roots, tree.roots, "{text}");
        assert_eq!(slow.into_sorted().len(), fast.into_sorted().len(), "{text}");
        (parsed.nodes, tree.nodes, is_read)
    }

    #[test]
    fn what_generators_write_is_read_and_nothing_else_is() {
        let head = "version: 1\nservices:\n  a: { match: [{ cgroup: /a }] }\nallow:\n";
        let rule = "- { name: r1, from: a-b, to: [a, b.c], ports: [80/tcp, 53/udp] }\n";
        for (text, is_read) in [
            (format!("{head}  {rule}"), true),
            (format!("{head}{rule}{rule}"), false),
            (format!("allow:\n  {rule}  {rule}"), true),
            (format!("# allow:\n{head}    {rule}    {rule}"), true),
            (format!("version: 1\n---\n{head}  {rule}"), true),
            // Other indentation, a comment, a section after it, no line feed at the end, nothing at all.
            (format!("{head}  {rule}    {rule}"), false),
            (format!("{head}  {rule}  # so\n  {rule}"), false),
            (format!("{head}  {rule}networks:\n  n: {{ cidrs: [10.0.0.0/8] }}\n"), false),
            (format!("{head}  {}", rule.trim_end()), false),
            (head.to_owned(), false),
            // Words that mean something to YAML, and brackets that do not close.
            (format!("{head}  - {{ name: null }}\n"), false),
            (format!("{head}  - {{ name: \"x\" }}\n"), false),
            (format!("{head}  - {{ name: *x }}\n"), false),
            (format!("{head}  - {{ name: x\n"), false),
            (format!("{head}  - {{ name: x }}  \n"), false),
            // The key is not of the mapping, or means something else.
            (format!("a: \"\nallow:\n  {rule}"), false),
            (format!("--- |\nallow:\n  {rule}"), false),
            (format!("a: {{\nallow:\n  {rule}"), false),
            (format!("- x\nallow:\n  {rule}"), false),
        ] {
            let (parsed, tree, read) = both(&text);
            assert_eq!(parsed, tree, "{text}");
            assert_eq!(read, is_read, "{text}");
        }
    }

    /// Mostly what is read fast.
    fn value() -> impl Strategy<Value = String> {
        let strange = ["null", "Null", "~", "-", "\"x\"", "a: b", "#", "a #b", "[]", "*a", "!a", "a:", ""];
        prop_oneof![30 => "[A-Za-z0-9][A-Za-z0-9_./-]{0,5}", 1 => prop::sample::select(strange.map(str::to_owned).to_vec())]
    }

    proptest! {
        #[test]
        fn the_nodes_are_the_parsers(
            head in prop::sample::select(vec!["", "version: 1\n", "version: 1\nservices: { a: { match: [] } }\n", "? x\n", "x: |\n", "---\n", "x: [a,\n", "&a x: 1\n"]),
            indent in 0_usize..4,
            lines in prop::collection::vec(
                prop::collection::vec(("[a-z]{1,4}", prop::collection::vec(value(), 1..3), any::<bool>()), 1..4), 0..4),
            end in prop::sample::select(vec!["", "", "", "\n", "# x\n", "a: 1\n", "  "]),
        ) {
            let mut text = format!("{head}allow:\n");
            for line in lines {
                let pairs: Vec<String> = line.into_iter().map(|(key, values, is_list)| match values.as_slice() {
                    [one] if !is_list => format!("{key}: {one}"),
                    many => format!("{key}: [{}]", many.join(", ")),
                }).collect();
                text += &format!("{}- {{ {} }}\n", " ".repeat(indent), pairs.join(", "));
            }
            text += end;
            let (parsed, tree, _) = both(&text);
            prop_assert_eq!(parsed, tree);
        }
    }
}
