//! ping, traceroute and iperf3: errors of the network, protocols without ports, and many streams both ways.

use enforcer_tests::sandbox::Neighbour;

use super::{Stage, assert_refused_only, denial};

#[test]
fn iperf3_works_in_every_mode() -> anyhow::Result<()> {
    let stage = Stage::new("iperf3")?;
    let mut daemon = stage.sandbox.daemon(
        "version: 1
services:
  meter: { match: [{ cgroup: ROOT/meter }], listens: [5201/tcp, 5201/udp] }
  app: { match: [{ cgroup: ROOT/app }] }
  control: { match: [{ cgroup: ROOT/control }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: measure, from: app, to: meter, ports: [5201/tcp, 5201/udp] }
  - { name: control, from: control, to: meter, ports: [5201/tcp] }
",
    )?;
    let _server = stage.serve("meter", &["iperf3", "-s", "--forceflush"], "listening")?;
    for host in ["127.0.0.1", "::1"] {
        for mode in [
            "",
            "-R",
            "--bidir",
            "-P 4",
            "-u -b 10M",
            "-u -b 10M -R",
            "-u -b 10M --bidir",
            "-u -b 2M -P 4",
            "-Z -n 1M",
        ] {
            let amount: &[&str] = if mode.contains("-n") { &[] } else { &["-t", "1"] };
            let mut words = vec!["iperf3", "-c", host];
            words.extend(amount);
            words.extend(mode.split_whitespace());
            let told = stage.run("app", &words)?.text()?;
            assert!(told.contains("iperf Done."), "{mode}: {told}");
            assert!(!told.contains("(100%)"), "nothing came through: {mode}: {told}");
        }
        let refused = stage.run("thief", &["iperf3", "-c", host])?;
        refused.assert_failed_at_once();
        assert!(refused.said().contains("Operation not permitted"), "{refused}");
        denial(&mut daemon, "thief", "meter")?;
    }
    // The TCP connection that arranges it is permitted, the datagrams are not.
    let refused = stage.run("control", &["iperf3", "-u", "-c", "127.0.0.1", "-t", "1"])?;
    assert!(!refused.output.status.success(), "{refused}");
    let record = denial(&mut daemon, "control", "meter")?;
    assert_eq!(
        (&record["protocol"], &record["reason"]),
        (&"udp".into(), &"port-not-listed".into()),
        "{record}"
    );
    assert_refused_only(&daemon.stop()?, &["control", "thief"])
}

#[test]
fn ping_and_traceroute_reach_a_neighbour() -> anyhow::Result<()> {
    let stage = Stage::new("ping")?;
    let neighbour = stage.sandbox.neighbour(&[])?;
    // Behind the neighbour, which is a hop on the way and tells that time ran out there, every time.
    let beyond = "198.51.100.9";
    let prepared = neighbour.output(
        "sh",
        &[
            "-ec",
            "echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
            echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
            ip route add 198.51.100.9 via 100.64.0.1",
        ],
    )?;
    anyhow::ensure!(prepared.status.success(), "{prepared:?}");
    let mut daemon = stage.sandbox.daemon(
        "version: 1
services:
  probe: { match: [{ cgroup: ROOT/probe }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: ping, from: probe, to: world, ports: [icmp, icmpv6, 1025/udp] }
  - { name: trace, from: probe, to: world, ports: [33434-33534/udp] }
",
    )?;
    let range = "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range";
    stage.run("other", &["sh", "-c", range])?.text()?;
    let told = stage.run("probe", &["traceroute", "-n", "-q", "2", "-w", "5", "-m", "1", beyond])?.text()?;
    let hop = told.lines().nth(1).unwrap_or_default();
    assert!(hop.contains(&Neighbour::FAR.to_string()) && hop.matches(" ms").count() == 2, "{told}");
    for host in [Neighbour::FAR.to_string(), Neighbour::FAR6.to_string()] {
        let told = stage.run("probe", &["ping", "-c", "3", "-i", "0.1", "-W", "5", &host])?.text()?;
        assert!(told.contains("3 received, 0% packet loss"), "{told}");
        let told = stage.run("probe", &["traceroute", "-n", "-q", "2", "-w", "5", &host])?.text()?;
        assert!(told.lines().count() == 2 && told.contains(" ms") && !told.contains('*'), "{told}");

        stage.run("thief", &["ping", "-c", "1", "-W", "5", &host])?.assert_failed_at_once();
        let record = denial(&mut daemon, "thief", "thief")?;
        assert_eq!(record["hook"], "sock_create", "{record}");
        stage.run("thief", &["traceroute", "-n", "-q", "1", "-w", "5", "-m", "2", &host])?;
        denial(&mut daemon, "thief", "world")?;
    }
    assert_refused_only(&daemon.stop()?, &["thief"])
}

#[test]
fn ping_reaches_the_hosts_own_addresses() -> anyhow::Result<()> {
    let stage = Stage::new("ping-own")?;
    stage.sandbox.ip("link add own type bridge\nlink set own up\naddress add 10.9.0.1/24 dev own\n\
                      address add fd00:9::1/64 dev own nodad\n")?;
    let mut daemon = stage.sandbox.daemon(
        "version: 1
services:
  probe: { match: [{ cgroup: ROOT/probe }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: ping, from: probe, to: world, ports: [icmp, icmpv6, 1025/udp] }
",
    )?;
    let range = "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range";
    stage.run("other", &["sh", "-c", range])?.text()?;
    for host in ["127.0.0.1", "127.0.0.2", "10.9.0.1", "::1", "fd00:9::1"] {
        let told = stage.run("probe", &["ping", "-n", "-c", "3", "-i", "0.1", "-W", "5", host])?.text()?;
        assert!(told.contains("3 received, 0% packet loss"), "{told}");
        stage.run("thief", &["ping", "-n", "-c", "1", "-W", "5", host])?.assert_failed_at_once();
        let record = denial(&mut daemon, "thief", "thief")?;
        assert_eq!(record["hook"], "sock_create", "{record}");
    }
    assert_refused_only(&daemon.stop()?, &["thief"])
}
