//! What people read about a wrong policy, word by word: each case in `findings/` is a file or a directory, with the
//! expected output beside it. `BLESS=1` writes the output that there is.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use enforcer::policy::finding::CODES;
use enforcer::policy::{Document, Severity, compile_documents};
use enforcer::validate::{self, Format};

const CASES: &str = "tests/findings";

/// The output for a case, and whether the policy is valid.
fn validate(path: &Path) -> (String, bool) {
    let mut out = Vec::new();
    let valid = validate::run(&[path.to_owned()], Format::Text, &mut out).expect("a Vec takes all");
    (String::from_utf8(out).expect("the output is text"), valid)
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(CASES)
        .expect("tests run in the directory of their package")
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    // One case is about a path at which nothing is.
    cases.push(Path::new(CASES).join("absent.yaml"));
    cases.sort();
    cases
}

fn compare(case: &Path, found: &str, failures: &mut Vec<String>) {
    let expected = case.with_extension("txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&expected, found).expect("the expectation can be written");
    }
    let text = fs::read_to_string(&expected).unwrap_or_default();
    if text != found {
        failures.push(format!(
            "{} differs.\n--- expected\n{text}--- found\n{found}---\nBLESS=1 accepts what was found",
            expected.display()
        ));
    }
}

#[test]
fn every_finding_reads_as_expected() {
    let mut failures = Vec::new();
    for case in cases() {
        let (found, valid) = validate(&case);
        assert_eq!(valid, found.contains("policy is valid"), "{}", case.display());
        compare(&case, &found, &mut failures);
    }
    for (name, documents) in large_documents() {
        let loaded = compile_documents(&documents);
        assert!(loaded.policy.is_none(), "{name}");
        // Thousands of findings are no expectation to read; the last few tell what the case is about.
        let errors: Vec<_> =
            loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        let last = &errors[errors.len().saturating_sub(2)..];
        let found: Vec<String> = last.iter().map(|finding| finding.render()).collect();
        compare(&Path::new(CASES).join(name), &found.join("\n"), &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Policies one above a limit, too large to be kept as files.
fn large_documents() -> Vec<(&'static str, Vec<Document>)> {
    let document = |text: String| vec![Document::new("large.yaml", format!("version: 1\n{text}"))];
    let lines = |head: &str, count: usize, line: &dyn Fn(usize) -> String| {
        let mut text = format!("{head}\n");
        (0..count).for_each(|number| text.push_str(&line(number)));
        document(text)
    };
    vec![
        ("limit-services.generated", lines("services:", 65_537, &|n| format!("  s{n}: {{ match: [] }}\n"))),
        (
            "limit-selectors.generated",
            lines("services:\n  all:\n    match:", 65_537, &|n| format!("    - systemd: u{n}.service\n")),
        ),
        ("limit-rules.generated", lines("allow:", 1_048_577, &|_| String::from("  - 0\n"))),
        (
            "limit-prefixes.generated",
            lines("networks:\n  all:\n    cidrs:", 65_537, &|n| {
                format!("    - 10.{}.{}.0/28\n", n >> 8 & 255, n & 255)
            }),
        ),
        (
            "limit-patterns.generated",
            lines("services:", 20_000, &|n| format!("  s{n}: {{ match: [{{ cgroup: /*/{n} }}] }}\n")),
        ),
        ("too-many-findings.generated", lines("services:", 1_234, &|n| format!("  s{n}: x\n"))),
        (
            "too-many-names.generated",
            lines("allow:", 3_000, &|n| {
                format!("  - {{ name: r{n}, from: a{n}, to: world, ports: [0/tcp] }}\n")
            }),
        ),
    ]
}

#[test]
fn files_beyond_the_limits_are_refused() {
    let directory = std::env::temp_dir().join(format!("enforcer-findings-{}", std::process::id()));
    fs::create_dir(&directory).expect("a directory of this process's own");
    let large = directory.join("large.yaml");
    let file = fs::File::create(&large).expect("the directory is new");
    file.set_len(256 * 1024 * 1024 + 1).expect("a file with a hole needs no space");
    let (too_large, valid) = validate(&large);
    fs::remove_file(&large).expect("it was created");
    let paths: Vec<PathBuf> = (0..65_537).map(|number| directory.join(format!("{number}.yaml"))).collect();
    let mut too_many = Vec::new();
    for path in &paths {
        fs::File::create(path).expect("the directory is new");
    }
    let many_valid = validate::run(std::slice::from_ref(&directory), Format::Text, &mut too_many)
        .expect("a Vec takes all");
    fs::remove_dir_all(&directory).expect("it was created");
    assert!(!valid && !many_valid);
    let mut failures = Vec::new();
    let name = directory.display().to_string();
    let place = Path::new(CASES);
    compare(&place.join("file-too-large.generated"), &too_large.replace(&name, "DIRECTORY"), &mut failures);
    let too_many = String::from_utf8(too_many).expect("the output is text");
    compare(&place.join("too-many-files.generated"), &too_many.replace(&name, "DIRECTORY"), &mut failures);
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_code_is_in_an_expectation() {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(CASES).expect("tests run in the directory of their package") {
        let path = entry.expect("the directory can be read").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let text = fs::read_to_string(&path).expect("expectations are text");
            for line in text.lines().filter(|line| line.starts_with("error[") || line.starts_with("warning["))
            {
                let code = line.split(['[', ']']).nth(1).expect("the line has a bracket");
                seen.insert(code.to_owned());
            }
        }
    }
    let known: BTreeSet<String> = CODES.iter().map(|code| (*code).to_owned()).collect();
    assert_eq!(seen, known);
    assert!(CODES.is_sorted());
}

#[test]
fn no_expectation_is_left_behind() {
    let names: BTreeSet<PathBuf> = cases().iter().map(|case| case.with_extension("txt")).collect();
    let generated = large_documents().into_iter().map(|(name, _)| name);
    let generated: BTreeSet<PathBuf> = generated
        .chain(["file-too-large.generated", "too-many-files.generated"])
        .map(|name| Path::new(CASES).join(name).with_extension("txt"))
        .collect();
    for entry in fs::read_dir(CASES).expect("tests run in the directory of their package") {
        let path = entry.expect("the directory can be read").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            assert!(names.contains(&path) || generated.contains(&path), "{} has no case", path.display());
        }
    }
}

#[test]
fn totals_are_those_of_all_findings() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let head = "version: 1\nservices:\n  web: { match: [{ systemd: web.service }] }\nallow:\n";
    for (rule, errors, warnings, closing, last_line) in [
        (
            "from: nobody, to: web, ports: [1/tcp]",
            3_000,
            0,
            "2000 more errors left out",
            "3000 errors, 0 warnings",
        ),
        (
            "from: world, to: web, ports: [0/tcp]",
            3_000,
            0,
            "2000 more errors left out",
            "3000 errors, 0 warnings",
        ),
        (
            "from: world, to: web",
            0,
            3_000,
            "2000 more warnings left out",
            "policy is valid: 1 service, 0 networks, 3000 rules (3000 warnings)",
        ),
        (
            "from: nobody, to: web",
            3_000,
            3_000,
            "2000 more errors and 2000 more warnings left out",
            "3000 errors, 3000 warnings",
        ),
        (
            "from: world, to: web, porst: [1/tcp]",
            3_000,
            0,
            "2000 more errors left out",
            "3000 errors, 0 warnings",
        ),
    ] {
        let rules: Vec<String> = (0..3_000).map(|n| format!("  - {{ name: r{n}, {rule} }}\n")).collect();
        fs::write(file.path(), format!("{head}{}", rules.concat())).expect("room for a file");
        let (text, _) = validate(file.path());
        assert_eq!(text.lines().last(), Some(last_line), "{rule}");
        assert_eq!(text.lines().filter(|line| line.contains("left out")).count(), 1, "{rule}");
        let mut out = Vec::new();
        validate::run(&[file.path().to_owned()], Format::Json, &mut out).expect("a Vec takes all");
        let report: serde_json::Value = serde_json::from_slice(&out).expect("the output is JSON");
        assert_eq!((&report["errors"], &report["warnings"]), (&errors.into(), &warnings.into()), "{rule}");
        let findings = report["findings"].as_array().expect("a list");
        assert!(findings.last().is_some_and(|last| {
            last["code"] == "too-many-findings"
                && last["message"].as_str().is_some_and(|m| m.ends_with(closing))
        }));
        let left_out = &report["left_out"];
        let number = |value: &serde_json::Value| value.as_u64().expect("a number");
        let shown = findings.len() as u64 - 1;
        assert_eq!(shown + number(&left_out["errors"]) + number(&left_out["warnings"]), errors + warnings);
    }
}

#[test]
fn json_says_the_same_as_text() {
    let case = Path::new(CASES).join("two-files");
    let mut out = Vec::new();
    let valid = validate::run(&[case], Format::Json, &mut out).expect("a Vec takes all");
    assert!(!valid);
    let report: serde_json::Value = serde_json::from_slice(&out).expect("the output is JSON");
    assert_eq!(report["valid"], false);
    let findings = report["findings"].as_array().expect("a list");
    assert_eq!(report["errors"], findings.len());
    let finding = findings
        .iter()
        .find(|finding| finding["code"] == "duplicate-rule")
        .expect("two rules of the case have one name");
    assert_eq!(
        *finding,
        serde_json::json!({
            "severity": "error",
            "code": "duplicate-rule",
            "message": "two rules are called `public`",
            "location": { "file": "tests/findings/two-files/b.yaml", "line": 9, "column": 13 },
            "text": "public",
            "hint": "give each rule a name of its own, across all files",
            "related": [{
                "location": { "file": "tests/findings/two-files/a.yaml", "line": 6, "column": 13 },
                "message": "the first is here",
            }],
        })
    );
}
