//! The project's own rules, as searches through its files.
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Every entry of the checkout's top level that is not a dotfile.
const TOP_LEVEL: [&str; 16] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-GPL-2.0",
    "LICENSE-MIT",
    "README.md",
    "enforcer",
    "enforcer-common",
    "enforcer-ebpf",
    "packaging",
    "policies",
    "target",
    "tests",
    "xtask",
];

/// A rule about one file: given its path from the workspace and its text, the numbers of the lines that break it.
type Rule = fn(&str, &str) -> Vec<usize>;

const RULES: [(&str, Rule); 10] = [
    ("a module opens with one `//!` line that says what it is", opens_with_doc),
    ("a module of files is `name.rs` beside `name/`, not `mod.rs`", mod_rs),
    ("nothing unfinished is committed", unfinished),
    ("only enforcer/src/kernel.rs and kernel/ know aya", knows_aya),
    ("only enforcer/src/policy/spec.rs, spec/ and tree.rs know YAML", knows_yaml),
    ("of policy/, only source.rs reads files", reads_files),
    ("only enforcer-ebpf/src/maps.rs declares maps", declares_maps),
    ("only enforcer-ebpf/src/ctx.rs and ctx/ dereference raw pointers", dereferences),
    ("an error of the kernel side is matched by name", drops_errors),
    ("decide.rs is compiled once and cannot panic", decide_is_total),
];

/// Applies every rule to every file.
///
/// # Errors
/// The number of findings; each is written as `file:line: rule`.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let mut findings = top_level(workspace)?;
    let mut files = Vec::new();
    collect(workspace, Path::new(""), &mut files)?;
    files.sort();
    for file in &files {
        let path = file.to_string_lossy();
        let text = fs::read_to_string(workspace.join(file)).with_context(|| format!("read {path}"))?;
        for (rule, broken) in RULES {
            findings.extend(broken(&path, &text).into_iter().map(|line| format!("{path}:{line}: {rule}")));
        }
        let exists = |target: &str| workspace.join(target).exists();
        let dead = dead_links(&path, &text, exists);
        findings
            .extend(dead.into_iter().map(|(line, target)| format!("{path}:{line}: no such file: {target}")));
    }
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        Ok(())
    } else {
        bail!("tidy: {} findings in {} files", findings.len(), files.len())
    }
}

fn top_level(workspace: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for entry in fs::read_dir(workspace).context("list the workspace")? {
        let name = entry.context("list the workspace")?.file_name().to_string_lossy().into_owned();
        if !allowed_at_top(&name) {
            findings.push(format!(
                "{name}:1: the top level is a closed list; put this into one of its directories"
            ));
        }
    }
    Ok(findings)
}

fn allowed_at_top(name: &str) -> bool {
    name.starts_with('.') || TOP_LEVEL.contains(&name)
}

