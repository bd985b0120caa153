//! PostgreSQL with its own client tools.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::{Stage, assert_refused_only, denial, installed};

#[test]
fn postgresql_passes_its_own_benchmark() -> anyhow::Result<()> {
    let stage = Stage::new("pgbench")?;
    let mut daemon = stage.sandbox.daemon(
        "version: 1
services:
  database: { match: [{ cgroup: ROOT/database }], listens: [5432/tcp] }
  app: { match: [{ cgroup: ROOT/app }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: ledger, from: app, to: database, ports: [5432/tcp] }
",
    )?;
    // The server gives up being root, and must still reach its files.
    fs::set_permissions(stage.sandbox.directory(), fs::Permissions::from_mode(0o777))?;
    let programs = programs()?;
    let program = |name: &str| programs.join(name).display().to_string();
    let data = stage.file("data").display().to_string();
    let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"].map(String::from);
    let with =
        |words: &[&str]| [as_postgres.to_vec(), words.iter().map(|&word| word.into()).collect()].concat();
    let initdb =
        [&program("initdb"), "-D", &data, "--no-sync", "--auth=trust", "--username=postgres", "--locale=C"];
    stage.run("database", &with(&initdb))?.text()?;
    let postgres = [
        &program("postgres"),
        "-D",
        &data,
        "-c",
        "listen_addresses=127.0.0.1,::1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
    ];
    let _server = stage.serve("database", &with(&postgres), "ready to accept connections")?;

    for host in ["127.0.0.1", "::1"] {
        let pgbench = |more: &[&str]| {
            let words = [&["pgbench", "-h", host, "-U", "postgres"], more, &["postgres"]].concat();
            stage.run("app", &words)?.text()
        };
        pgbench(&["-i", "-q"])?;
        // Eight connections that stay, and then a new one for each transaction.
        let told = pgbench(&["-c", "8", "-j", "2", "-t", "20"])?;
        assert!(told.contains("transactions actually processed: 160/160"), "{told}");
        let told = pgbench(&["-c", "4", "-t", "10", "-S", "-C"])?;
        assert!(told.contains("transactions actually processed: 40/40"), "{told}");
        // A request to cancel a statement comes over a connection of its own.
        let psql =
            ["psql", "-h", host, "-U", "postgres", "-XAtc", "set statement_timeout = 50; select pg_sleep(5)"];
        let cancelled = stage.run("app", &psql)?;
        assert!(cancelled.said().contains("statement timeout"), "{cancelled}");
        let dump = stage.run("app", &["pg_dump", "-h", host, "-U", "postgres", "postgres"])?.text()?;
        assert!(dump.contains("pgbench_accounts"), "{dump}");

        let refused = stage.run("thief", &["psql", "-h", host, "-U", "postgres", "-XAtc", "select 1"])?;
        refused.assert_failed_at_once();
        assert!(refused.said().contains("Operation not permitted"), "{refused}");
        let record = denial(&mut daemon, "thief", "database")?;
        assert_eq!(record["process"]["comm"], "psql", "{record}");
    }
    assert_refused_only(&daemon.stop()?, &["thief"])
}

/// Debian keeps the server's programs out of the PATH, by version.
fn programs() -> anyhow::Result<PathBuf> {
    installed("pgbench").or_else(|_| installed("psql"))?;
    let versions = PathBuf::from("/usr/lib/postgresql");
    let entries = versions.read_dir().context("find PostgreSQL's programs")?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop().with_context(|| format!("find PostgreSQL's initdb below {}", versions.display()))
}
