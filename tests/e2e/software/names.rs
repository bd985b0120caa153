//! A resolver and the name server that it asks, over UDP and TCP, with answers too long for a datagram.

use super::{Server, Stage, assert_refused_only, denial};

const POLICY: &str = "version: 1
services:
  app: { match: [{ cgroup: ROOT/app }] }
  resolver: { match: [{ cgroup: ROOT/resolver }], listens: [53/udp, 53/tcp] }
  authority: { match: [{ cgroup: ROOT/authority }], listens: [5353/udp, 5353/tcp] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: names, from: app, to: resolver, ports: [53/udp, 53/tcp] }
  - { name: upstream, from: resolver, to: authority, ports: [5353/udp, 5353/tcp] }
";

/// How many texts of 200 bytes make an answer that no datagram takes.
const TEXTS: usize = 12;

fn authority(stage: &Stage) -> anyhow::Result<Server> {
    let mut words: Vec<String> = [
        "dnsmasq",
        "--keep-in-foreground",
        "--log-facility=-",
        "--pid-file=",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--port=5353",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--host-record=small.example,192.0.2.53",
    ]
    .map(String::from)
    .to_vec();
    words.extend((0..TEXTS).map(|number| format!("--txt-record=big.example,{number:0>200}")));
    stage.serve("authority", &words, "started")
}

/// A resolver of two threads, which keeps nothing, so that every question is asked again.
fn resolver(stage: &Stage, interfaces: &str) -> anyhow::Result<Server> {
    let configuration = stage.write(
        "unbound.conf",
        &format!(
            "server:
  {interfaces}
  access-control: 0.0.0.0/0 allow
  access-control: ::0/0 allow
  num-threads: 2
  username: \"\"
  chroot: \"\"
  directory: \"\"
  pidfile: \"\"
  use-syslog: no
  logfile: \"\"
  do-daemonize: no
  do-not-query-localhost: no
  module-config: \"iterator\"
  local-zone: example. nodefault
  cache-max-ttl: 0
forward-zone:
  name: \".\"
  forward-addr: 127.0.0.1@5353
remote-control:
  control-enable: no
"
        ),
    )?;
    stage.serve("resolver", &["unbound", "-d", "-c", &configuration], "start of service")
}

fn dig(stage: &Stage, from: &str, words: &str) -> anyhow::Result<super::Ran> {
    let mut all = vec!["dig", "+tries=1", "+time=5"];
    all.extend(words.split(' '));
    stage.run(from, &all)
}

#[test]
fn a_resolver_answers_over_udp_and_tcp_and_asks_another() -> anyhow::Result<()> {
    let stage = Stage::new("resolver")?;
    let mut daemon = stage.sandbox.daemon(POLICY)?;
    let _authority = authority(&stage)?;
    let _resolver = resolver(&stage, "interface: 127.0.0.1\n  interface: ::1")?;

    for server in ["@127.0.0.1", "@::1"] {
        let small = dig(&stage, "app", &format!("{server} small.example +short"))?;
        assert_eq!(small.text()?, "192.0.2.53\n", "{small}");
        let small = dig(&stage, "app", &format!("{server} small.example +short +tcp"))?;
        assert_eq!(small.text()?, "192.0.2.53\n", "{small}");
        // Cut off: the server says so, and the caller asks again over TCP. So did the resolver before it.
        let cut = dig(&stage, "app", &format!("{server} big.example TXT +ignore +bufsize=1232"))?.text()?;
        assert!(cut.contains("flags: qr tc "), "{cut}");
        let whole = dig(&stage, "app", &format!("{server} big.example TXT +bufsize=1232"))?.text()?;
        assert!(whole.contains("Truncated, retrying in TCP mode"), "{whole}");
        assert!(whole.contains(&format!("ANSWER: {TEXTS}")), "{whole}");
        // Fits once both agree on a larger datagram, which travels in fragments where the device is narrower.
        let large = dig(&stage, "app", &format!("{server} big.example TXT +ignore +bufsize=4096"))?;
        assert!(large.text()?.contains("status: NOERROR"), "{large}");
        let many = dig(
            &stage,
            "app",
            &format!("{server} small.example small.example big.example TXT +tcp +keepopen"),
        )?;
        assert_eq!(many.text()?.matches("status: NOERROR").count(), 3, "{many}");
    }
    // A client that starts again and again on the same port.
    for _ in 0..3 {
        let again = dig(&stage, "app", "@127.0.0.1 -b 127.0.0.1#40000 small.example +short")?;
        assert_eq!(again.text()?, "192.0.2.53\n", "{again}");
    }

    for (server, port) in [("@127.0.0.1", 53), ("@::1", 53), ("@127.0.0.1", 5353)] {
        for way in ["+notcp", "+tcp"] {
            dig(&stage, "thief", &format!("{server} -p {port} small.example {way}"))?.assert_failed_at_once();
            denial(&mut daemon, "thief", if port == 53 { "resolver" } else { "authority" })?;
        }
    }
    // Whoever may ask the resolver may not therefore ask the one behind it.
    dig(&stage, "app", "@127.0.0.1 -p 5353 small.example")?.assert_failed_at_once();
    denial(&mut daemon, "app", "authority")?;
    assert_refused_only(&daemon.stop()?, &["app", "thief"])
}

#[test]
fn a_resolver_on_every_address_answers_from_the_one_that_was_asked() -> anyhow::Result<()> {
    let stage = Stage::new("wildcard")?;
    let daemon = stage.sandbox.daemon(POLICY)?;
    let _authority = authority(&stage)?;
    let _resolver = resolver(&stage, "interface: 0.0.0.0\n  interface: ::0\n  interface-automatic: yes")?;
    for server in ["127.0.0.1", "127.0.0.77", "::1"] {
        let small = dig(&stage, "app", &format!("@{server} small.example +short"))?;
        assert_eq!(small.text()?, "192.0.2.53\n", "{small}");
    }
    assert_refused_only(&daemon.stop()?, &[])
}