/// The Rust and Markdown files below `dir`, as paths from the workspace.
fn collect(workspace: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("list {}", dir.display());
    for entry in fs::read_dir(workspace.join(dir)).with_context(context)? {
        let entry = entry.with_context(context)?;
        let path = dir.join(entry.file_name());
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if entry.file_type().with_context(context)?.is_dir() {
            if !hidden && path != Path::new("target") {
                collect(workspace, &path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}

fn opens_with_doc(path: &str, text: &str) -> Vec<usize> {
    if path.ends_with(".rs") && !text.starts_with("//! ") { vec![1] } else { Vec::new() }
}

fn mod_rs(path: &str, _: &str) -> Vec<usize> {
    if path.ends_with("/mod.rs") { vec![1] } else { Vec::new() }
}

fn unfinished(path: &str, text: &str) -> Vec<usize> {
    // Written in two halves, so that this file does not break its own rule.
    let words = [concat!("to", "do!"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("#[ig", "nore")];
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    lines_with(text.lines(), &words)
}

fn knows_aya(path: &str, text: &str) -> Vec<usize> {
    let kernel = path == "enforcer/src/kernel.rs" || path.starts_with("enforcer/src/kernel/");
    if !path.starts_with("enforcer/src/") || kernel {
        return Vec::new();
    }
    lines_with(code(text), &["aya::", "aya_obj::", "aya_log::", "use aya"])
}

fn knows_yaml(path: &str, text: &str) -> Vec<usize> {
    let reader = ["enforcer/src/policy/spec.rs", "enforcer/src/policy/tree.rs"].contains(&path)
        || path.starts_with("enforcer/src/policy/spec/");
    if !path.starts_with("enforcer/src/") || reader {
        return Vec::new();
    }
    lines_with(code(text), &["serde_yaml", "serde_saphyr"])
}

fn reads_files(path: &str, text: &str) -> Vec<usize> {
    let policy = path == "enforcer/src/policy.rs" || path.starts_with("enforcer/src/policy/");
    if !policy || path == "enforcer/src/policy/source.rs" {
        return Vec::new();
    }
    lines_with(code(text), &["std::fs", "fs::", "File::open"])
}

fn declares_maps(path: &str, text: &str) -> Vec<usize> {
    if !path.starts_with("enforcer-ebpf/") || path == "enforcer-ebpf/src/maps.rs" {
        return Vec::new();
    }
    lines_with(code(text), &["#[map]", "#[map(", "#[btf_map]", "#[btf_map("])
}

fn dereferences(path: &str, text: &str) -> Vec<usize> {
    let context = path == "enforcer-ebpf/src/ctx.rs" || path.starts_with("enforcer-ebpf/src/ctx/");
    if !path.starts_with("enforcer-ebpf/") || context {
        return Vec::new();
    }
    // `(*pointer).field` reads what a context points to; `(*const T)` is a type.
    let reads = |line: &str| line.match_indices("(*").any(|(at, _)| !is_pointer_type(&line[at + 2..]));
    numbered(code(text)).filter(|(_, line)| reads(line)).map(|(number, _)| number).collect()
}

fn is_pointer_type(rest: &str) -> bool {
    rest.starts_with("const ") || rest.starts_with("mut ")
}

fn drops_errors(path: &str, text: &str) -> Vec<usize> {
    if path.starts_with("enforcer-ebpf/") { lines_with(code(text), &["Err(_)"]) } else { Vec::new() }
}

fn decide_is_total(path: &str, text: &str) -> Vec<usize> {
    if path != "enforcer-common/src/decide.rs" {
        return Vec::new();
    }
    // The tests stand last in a file.
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    lines_with(code(product), &["cfg(", ".unwrap()", ".expect(", "panic!", "unreachable!", "assert"])
}

/// The relative links of a Markdown file that lead nowhere; `exists` is asked for paths from the workspace.
fn dead_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
    let mut dead = Vec::new();
    if !path.ends_with(".md") {
        return dead;
    }
    let dir = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut fenced = false;
    for (number, line) in numbered(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://") || file.starts_with("mailto:");
            if !elsewhere && !exists(&resolved(&dir.join(file))) {
                dead.push((number, target.to_owned()));
            }
        }
    }
    dead
}

/// `path` without its `.` and `..`, which a directory that is not there would otherwise make unresolvable.
fn resolved(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::Normal(name) => parts.push(name.to_string_lossy()),
        }
    }
    parts.join("/")
}

/// The lines without their comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

fn numbered<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (usize, &'a str)> {
    lines.enumerate().map(|(index, line)| (index + 1, line))
}

fn lines_with<'a>(lines: impl Iterator<Item = &'a str>, words: &[&str]) -> Vec<usize> {
    let hit = |line: &str| words.iter().any(|word| line.contains(word));
    numbered(lines).filter(|(_, line)| hit(line)).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rule with a file that breaks it, the lines that do, and one that does not.
    type Case = (Rule, (&'static str, &'static str, &'static [usize]), (&'static str, &'static str));

    #[test]
    fn every_rule_can_fail() {
        let cases: [Case; 17] = [
            (
                opens_with_doc,
                ("a/src/b.rs", "#![no_std]\n//! late\n", &[1]),
                ("a/src/b.rs", "//! It says.\n"),
            ),
            (opens_with_doc, ("a/src/b.rs", "", &[1]), ("a.md", "# Title")),
            (mod_rs, ("a/src/b/mod.rs", "//! b\n", &[1]), ("a/src/b.rs", "//! b\n")),
            (unfinished, ("a.rs", concat!("x\n// FIX", "ME\nto", "do!()"), &[2, 3]), ("a.rs", "// done\n")),
            (
                unfinished,
                ("a.rs", concat!("#[ig", "nore = \"slow\"]\n// XX", "X"), &[1, 2]),
                ("a.md", concat!("XX", "X")),
            ),
            (
                knows_aya,
                ("enforcer/src/cli.rs", "use aya::Ebpf;", &[1]),
                ("enforcer/src/kernel/load.rs", "use aya::Ebpf;"),
            ),
            (
                knows_aya,
                ("enforcer/src/lib.rs", "\naya_log::init()", &[2]),
                ("enforcer/src/kernel.rs", "aya::x()"),
            ),
            (
                knows_aya,
                ("enforcer/src/a.rs", "fn f(e: aya::Ebpf)", &[1]),
                ("enforcer/src/a.rs", "// aya::Ebpf does"),
            ),
            (
                knows_aya,
                ("enforcer/src/a.rs", "aya_obj::Object", &[1]),
                ("tests/src/lib.rs", "use aya::Ebpf;"),
            ),
            (
                knows_yaml,
                ("enforcer/src/a.rs", "serde_yaml::x()", &[1]),
                ("enforcer/src/policy/spec.rs", "serde_yaml::x()"),
            ),
            (
                reads_files,
                ("enforcer/src/policy/a.rs", "use std::fs;", &[1]),
                ("enforcer/src/policy/source.rs", "use std::fs;"),
            ),
            (
                reads_files,
                ("enforcer/src/policy.rs", "fs::read(p)", &[1]),
                ("enforcer/src/audit.rs", "fs::read(p)"),
            ),
            (
                declares_maps,
                ("enforcer-ebpf/src/a.rs", "#[btf_map]", &[1]),
                ("enforcer-ebpf/src/maps.rs", "#[map]"),
            ),
            (
                dereferences,
                ("enforcer-ebpf/src/a.rs", "(*ctx.sk).x", &[1]),
                ("enforcer-ebpf/src/ctx.rs", "(*ctx.sk).x"),
            ),
            (
                dereferences,
                ("enforcer-ebpf/src/a.rs", "f((*raw).a)", &[1]),
                ("enforcer-ebpf/src/a.rs", "f(*const u8)"),
            ),
            (
                drops_errors,
                ("enforcer-ebpf/src/a.rs", "Err(_) => 1", &[1]),
                ("enforcer-ebpf/src/a.rs", "Err(Full) => 1"),
            ),
            (
                decide_is_total,
                ("enforcer-common/src/decide.rs", "\nx.unwrap()\n#[cfg(bpf)]", &[2, 3]),
                ("enforcer-common/src/decide.rs", "// no panic\n#[cfg(test)]\nmod tests { x.unwrap() }"),
            ),
        ];
        for (rule, (path, text, lines), (good_path, good_text)) in cases {
            assert_eq!(rule(path, text), lines, "{path}: {text}");
            assert!(rule(good_path, good_text).is_empty(), "{good_path}: {good_text}");
        }
        for (name, rule) in RULES {
            assert!(
                cases.iter().any(|(tried, ..)| std::ptr::fn_addr_eq(*tried, rule)),
                "no case for: {name}"
            );
        }
    }

    #[test]
    fn the_top_level_is_closed() {
        assert!(allowed_at_top("README.md") && allowed_at_top(".ci"));
        assert!(!allowed_at_top("src") && !allowed_at_top("notes.md"));
    }

    #[test]
    fn a_link_to_nothing_is_found() {
        let exists = |path: &str| path == "README.md" || path == "policies/web.yaml";
        let text = "[a](web.yaml) [b](../README.md#start) [c](#here) [d](https://example.org/x)\n```\n[e](no)\n```\n[f](gone.md#x)";
        assert_eq!(dead_links("policies/README.md", text, exists), [(5, "gone.md#x".to_owned())]);
        assert_eq!(dead_links("README.md", "[a](./web.yaml)", exists), [(1, "./web.yaml".to_owned())]);
        assert!(dead_links("a.rs", "[a](no)", exists).is_empty());
    }
}
