//! A YAML file as a tree in which every node knows its place; knows YAML, but nothing of policies.
//!
//! Built from parser events rather than through serde: a run has to report every wrong tag, alias and duplicate key
//! with its place, and serde stops at the first of them and hides tags and repeated keys from the receiver.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};

use super::Location;
use super::finding::{Finding, Findings, Severity, quoted};
use super::source::Document;

mod plain;

pub(crate) use plain::{Field, Line, Lines, Unusual};

/// Nested lists and mappings: the format itself needs six.
const MAX_DEPTH: usize = 32;

/// Nodes that all aliases of one file may stand for: bounds what a few lines of aliases of aliases can ask for.
const MAX_ALIASED_NODES: u64 = 1_000_000;

/// Marks [`Node::text`] as being the source text itself.
const IN_SOURCE: u32 = u32::MAX;

/// The nodes of one file in the order of their appearance.
pub(crate) struct Tree<'a> {
    document: &'a Document,
    nodes: Vec<Node>,
    /// Scalars that differ from their source text: escapes, folded lines.
    rewritten: Vec<Box<str>>,
    /// One node for each YAML document of the file.
    pub(crate) roots: Vec<NodeId>,
    /// Whether the file could be read to its end.
    pub(crate) complete: bool,
    /// Rules of the last document, of which no nodes were made.
    pub(crate) lines: Option<Lines<'a>>,
    /// Whether some nodes stand for others.
    pub(crate) has_aliases: bool,
}

/// A node of one tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NodeId(u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Node {
    kind: Kind,
    /// First byte in the source.
    start: u32,
    /// Bytes in the source.
    len: u32,
    line: u32,
    column: u32,
    /// The node after this one and all that is in it.
    next: u32,
    /// For a scalar [`IN_SOURCE`] or an index into `rewritten`, for an alias the node it stands for.
    text: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Null,
    Plain,
    Quoted,
    List,
    Mapping,
    Alias,
    /// A finding tells what is wrong with it.
    Invalid,
}

