//! Python's own tests of its sockets, as a service that may reach itself.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context as _, ensure};
use enforcer_tests::sandbox::PYTHON;

use super::Stage;

/// Runs everything and not only what tests sockets most.
const LONG: &str = "ENFORCER_TEST_LONG";

/// What of asyncio is run where nobody asks for everything: the rest waits for timers more than for sockets.
const SHORT: [&str; 4] = [
    "test.test_asyncio.test_streams.*",
    "test.test_asyncio.test_server.*",
    "test.test_asyncio.test_sock_lowlevel.*",
    "test.test_asyncio.test_sendfile.*",
];

/// What one run of the tests came to.
#[derive(Debug)]
struct Outcome {
    run: u64,
    skipped: u64,
    failures: BTreeSet<String>,
}

#[test]
fn python_tests_fail_and_pass_as_without_an_enforcer() -> anyhow::Result<()> {
    let (without, with) = thread::scope(|scope| {
        let without = scope.spawn(|| {
            let stage = Stage::new("python-without")?;
            tests(&stage)
        });
        let with = scope.spawn(|| {
            let stage = Stage::new("python-with")?;
            let daemon = stage.sandbox.daemon(
                "version: 1
services:
  python: { match: [{ cgroup: ROOT/python }] }
",
            )?;
            Ok::<_, anyhow::Error>((tests(&stage)?, daemon.stop()?))
        });
        (without.join(), with.join())
    });
    let without = without.map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
    let (with, finished) = with.map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
    finished.check_totals()?;
    // UDP-Lite between two sockets of one host is refused, since neither hook finds the other end: see the README. All
    // else that a service does with itself is as it was.
    for record in finished.attempts() {
        assert_eq!(record["reason"], "protocol-not-listed", "{record}");
        assert_eq!(record["protocol"], "udplite", "{record}");
    }
    let more: Vec<&String> = with.failures.difference(&without.failures).collect();
    assert!(more.iter().all(|failure| failure.contains("UDPLITE")), "{more:#?}");
    assert!(with.failures.is_superset(&without.failures), "{with:?}, but {without:?}");
    assert_eq!((with.run, with.skipped), (without.run, without.skipped));
    Ok(())
}

fn tests(stage: &Stage) -> anyhow::Result<Outcome> {
    let mut words = vec![PYTHON, "-m", "test", "-v"];
    if std::env::var_os(LONG).is_none() {
        words.extend(SHORT.iter().flat_map(|pattern| ["-m", pattern]));
    }
    words.push("test_asyncio");
    // The machine's virtual sockets are no business of IP's, and on some machines the test waits for ever.
    let sockets = [PYTHON, "-m", "test", "-v", "-i", "*VSOCK*", "test_socket"];
    let (asyncio, sockets) = thread::scope(|scope| {
        let asyncio = scope.spawn(|| stage.run("python", &words));
        let sockets = stage.run("python", &sockets);
        (asyncio.join(), sockets)
    });
    let asyncio = asyncio.map_err(|_panic| anyhow::anyhow!("a thread panicked"))??.said();
    let ran = sockets?;
    let said = format!("{asyncio}{}", ran.said());
    let mut outcome = Outcome { run: 0, skipped: 0, failures: BTreeSet::new() };
    for line in said.lines() {
        // `Ran 707 tests in 30.1s`, then `OK (skipped=104)` or `FAILED (failures=1, skipped=104)`.
        if let Some(ran) = line.strip_prefix("Ran ") {
            outcome.run +=
                ran.split(' ').next().unwrap_or_default().parse::<u64>().context(line.to_owned())?;
        } else if let Some((_, skipped)) = line.rsplit_once("skipped=") {
            if line.starts_with("OK") || line.starts_with("FAILED") {
                outcome.skipped += skipped.trim_end_matches(')').parse::<u64>().context(line.to_owned())?;
            }
        } else if line.starts_with("FAIL: ") || line.starts_with("ERROR: ") {
            outcome.failures.insert(line.to_owned());
        }
    }
    ensure!(outcome.run > 500, "Python's tests did not run: {ran}");
    Ok(outcome)
}
