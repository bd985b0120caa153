//! Redis with its own benchmark, and memcached with the tools of libmemcached.

use super::{Stage, assert_refused_only, denial};

const POLICY: &str = "version: 1
services:
  cache: { match: [{ cgroup: ROOT/cache }], listens: [PORT/tcp] }
  app: { match: [{ cgroup: ROOT/app }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: cache, from: app, to: cache, ports: [PORT/tcp] }
";

#[test]
fn redis_passes_its_own_benchmark() -> anyhow::Result<()> {
    let stage = Stage::new("redis")?;
    let mut daemon = stage.sandbox.daemon(&POLICY.replace("PORT", "6379"))?;
    let directory = stage.sandbox.directory().display().to_string();
    let redis =
        ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "::1", "--save", "", "--dir", &directory];
    let _redis = stage.serve("cache", &redis, "eady to accept connections")?;

    for host in ["127.0.0.1", "::1"] {
        // Fifty connections at once, and then a new one for each request.
        for (requests, keep) in [("4000", "1"), ("400", "0")] {
            let benchmark = [
                "redis-benchmark",
                "-h",
                host,
                "-n",
                requests,
                "-k",
                keep,
                "-c",
                "50",
                "-t",
                "set,get,lpush",
                "-q",
            ];
            let told = stage.run("app", &benchmark)?.text()?;
            assert_eq!(told.matches("requests per second").count(), 3, "{told}");
            assert!(!told.contains("Error"), "{told}");
        }
        // What a subscriber is told comes over a connection that stays open.
        let script = format!("redis-cli -h {host} set greeting hello && redis-cli -h {host} get greeting");
        assert_eq!(stage.run("app", &["sh", "-c", &script])?.text()?, "OK\nhello\n");

        let refused = stage.run("thief", &["redis-cli", "-h", host, "get", "greeting"])?;
        refused.assert_failed_at_once();
        assert!(refused.said().contains("Operation not permitted"), "{refused}");
        let record = denial(&mut daemon, "thief", "cache")?;
        assert_eq!(record["process"]["comm"], "redis-cli", "{record}");
    }
    let refused = stage.run("other", &["redis-cli", "get", "greeting"])?;
    refused.assert_failed_at_once();
    denial(&mut daemon, "unmanaged", "cache")?;
    assert_refused_only(&daemon.stop()?, &["thief", "unmanaged"])
}

#[test]
fn memcached_passes_the_test_of_its_protocol() -> anyhow::Result<()> {
    let stage = Stage::new("memcached")?;
    let mut daemon = stage.sandbox.daemon(&POLICY.replace("PORT", "11211"))?;
    let memcached = ["memcached", "-vv", "-u", "nobody", "-l", "127.0.0.1,[::1]", "-p", "11211"];
    let mut server = stage.serve("cache", &memcached, "server listening")?;
    // One line for each address.
    server.wait_for("server listening")?;

    stage.write("greeting", "hello\n")?;
    for host in ["127.0.0.1", "[::1]"] {
        let at = format!("--servers={host}:11211");
        stage.run("app", &["memccp", &at, "greeting"])?.text()?;
        assert_eq!(stage.run("app", &["memccat", &at, "greeting"])?.text()?.trim(), "hello");
        let slap = ["memcslap", &at, "--concurrency=10", "--execute-number=200", "--test=get"];
        stage.run("app", &slap)?.text()?;

        let refused = stage.run("thief", &["memccat", &at, "greeting"])?;
        refused.assert_failed_at_once();
        denial(&mut daemon, "thief", "cache")?;
    }
    // Every command of the protocol, in its text and its binary form.
    let capable = stage.run("app", &["memccapable", "-h", "127.0.0.1", "-p", "11211", "-a"])?.text()?;
    assert!(capable.contains("pass") && !capable.contains("FAIL"), "{capable}");
    assert_refused_only(&daemon.stop()?, &["thief"])
}
