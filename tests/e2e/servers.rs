//! The shipped policies in front of real servers: nginx, PostgreSQL, curl and psql, none of them a system service.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{Finished, Killed, Neighbour, Sandbox};
use enforcer_tests::slowness::patience;
use serde_json::Value;

use crate::shop::address;

const REVERSE_PROXY: &str = include_str!("../../policies/reverse-proxy/policy.yaml");
const WEB_APP_DATABASE: &str = include_str!("../../policies/web-app-database/policy.yaml");

const NGINX: &str = "system.slice/nginx.service";
const APP: &str = "system.slice/app.service";
const APP_1: &str = "system.slice/app@1.service";
const APP_2: &str = "system.slice/app@2.service";
const POSTGRES: &str = "system.slice/postgresql@15-main.service";
const USER: &str = "user.slice/session-1.scope";

/// An application that answers with a page, or at `/total` with what a query through psql says.
const APPLICATION: &str = r#"
import http.server, socketserver, subprocess, sys
class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        code, body = 200, b"the application's page\n"
        if self.path == "/total":
            psql = ["psql", "-h", "127.0.0.1", "-U", "postgres", "-XAtc", "select sum(price) from orders"]
            result = subprocess.run(psql, capture_output=True)
            code, body = (200, result.stdout) if result.returncode == 0 else (500, result.stderr)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
with Server(("127.0.0.1", int(sys.argv[1])), Application) as server:
    print("ready", flush=True)
    server.serve_forever()
"#;

#[test]
fn nginx_alone_reaches_the_application_behind_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("reverse-proxy")?;
    let servers = Servers::new(&sandbox)?;
    let mut daemon = sandbox.daemon_with(&in_sandbox(REVERSE_PROXY), &["--log-allowed"])?;
    let application = servers.application(APP, 8080)?;
    servers.nginx("80", "http://127.0.0.1:8080", 2)?;
    let mut stranger = sandbox.actor(USER)?;
    let at = address(9000);
    assert!(stranger.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());

    // With a listener for each worker, whichever the kernel picks.
    for _ in 0..8 {
        let page = servers.curl(USER, &["http://127.0.0.1/"])?;
        assert_eq!(text(&page.stdout), "the application's page\n", "{}", text(&page.stderr));
    }
    let allowed = daemon.wait_for(|record| record["rule"]["name"] == "forward")?;
    assert_ends(&allowed, "proxy", "app");
    assert_eq!(allowed["process"]["comm"], "nginx");

    // Past the proxy, straight to the application.
    let refused = servers.spawn_curl(USER, &["http://127.0.0.1:8080/"])?;
    let pid = refused.id();
    assert_refused(&refused.wait_with_output()?);
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_ends(&record, "unmanaged", "app");
    assert_eq!(record["process"]["pid"], pid);
    assert_eq!(record["process"]["comm"], "curl");
    assert_eq!(record["reason"], "no-rule");
    assert_eq!(record["rule"], Value::Null);
    assert_eq!(record["hook"], "connect4");
    assert_eq!(record["destination"]["port"], 8080);
    assert_eq!(record["destination"]["cgroup"], sandbox.path_of(APP));

    // The application itself may not call the proxy back.
    assert_refused(&servers.curl(APP, &["http://127.0.0.1/"])?);
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_ends(&record, "app", "proxy");
    assert_eq!(record["process"]["comm"], "curl");

    // Nor the proxy anybody but the application; nginx says so in its own words.
    let page = servers.curl(USER, &["-f", "http://127.0.0.1/elsewhere"])?;
    assert!(!page.status.success(), "{}", text(&page.stdout));
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_ends(&record, "proxy", "unmanaged");
    assert_eq!(record["process"]["comm"], "nginx");
    let errors = fs::read_to_string(servers.file("error.log"))?;
    assert!(errors.contains("(1: Operation not permitted) while connecting to upstream"), "{errors}");

    // Sockets of the file system are none of its business, even where TCP would be refused.
    let socket = servers.file("nginx.sock");
    for caller in [USER, APP] {
        let page =
            servers.curl(caller, &["--unix-socket", &socket.display().to_string(), "http://localhost/"])?;
        assert_eq!(text(&page.stdout), "the application's page\n", "{}", text(&page.stderr));
    }

    // While the application is away nobody else takes its port, and it gets it back.
    drop(application);
    let bind = Request::Bind { at: address(8080), transport: Transport::Tcp };
    let taken = stranger.ask(&bind)?;
    assert!(taken.is_refused() && taken.call == "bind", "{taken:?}");
    let record = daemon.wait_for(|record| record["reason"] == "port-reserved")?;
    assert_ends(&record, "unmanaged", "app");
    let application = servers.application(APP, 8080)?;
    let page = servers.curl(USER, &["http://127.0.0.1/"])?;
    assert_eq!(text(&page.stdout), "the application's page\n", "{}", text(&page.stderr));
    drop(application);

    assert_denied(&daemon.stop()?, 4)
}