/// What a node holds.
#[derive(Clone, Copy)]
pub(crate) enum Value<'t> {
    /// Nothing: an empty value, `~` or `null`.
    Null,
    /// A scalar, in quotes or not.
    Text(&'t str),
    /// A list.
    List(Children<'t>),
    /// A mapping: keys and values by turns.
    Mapping(Children<'t>),
    /// Something that has been reported already.
    Invalid,
}

impl<'a> Tree<'a> {
    /// Parses a file and reports what is no YAML, or YAML that policies do without.
    pub(crate) fn parse(document: &'a Document, findings: &mut Findings) -> Self {
        Self::parse_tail(document).unwrap_or_else(|| Self::parse_slowly(document, findings))
    }

    /// Parses a file as [`parse`](Self::parse) does, but for a long list of simple rules at its end: that is left in `lines`,
    /// and may turn out to be something else.
    pub(crate) fn parse_head(document: &'a Document, findings: &mut Findings) -> Self {
        let head = Lines::find(&document.text).and_then(|lines| {
            let tree = Self::parse_before(document, lines.start())?;
            Some(Self { lines: Some(lines), ..tree })
        });
        head.unwrap_or_else(|| Self::parse_slowly(document, findings))
    }

    /// Parses what stands before a list of rules; `None` if anything is to be reported of it, or if a list is not what
    /// belongs there. The node of the list, which is empty, is the last.
    fn parse_before(document: &'a Document, start: usize) -> Option<Self> {
        let mut findings = Findings::default();
        let tree = Self::parse_text(document, document.text.get(..start)?, &mut findings);
        if !findings.into_sorted().is_empty() {
            return None;
        }
        // The key of the list is the last thing of a mapping, and nothing has been found below it.
        let root = tree.nodes.get(tree.roots.last()?.0 as usize)?;
        let is_whole = root.kind == Kind::Mapping && root.column == 1;
        let (value, before) =
            tree.nodes.split_last().filter(|(node, _)| is_whole && node.kind == Kind::Null)?;
        let key = before.last().filter(|key| tree.source(key) == "allow" && key.column == 1)?;
        (key.kind == Kind::Plain && value.line >= key.line).then_some(tree)
    }

    /// Parses a file that ends with a long list of simple rules; `None` if it does not, or if anything is to be reported
    /// of what stands before them.
    fn parse_tail(document: &'a Document) -> Option<Self> {
        let tail = plain::tail(&document.text)?;
        let mut tree = Self::parse_before(document, tail.start)?;
        tree.nodes.pop();
        let root = tree.roots.last()?.0 as usize;
        let before = narrow(tree.nodes.len());
        tree.nodes.extend(tail.nodes.into_iter().map(|node| Node { next: node.next + before, ..node }));
        let next = narrow(tree.nodes.len());
        let end = narrow(document.text.len());
        let root = &mut tree.nodes[root];
        root.next = next;
        root.len = end.saturating_sub(root.start);
        Some(tree)
    }

    fn parse_slowly(document: &'a Document, findings: &mut Findings) -> Self {
        Self::parse_text(document, &document.text, findings)
    }

    /// Parses `text`, with which the document begins.
    fn parse_text(document: &'a Document, text: &'a str, findings: &mut Findings) -> Self {
        let mut builder = Builder {
            tree: Self {
                document,
                nodes: Vec::new(),
                rewritten: Vec::new(),
                roots: Vec::new(),
                complete: true,
                lines: None,
                has_aliases: false,
            },
            open: Vec::new(),
            anchors: HashMap::new(),
            weight: 0,
            aliased: 0,
            findings,
        };
        let options = granit_parser::options! {
            emit_unresolved_aliases: true,
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        for event in Parser::new_from_str_with_options(text, options) {
            match event {
                Ok((event, span)) => builder.event(event, span),
                Err(error) => {
                    builder.syntax_error(&error);
                    break;
                }
            }
        }
        builder.tree
    }

    /// What the node holds, aliases followed.
    pub(crate) fn value(&self, id: NodeId) -> Value<'_> {
        let mut index = id.0;
        let node = loop {
            let node = &self.nodes[index as usize];
            if node.kind != Kind::Alias {
                break node;
            }
            index = node.text;
        };
        let children = Children { tree: self, at: index + 1, end: node.next };
        match node.kind {
            Kind::Null => Value::Null,
            Kind::Plain | Kind::Quoted if node.text == IN_SOURCE => Value::Text(self.source(node)),
            Kind::Plain | Kind::Quoted => Value::Text(&self.rewritten[node.text as usize]),
            Kind::List => Value::List(children),
            Kind::Mapping => Value::Mapping(children),
            Kind::Alias | Kind::Invalid => Value::Invalid,
        }
    }

    /// Whether a scalar stands without quotes.
    pub(crate) fn is_plain(&self, id: NodeId) -> bool {
        self.nodes[id.0 as usize].kind == Kind::Plain
    }

    /// The file.
    pub(crate) fn file(&self) -> Arc<Path> {
        self.document.file.clone()
    }

    /// Where the node begins.
    pub(crate) fn location(&self, id: NodeId) -> Location {
        let node = &self.nodes[id.0 as usize];
        Location { file: self.document.file.clone(), line: node.line, column: node.column }
    }

    /// A finding about the node.
    pub(crate) fn finding(
        &self,
        id: NodeId,
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
    ) -> Finding {
        let node = &self.nodes[id.0 as usize];
        Finding::of_text(
            severity,
            code,
            self.location(id),
            message.into(),
            &self.document.text,
            node.start as usize,
            node.len as usize,
        )
    }

    /// The beginning of the file, for what is missing from it.
    pub(crate) fn beginning(&self) -> Location {
        Location { file: self.document.file.clone(), line: 1, column: 1 }
    }

    fn source(&self, node: &Node) -> &str {
        let (start, end) = (node.start as usize, node.start as usize + node.len as usize);
        // A quoted scalar's place includes the quotes, its text does not.
        let (start, end) = if node.kind == Kind::Quoted { (start + 1, end - 1) } else { (start, end) };
        &self.document.text[start..end]
    }
}

/// The nodes right below a node.
#[derive(Clone, Copy)]
pub(crate) struct Children<'t> {
    tree: &'t Tree<'t>,
    at: u32,
    end: u32,
}

impl Children<'_> {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// Keys with their values, for the children of a mapping.
    pub(crate) fn pairs(mut self) -> impl Iterator<Item = (NodeId, NodeId)> {
        std::iter::from_fn(move || Some((self.next()?, self.next()?)))
    }
}

impl Iterator for Children<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        if self.at >= self.end {
            return None;
        }
        let id = NodeId(self.at);
        self.at = self.tree.nodes[id.0 as usize].next;
        Some(id)
    }
}

struct Builder<'a, 'f> {
    tree: Tree<'a>,
    /// Lists and mappings that have not ended: node, anchor, and `weight` when it began.
    open: Vec<(u32, usize, u64)>,
    /// Node and weight by the parser's number for the anchor; no weight while the node has not ended.
    anchors: HashMap<usize, (u32, Option<u64>)>,
    /// Nodes so far, with every alias counted as what it stands for.
    weight: u64,
    aliased: u64,
    findings: &'f mut Findings,
}

