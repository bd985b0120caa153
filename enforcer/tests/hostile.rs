//! Documents that mean harm: each is answered with findings, in time and in bounded memory.
#![forbid(unsafe_code)]

use std::num::NonZero;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use enforcer::policy::{Document, Loaded, compile_documents};
use proptest::prelude::*;

fn compile(text: impl Into<std::sync::Arc<str>>) -> Loaded {
    let loaded = compile_documents(&[Document::new("hostile.yaml", text)]);
    let has_errors =
        loaded.findings.iter().any(|finding| finding.severity == enforcer::policy::Severity::Error);
    assert_eq!(loaded.policy.is_none(), has_errors);
    for finding in &loaded.findings {
        assert!(finding.location.line >= 1 && finding.location.column >= 1);
        assert!(finding.render().len() < 4_096, "a finding is for reading");
    }
    loaded
}

#[test]
fn bombs_are_answered_in_time() {
    let repeat = |piece: &str, count: usize| piece.repeat(count);
    let laughs = (1..30).fold(String::from("version: 1\na0: &a0 [x, x]\n"), |text, level| {
        let below = format!("*a{}, ", level - 1).repeat(10);
        format!("{text}a{level}: &a{level} [{below}]\n")
    });
    let aliased_rules = format!(
        "version: 1\nservices: {{ w: {{ match: [{{ systemd: w.service }}] }} }}\nx: &p [{}]\nallow:\n{}",
        "80/tcp, ".repeat(10_000),
        (0..10_000)
            .map(|n| format!("  - {{ name: r{n}, from: world, to: w, ports: *p }}\n"))
            .collect::<String>()
    );
    let unknown_names = (0..30_000).fold(String::from("version: 1\nallow:\n"), |text, n| {
        text + &format!("  - {{ name: r{n}, from: servicf-{n}, to: {n}-servicf }}\n")
    }) + "services:\n"
        + &(0..30_000).map(|n| format!("  service-{n}: {{ match: [] }}\n")).collect::<String>();
    let cases = [
        ("aliases of aliases", laughs),
        ("a long list behind many aliases", aliased_rules),
        ("open brackets", format!("version: 1\nallow: {}", repeat("[", 10_000))),
        ("open braces", format!("version: 1\nallow: {}", repeat("{a: ", 10_000))),
        ("nested dashes", repeat("- ", 10_000)),
        ("nested keys", (0..10_000).map(|n| format!("{}k:\n", " ".repeat(n % 1_000))).collect()),
        ("nested questions", repeat("? ", 10_000)),
        ("a giant scalar", format!("version: {}", repeat("x", 50_000_000))),
        ("a giant quoted scalar", format!("version: \"{}\"", repeat("\\n", 5_000_000))),
        ("a giant key", format!("{}: 1", repeat("k", 10_000_000))),
        ("a giant comment", format!("#{}\nversion: 1", repeat("#", 10_000_000))),
        ("one key many times", format!("version: 1\n{}", repeat("version: 1\n", 300_000))),
        ("many unknown fields", format!("version: 1\n{}", repeat("vresion: 1\n", 300_000))),
        (
            "one line of rules",
            format!("version: 1\nallow: [{}]", repeat("{ name: a, from: b, to: c }, ", 50_000)),
        ),
        ("many empty documents", repeat("---\n", 300_000)),
        ("many anchors", format!("version: 1\nallow: [{}]", repeat("&a a, *a, ", 200_000))),
        ("unknown names and many to suggest", unknown_names),
        ("NUL", repeat("\0", 1_000_000)),
        ("tabs", repeat("\t", 1_000_000)),
        ("carriage returns", repeat("\r", 1_000_000)),
        ("byte order marks", repeat("\u{feff}", 100_000)),
        ("colons", repeat(":", 1_000_000)),
        ("quotes", repeat("'", 1_000_001)),
        ("percent signs", repeat("%a\n", 300_000)),
    ];
    let answer = |name: &str, text: String| {
        let start = Instant::now();
        let loaded = compile(text);
        let elapsed = start.elapsed();
        assert!(loaded.findings.len() <= 2_002, "{name}: {} findings", loaded.findings.len());
        // Generous: without optimisation, and with neighbours on the machine.
        assert!(elapsed < Duration::from_secs(120), "{name}: {elapsed:?}");
    };
    // Every processor takes the next that is left; a scope ends with the panic of any of its threads.
    let left = Mutex::new(cases.into_iter());
    let next = || left.lock().expect("nobody panics while holding it").next();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some((name, text)) = next() {
                    answer(name, text);
                }
            });
        }
    });
}

#[test]
fn line_ends_and_byte_order_marks_change_nothing() {
    let unix = "version: 1\nservices:\n  web: { match: [{ systemd: web.service }] }\n";
    for text in [unix.to_owned(), unix.replace('\n', "\r\n"), format!("\u{feff}{unix}")] {
        let loaded = compile(text);
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        let policy = loaded.policy.expect("no findings");
        assert_eq!(policy.services[0].location.to_string(), "hostile.yaml:3:3");
    }
}

/// Pieces that policies are made of, in no order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("version: 1\n"),
        Just("services:\n"),
        Just("  web: { match: [{ systemd: web.service }] }\n"),
        Just("networks:\n"),
        Just("  net: { cidrs: [192.0.2.0/24] }\n"),
        Just("allow:\n"),
        Just("  - { name: a, from: web, to: net, ports: [80/tcp] }\n"),
        Just("- "),
        Just(": "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("&a "),
        Just("*a "),
        Just("!!str "),
        Just("<<"),
        Just("\""),
        Just("'"),
        Just("---\n"),
        Just("...\n"),
        Just("# "),
        Just("\n"),
        Just("  "),
        Just("\t"),
        Just("|\n"),
        Just("? "),
        Just(","),
        Just("~"),
        Just("ü"),
        Just("\u{feff}"),
        Just("\r\n"),
        Just("match"),
        Just("web"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        compile(text);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        compile(String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn shuffled_policies_never_panic(text in pieces()) {
        compile(text);
    }
}