#[test]
fn nginx_is_reloaded_under_the_policy_without_a_failed_request() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("nginx-reload")?;
    let servers = Servers::new(&sandbox)?;
    let daemon = sandbox.daemon(&in_sandbox(REVERSE_PROXY))?;
    let _application = servers.application(APP, 8080)?;
    servers.nginx("80", "http://127.0.0.1:8080", 2)?;
    assert_eq!(servers.workers_seen(USER)?, "2");

    servers.configure("80", "http://127.0.0.1:8080", 4)?;
    succeed(&sandbox.output(servers.nginx_command(&["-s", "reload"])?)?)?;
    let start = Instant::now();
    // Old workers answer until the new ones do, and no request fails in between.
    while servers.workers_seen(USER)? != "4" {
        ensure!(start.elapsed() < patience(Duration::from_secs(20)), "nginx does not reload");
    }
    for _ in 0..8 {
        let page = servers.curl(USER, &["http://127.0.0.1/"])?;
        assert_eq!(text(&page.stdout), "the application's page\n", "{}", text(&page.stderr));
    }
    assert_refused(&servers.curl(USER, &["http://127.0.0.1:8080/"])?);

    assert_denied(&daemon.stop()?, 1)
}

#[test]
fn three_tiers_call_the_next_one_and_nothing_else() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("three-tiers")?;
    let servers = Servers::new(&sandbox)?;
    let outside = sandbox.neighbour(&[])?;
    let host = Neighbour::NEAR.to_string();
    let mut daemon = sandbox.daemon_with(&in_sandbox(WEB_APP_DATABASE), &["--log-allowed"])?;
    servers.postgres(&host)?;
    let _application = servers.application(APP_1, 8000)?;
    servers.nginx("443", "http://127.0.0.1:8000", 2)?;

    // The world asks nginx, nginx the application, the application psql, and psql the database.
    let url = format!("http://{host}:443/total");
    let total = outside.output("curl", &["-sS", &url])?;
    assert_eq!(text(&total.stdout), "42\n", "{}", text(&total.stderr));
    for (rule, source, destination, comm) in [
        ("visitors", "world", "web", None),
        ("requests", "web", "app", Some("nginx")),
        ("queries", "app", "database", Some("psql")),
    ] {
        let record = daemon.wait_for(|record| record["rule"]["name"] == rule)?;
        assert_ends(&record, source, destination);
        assert_eq!(record["verdict"], "allow");
        assert_eq!(record["process"]["comm"].as_str(), comm);
    }
    let total = servers.psql(APP_2, "127.0.0.1")?;
    assert_eq!(text(&total.stdout), "42\n", "{}", text(&total.stderr));

    // The web server, and whoever is logged in, get no further than connect(2).
    for (cgroup, service) in [(NGINX, "web"), (USER, "unmanaged")] {
        let refused = servers.spawn_psql(cgroup, "127.0.0.1")?;
        let pid = refused.id();
        assert_refused(&refused.wait_with_output()?);
        let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
        assert_ends(&record, service, "database");
        assert_eq!(record["process"]["pid"], pid);
        assert_eq!(record["process"]["comm"], "psql");
        assert_eq!(record["reason"], "no-rule");
        assert_eq!(record["destination"]["cgroup"], sandbox.path_of(POSTGRES));
        // The socket in the file system is another matter: file permissions guard that.
        let total = servers.psql(cgroup, &servers.directory.display().to_string())?;
        assert_eq!(text(&total.stdout), "42\n", "{}", text(&total.stderr));
    }

    // From outside the packets are dropped on the way in, so the caller learns nothing.
    let refused = outside.output("psql", &psql(&host))?;
    assert!(!refused.status.success() && text(&refused.stderr).contains("timeout expired"), "{refused:?}");
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_ends(&record, "world", "database");
    assert_eq!(record["hook"], "ingress");

    // While the database restarts, its port is nobody else's.
    let mut others = Vec::new();
    for (cgroup, service) in [(NGINX, "web"), (APP_1, "app"), (USER, "unmanaged")] {
        others.push((sandbox.actor(cgroup)?, service));
    }
    servers.pg_ctl(&["stop", "-m", "fast"])?;
    for (actor, service) in &mut others {
        let taken = actor.ask(&Request::Bind { at: address(5432), transport: Transport::Tcp })?;
        assert!(taken.is_refused() && taken.call == "bind", "{service}: {taken:?}");
        let record = daemon.wait_for(|record| record["reason"] == "port-reserved")?;
        assert_ends(&record, service, "database");
    }
    let gone = servers.psql(APP_1, "127.0.0.1")?;
    assert!(text(&gone.stderr).contains("Connection refused"), "{gone:?}");
    servers.pg_ctl(&["start"])?;
    let total = servers.psql(APP_1, "127.0.0.1")?;
    assert_eq!(text(&total.stdout), "42\n", "{}", text(&total.stderr));
    assert_refused(&servers.psql(NGINX, "127.0.0.1")?);

    let finished = daemon.stop()?;
    finished.check_totals()?;
    let mut by_world = finished.attempts().filter(|record| record["source"]["service"] == "world");
    assert!(by_world.all(|record| record["process"].is_null()));
    let denied = finished.attempts().filter(|record| record["verdict"] == "deny");
    // Two by psql, three binds, one more psql; the dropped SYN comes again and again.
    assert_eq!(denied.filter(|record| record["hook"] != "ingress").count(), 6);
    Ok(())
}