impl<'a> Builder<'a, '_> {
    fn event(&mut self, event: Event<'a>, span: Span) {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            Event::Anchor(..) | Event::Comment(..) => {}
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.is_some(), span),
            Event::SequenceStart(_, anchor, tag) => self.begin(Kind::List, anchor, tag.is_some(), span),
            Event::MappingStart(_, anchor, tag) => self.begin(Kind::Mapping, anchor, tag.is_some(), span),
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::UnresolvedAlias(name) => {
                let id = self.push(Kind::Invalid, span);
                let message =
                    format!("nothing above this alias has the anchor {}", quoted(&format!("&{name}")));
                self.findings.add(self.tree.finding(id, Severity::Error, "unknown-anchor", message).hint(
                    "an alias is `*` and the anchor's name; put a text that begins with `*` in quotes",
                ));
            }
            // Whatever a later parser adds, a part of the policy must not be overlooked.
            _ => {
                let id = self.push(Kind::Invalid, span);
                let message = "this part of YAML has no meaning in a policy";
                self.findings.add(self.tree.finding(id, Severity::Error, "syntax", message));
            }
        }
    }

    fn push(&mut self, kind: Kind, span: Span) -> NodeId {
        let index = narrow(self.tree.nodes.len());
        let range = span.byte_range().unwrap_or_default();
        self.tree.nodes.push(Node {
            kind,
            start: narrow(range.start),
            len: narrow(range.len()),
            line: narrow(span.start.line()),
            column: narrow(span.start.col()) + 1,
            next: index + 1,
            text: IN_SOURCE,
        });
        self.weight = self.weight.saturating_add(1);
        if self.open.is_empty() {
            self.tree.roots.push(NodeId(index));
        }
        NodeId(index)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tagged: bool, span: Span) {
        let kind = match style {
            ScalarStyle::Plain if matches!(text, "" | "~" | "null" | "Null" | "NULL") => Kind::Null,
            ScalarStyle::Plain => Kind::Plain,
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Kind::Quoted,
        };
        let id = self.push(kind, span);
        let node = self.tree.nodes[id.0 as usize];
        let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) && node.len >= 2;
        let in_source = match kind {
            Kind::Plain => span.slice(&self.tree.document.text) == Some(text),
            Kind::Quoted => quoted && self.tree.source(&node) == text,
            Kind::Null | Kind::List | Kind::Mapping | Kind::Alias | Kind::Invalid => true,
        };
        if !in_source {
            self.tree.nodes[id.0 as usize].text = narrow(self.tree.rewritten.len());
            self.tree.rewritten.push(text.into());
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (id.0, Some(1)));
        }
        self.refuse_tag(tagged, id, span);
    }

    fn begin(&mut self, kind: Kind, anchor: usize, tagged: bool, span: Span) {
        let before = self.weight;
        let id = self.push(kind, span);
        if anchor != 0 {
            self.anchors.insert(anchor, (id.0, None));
        }
        self.open.push((id.0, anchor, before));
        self.refuse_tag(tagged, id, span);
    }

    fn end(&mut self, span: Span) {
        let Some((index, anchor, before)) = self.open.pop() else {
            return;
        };
        let next = narrow(self.tree.nodes.len());
        let node = &mut self.tree.nodes[index as usize];
        node.next = next;
        // A block ends where the next thing begins; a flow collection includes its closing bracket.
        let end = narrow(span.byte_range().unwrap_or_default().end);
        node.len = end.saturating_sub(node.start).max(node.len);
        if let Some((_, weight)) = self.anchors.get_mut(&anchor) {
            *weight = Some(self.weight - before);
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) {
        let id = self.push(Kind::Invalid, span);
        let problem = match self.anchors.get(&anchor) {
            Some(&(target, Some(weight))) => {
                let before = self.aliased;
                self.aliased = before.saturating_add(weight);
                self.weight = self.weight.saturating_add(weight);
                if self.aliased <= MAX_ALIASED_NODES {
                    self.tree.has_aliases = true;
                    let node = &mut self.tree.nodes[id.0 as usize];
                    node.kind = Kind::Alias;
                    node.text = target;
                    return;
                }
                if before > MAX_ALIASED_NODES {
                    return;
                }
                let message =
                    format!("aliases stand for more than {MAX_ALIASED_NODES} nodes, the limit for one file");
                ("alias-limit", message, "write the values out, or name them as a service or network")
            }
            Some((_, None)) | None => {
                let message = String::from("the alias stands inside what it stands for");
                ("recursive-alias", message, "write the value out")
            }
        };
        let (code, message, hint) = problem;
        self.findings.add(self.tree.finding(id, Severity::Error, code, message).hint(hint));
    }

    fn refuse_tag(&mut self, tagged: bool, id: NodeId, span: Span) {
        if !tagged {
            return;
        }
        let (tree, message) = (&self.tree, "tags have no meaning in a policy");
        self.findings.add_with(Severity::Error, || {
            let finding = match span.tag_span() {
                None => tree.finding(id, Severity::Error, "tag", message),
                Some(tag) => {
                    let range = tag.byte_range().unwrap_or_default();
                    let location = Location {
                        file: tree.document.file.clone(),
                        line: narrow(tag.start.line()),
                        column: narrow(tag.start.col()) + 1,
                    };
                    Finding::of_text(
                        Severity::Error,
                        "tag",
                        location,
                        message.to_owned(),
                        &tree.document.text,
                        range.start,
                        range.len(),
                    )
                }
            };
            finding.hint("remove it; put a text that begins with `!` in quotes")
        });
    }

    fn syntax_error(&mut self, error: &ScanError) {
        self.tree.complete = false;
        // What the broken document said so far may not be what it means.
        if !self.open.is_empty() {
            self.tree.roots.pop();
        }
        let kind = error.kind();
        let (code, message) = if matches!(kind, ErrorKind::RecursionLimitExceeded) {
            ("too-deep", format!("lists and mappings nest more than {MAX_DEPTH} levels deep"))
        } else {
            ("syntax", format!("not valid YAML: {}", error.info()))
        };
        let mark = error.marker();
        let mut location = Location {
            file: self.tree.document.file.clone(),
            line: narrow(mark.line().max(1)),
            column: narrow(mark.col()) + 1,
        };
        let text = &self.tree.document.text;
        let mut start = mark.byte_offset().unwrap_or_default();
        if is_unclosed_quote(kind)
            && let Some(quote) = self.open_quote(start)
        {
            let before = text.get(..quote).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default().trim_start_matches('\u{feff}');
            location.line = narrow(before.bytes().filter(|byte| *byte == b'\n').count() + 1);
            location.column = narrow(line.chars().count() + 1);
            start = quote;
        }
        let mut finding = Finding::of_text(Severity::Error, code, location, message, text, start, 1);
        finding.hint = advice(kind);
        self.findings.add(finding);
    }

    /// The first quote that begins a text between the last node and `end`.
    fn open_quote(&self, end: usize) -> Option<usize> {
        let start = self.tree.nodes.last().map_or(0, |node| node.start as usize + node.len as usize);
        let mut before = b' ';
        let mut is_comment = false;
        let bytes = self.tree.document.text.as_bytes().get(start..end)?;
        bytes
            .iter()
            .position(|byte| {
                is_comment = (is_comment || *byte == b'#' && before.is_ascii_whitespace()) && *byte != b'\n';
                let is_first = !before.is_ascii_alphanumeric();
                before = *byte;
                !is_comment && is_first && matches!(byte, b'"' | b'\'')
            })
            .map(|place| start + place)
    }
}

