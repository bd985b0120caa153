//! HTTP/3: datagrams that are a connection, and move from one port to another while it lasts.

use std::collections::BTreeSet;
use std::fs;

use super::{Stage, assert_refused_only, denial};

#[test]
fn http3_survives_a_change_of_the_callers_port_and_of_the_servers_address() -> anyhow::Result<()> {
    let stage = Stage::new("quic")?;
    let mut daemon = stage.sandbox.daemon(
        "version: 1
services:
  site: { match: [{ cgroup: ROOT/site }], listens: [4433-4434/udp] }
  reader: { match: [{ cgroup: ROOT/reader }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: read, from: reader, to: site, ports: [4433-4434/udp] }
",
    )?;
    let certificate = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        "key.pem",
        "-out",
        "certificate.pem",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ];
    stage.run("other", &certificate)?.text()?;
    let page = "x".repeat(300_000);
    stage.write("page", &page)?;
    fs::create_dir(stage.file("read"))?;
    let quiet = ["--no-quic-dump", "--no-http-dump"];

    for (host, elsewhere) in
        [("127.0.0.1", "--preferred-ipv4-addr=127.0.0.2:4434"), ("::1", "--preferred-ipv6-addr=[::1]:4434")]
    {
        let directory = stage.sandbox.directory().display().to_string();
        let server = [host, "4433", "key.pem", "certificate.pem"];
        let read = |service: &str, more: &[&str]| {
            let words = [
                &["gtlsclient", "--exit-on-all-streams-close", "--download=read"],
                quiet.as_slice(),
                more,
                &[host, "4433", "https://localhost/page"],
            ];
            stage.run(service, &words.concat())
        };
        for more in [
            [].as_slice(),
            // A new port, announced or as a NAT that forgot the old one would choose it.
            &["--delay-stream=100ms", "--change-local-addr=50ms"],
            &["--delay-stream=100ms", "--change-local-addr=50ms", "--nat-rebinding"],
            // Without it the client goes over to the address that the server prefers.
            &["--no-preferred-addr"],
        ] {
            let words =
                [["gtlsserver", "-q", "-d", &directory, elsewhere].as_slice(), &quiet, &server].concat();
            let _server = stage.serve("site", &words, "Using document root")?;
            let ran = read("reader", more)?;
            ran.text()?;
            assert!(fs::read_to_string(stage.file("read/page"))? == page, "{ran}");
            fs::remove_file(stage.file("read/page"))?;
            let said = ran.said();
            let locals: BTreeSet<&str> =
                said.split_whitespace().filter(|word| word.starts_with("local=")).collect();
            assert!(locals.len() > usize::from(more.len() > 1), "{locals:?} in {ran}");
        }
        let words = [["gtlsserver", "-q", "-d", &directory].as_slice(), &quiet, &server].concat();
        let _server = stage.serve("site", &words, "Using document root")?;
        let refused = read("thief", &["--handshake-timeout=5s"])?;
        // It does not look at what its calls return until it closes, so the record alone tells how soon it was refused.
        assert!(!stage.file("read/page").exists(), "{refused}");
        denial(&mut daemon, "thief", "site")?;
    }
    assert_refused_only(&daemon.stop()?, &["thief"])
}