/// A shipped policy, its units looked for in the sandbox's subtree: a `systemd` selector means the units of the system,
/// whose cgroups are at the top of the tree.
fn in_sandbox(policy: &str) -> String {
    let text = policy.replace("systemd: \"", "cgroup: \"ROOT/system.slice/");
    text.replace("systemd: ", "cgroup: ROOT/system.slice/")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What psql is called with; two seconds are the shortest it waits.
fn psql(host: &str) -> [String; 3] {
    let connection = format!("host={host} user=postgres connect_timeout=2");
    [connection, String::from("-XAtc"), String::from("select sum(price) from orders")]
}

fn succeed(output: &Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    Ok(())
}

/// The program failed, and its own words name the errno.
#[track_caller]
fn assert_refused(output: &Output) {
    let words = text(&output.stderr);
    assert!(!output.status.success() && words.contains("Operation not permitted"), "{output:?}");
}

#[track_caller]
fn assert_ends(record: &Value, source: &str, destination: &str) {
    let ends = (record["source"]["service"].as_str(), record["destination"]["service"].as_str());
    assert_eq!(ends, (Some(source), Some(destination)), "{record}");
}

fn assert_denied(finished: &Finished, number: u64) -> anyhow::Result<()> {
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], number, "{:#?}", finished.records);
    Ok(())
}

/// The programs that are tested with, each told what it needs to run in a sandbox's directory.
struct Servers<'a> {
    sandbox: &'a Sandbox,
    directory: PathBuf,
    postgres: PathBuf,
}

impl<'a> Servers<'a> {
    fn new(sandbox: &'a Sandbox) -> anyhow::Result<Self> {
        for program in ["nginx", "curl", "psql", "python3", "setpriv", "nsenter"] {
            installed(program)?;
        }
        let directory = sandbox.directory().to_path_buf();
        // The servers give up being root, and must still reach their files.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        Ok(Self { sandbox, directory, postgres: postgres_programs()? })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn output(&self, command: Command) -> anyhow::Result<Output> {
        self.sandbox.output(command)
    }

    fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.sandbox.spawn(command)
    }

    /// Starts the application in a cgroup, and returns when it listens.
    fn application(&self, cgroup: &str, port: u16) -> anyhow::Result<Killed> {
        let mut command = self.sandbox.command(cgroup, "python3")?;
        command.args(["-c", APPLICATION, &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut application = Killed(self.sandbox.spawn(command)?);
        let mut line = String::new();
        let stdout = application.0.stdout.take().context("application without stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "start application: it said {line:?}");
        Ok(application)
    }

    /// Writes nginx's configuration.
    fn configure(&self, listen: &str, upstream: &str, workers: u32) -> anyhow::Result<()> {
        let directory = self.directory.display();
        let text = format!(
            "user www-data;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen {listen} reuseport;
    listen unix:{directory}/nginx.sock;
    location / {{ proxy_pass {upstream}; }}
    location /elsewhere {{ proxy_pass http://127.0.0.1:9000; }}
    location /workers {{ return 200 {workers}; }}
  }}
}}
"
        );
        Ok(fs::write(self.file("nginx.conf"), text)?)
    }

    fn nginx_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.sandbox.command(NGINX, "nginx")?;
        command.arg("-p").arg(&self.directory).arg("-e").arg(self.file("error.log"));
        command.arg("-c").arg(self.file("nginx.conf")).args(arguments);
        Ok(command)
    }

    /// Starts nginx, which returns when it listens and ends with the sandbox's cgroup.
    fn nginx(&self, listen: &str, upstream: &str, workers: u32) -> anyhow::Result<()> {
        self.configure(listen, upstream, workers)?;
        succeed(&self.output(self.nginx_command(&[])?)?).context("start nginx")
    }

    /// With how many workers the nginx that answers was configured.
    fn workers_seen(&self, cgroup: &str) -> anyhow::Result<String> {
        let answer = self.curl(cgroup, &["http://127.0.0.1/workers"])?;
        succeed(&answer)?;
        Ok(text(&answer.stdout))
    }

    fn curl_command(&self, cgroup: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.sandbox.command(cgroup, "curl")?;
        // Only in its verbose words does curl give the errno of a failed connect.
        let limit = patience(Duration::from_secs(60)).as_secs().to_string();
        command.args(["-sSv", "-m", &limit]).args(arguments);
        Ok(command)
    }

    fn curl(&self, cgroup: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        self.output(self.curl_command(cgroup, arguments)?)
    }

    fn spawn_curl(&self, cgroup: &str, arguments: &[&str]) -> anyhow::Result<Child> {
        self.spawn(self.curl_command(cgroup, arguments)?)
    }

    fn psql_command(&self, cgroup: &str, host: &str) -> anyhow::Result<Command> {
        let mut command = self.sandbox.command(cgroup, self.postgres.join("psql"))?;
        command.args(psql(host));
        Ok(command)
    }

    fn psql(&self, cgroup: &str, host: &str) -> anyhow::Result<Output> {
        self.output(self.psql_command(cgroup, host)?)
    }

    fn spawn_psql(&self, cgroup: &str, host: &str) -> anyhow::Result<Child> {
        self.spawn(self.psql_command(cgroup, host)?)
    }

    /// A program of PostgreSQL's server in its service's cgroup, as the user that it insists on.
    fn postgres_command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = self.sandbox.command(POSTGRES, "setpriv")?;
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(self.postgres.join(program)).arg("-D").arg(self.file("postgres"));
        Ok(command)
    }

    /// Makes a cluster with a table of orders, and starts it on loopback and at `address`.
    fn postgres(&self, address: &str) -> anyhow::Result<()> {
        let mut initdb = self.postgres_command("initdb")?;
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--locale=C"]);
        succeed(&self.output(initdb)?).context("initdb")?;
        let sockets = self.directory.display();
        let settings = format!(
            "listen_addresses = '127.0.0.1,{address}'\nunix_socket_directories = '{sockets}'\nfsync = off\n"
        );
        fs::write(self.file("postgres/postgresql.auto.conf"), settings)?;
        fs::write(self.file("postgres/pg_hba.conf"), "local all all trust\nhost all all all trust\n")?;
        self.pg_ctl(&["start"])?;
        let mut fill = self.sandbox.command(POSTGRES, self.postgres.join("psql"))?;
        fill.args(["-h", &sockets.to_string(), "-U", "postgres", "-Xqc"]);
        fill.arg("create table orders (price int); insert into orders values (40), (2)");
        succeed(&self.output(fill)?).context("fill the database")
    }

    /// Starts or stops PostgreSQL, and returns when that is done.
    fn pg_ctl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut pg_ctl = self.postgres_command("pg_ctl")?;
        let limit = patience(Duration::from_secs(60)).as_secs().to_string();
        pg_ctl.args(["-w", "-t", &limit, "-l"]).arg(self.file("postgres.log")).args(arguments);
        let ended = self.output(pg_ctl)?;
        let log = fs::read_to_string(self.file("postgres.log")).unwrap_or_default();
        succeed(&ended).with_context(|| format!("pg_ctl {arguments:?}; its log:\n{log}"))
    }
}

fn installed(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = directories.map(|directory| directory.join(program)).find(|file| file.is_file());
    found.with_context(|| {
        format!("find program {program}: not installed\nhint: apt-get install nginx-light postgresql curl python3-minimal util-linux")
    })
}

/// Debian keeps the server's programs out of the PATH, by version.
fn postgres_programs() -> anyhow::Result<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = versions
        .read_dir()
        .with_context(|| {
            format!(
                "find PostgreSQL in {}: not installed\nhint: apt-get install postgresql",
                versions.display()
            )
        })?
        .map(|entry| Ok(entry?.path().join("bin")))
        .filter(|bin| bin.as_ref().is_ok_and(|bin| bin.join("initdb").is_file()))
        .collect::<std::io::Result<_>>()?;
    found.sort();
    found.pop().with_context(|| format!("find PostgreSQL's initdb below {}", versions.display()))
}