/// Whether the parser was looking for the end of a text in quotes, and so is far behind what is wrong.
fn is_unclosed_quote(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnclosedQuotedScalar
            | ErrorKind::InvalidQuotedScalarIndent
            | ErrorKind::DocumentIndicatorInQuotedScalar
    )
}

/// What to write instead of what is no YAML.
fn advice(kind: &ErrorKind) -> Option<String> {
    let close = |open: char| match open {
        '[' => String::from("close it with `]`"),
        _ => String::from("close it with `}`"),
    };
    let hint = match kind {
        ErrorKind::RecursionLimitExceeded => "a policy nests six levels deep at most",
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => "indent and separate with spaces",
        // Refused wherever it stands, in comments and in quotes too.
        ErrorKind::UnexpectedCharacter { character } if !character.is_ascii_graphic() => {
            let escape = format!("\\u{:04x}", u32::from(*character));
            return Some(format!("remove it; in a text in double quotes `{escape}` stands for it"));
        }
        ErrorKind::UnexpectedCharacter { .. } => "put texts with unusual characters in quotes",
        ErrorKind::MappingValueNotAllowed => {
            "one `key: value` on each line, or inside `{ }` with commas between them"
        }
        ErrorKind::SimpleKeyExpected
        | ErrorKind::InvalidSimpleKey
        | ErrorKind::FlowMappingValueAdjacentCollection => "write `key: value`, with a space after the colon",
        ErrorKind::UnclosedFlowCollection { open } | ErrorKind::MismatchedFlowCollectionEnd { open, .. } => {
            return Some(close(*open));
        }
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::DocumentIndicatorInQuotedScalar => {
            "end the text with the quote that it begins with, or indent its further lines"
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            "put all of the text into the quotes"
        }
        ErrorKind::UnknownQuotedScalarEscape => "write `\\\\` for a backslash, or take single quotes",
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => {
            "put a comma between what stands in brackets, and close them"
        }
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::InvalidIndentation => "indent all that belongs together alike",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Files are smaller than 4 GiB, see [`source`](super::source), and no count in a file exceeds its bytes.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
