//! Sun RPC and NFS: a port mapper that tells where a server is, and a server of files over UDP and TCP.

use super::{Stage, assert_refused_only, denial};

const POLICY: &str = "version: 1
services:
  mapper: { match: [{ cgroup: ROOT/mapper }], listens: [111/tcp, 111/udp] }
  files: { match: [{ cgroup: ROOT/files }], listens: [2049/tcp, 2049/udp, 20048/tcp, 20048/udp] }
  app: { match: [{ cgroup: ROOT/app }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
  lost: { match: [{ cgroup: ROOT/lost }] }
allow:
  - { name: where, from: [app, files, lost], to: mapper, ports: [111/tcp, 111/udp] }
  - { name: files, from: app, to: files, ports: [2049/tcp, 2049/udp, 20048/tcp, 20048/udp] }
";

/// An address of the host beside the loopback device's.
const OWN: &str = "10.9.0.1";

#[test]
fn nfs_is_served_over_what_the_port_mapper_tells() -> anyhow::Result<()> {
    let stage = Stage::new("nfs")?;
    stage
        .sandbox
        .ip(&format!("link add own type bridge\nlink set own up\naddress add {OWN}/24 dev own\n"))?;
    let mut daemon = stage.sandbox.daemon(POLICY)?;
    // With a /run of its own, so that it is not the host's port mapper.
    let script = "mount -t tmpfs run /run && mkdir /run/rpcbind && echo mounted && exec rpcbind -f -i";
    let _mapper = stage.serve("mapper", &["unshare", "--mount", "sh", "-c", script], "mounted")?;

    let export = stage.file("export");
    std::fs::create_dir(&export)?;
    stage.write("export/greeting", "hello\n")?;
    let export = export.display();
    let configuration = stage.write(
        "ganesha.conf",
        &format!(
            "NFS_CORE_PARAM {{ NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; \
             Protocols = 3, 4; }}
            NFSV4 {{ Graceless = true; RecoveryBackend = fs; }}
            NFS_KRB5 {{ Active_krb5 = false; }}
            EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /export; Access_Type = RW; Squash = No_root_squash; \
             SecType = sys, none; Protocols = 3, 4; Transports = UDP, TCP; FSAL {{ Name = VFS; }} }}\n"
        ),
    )?;
    let script = format!(
        "mount -t tmpfs run /run && mount -t tmpfs lib /var/lib/nfs && mkdir -p /var/lib/nfs/ganesha && \
         exec ganesha.nfsd -F -f {configuration} -L STDOUT -p {}",
        stage.file("ganesha.pid").display()
    );
    let _files =
        stage.serve("files", &["unshare", "--mount", "sh", "-c", &script], "NFS SERVER INITIALIZED")?;

    for host in ["127.0.0.1", OWN] {
        let told = stage.run("app", &["rpcinfo", "-p", host])?.text()?;
        assert!(told.contains("mountd") && told.contains("nfs"), "{told}");
        for transport in ["tcp", "udp"] {
            let told = stage.run("app", &["rpcinfo", "-T", transport, host, "nfs", "3"])?.text()?;
            assert!(told.contains("ready and waiting"), "{transport}: {told}");
        }
        // This client writes no large files by version 4, with or without an enforcer.
        for (version, path, size) in
            [("3", export.to_string(), 1_600_000), ("4", String::from("/export"), 1600)]
        {
            let url = |file: &str| format!("nfs://{host}{path}{file}?version={version}");
            let listed = stage.run("app", &["nfs-ls", &url("")])?.text()?;
            assert!(listed.contains("greeting"), "{version}: {listed}");
            assert_eq!(stage.run("app", &["nfs-cat", &url("/greeting")])?.text()?, "hello\n");
            let name = format!("/written-{version}-{host}");
            let file = stage.write("file", &"x".repeat(size))?;
            stage.run("app", &["nfs-cp", &file, &url(&name)])?.text()?;
            assert_eq!(std::fs::read(stage.file(&format!("export{name}")))?.len(), size);
        }

        // Who may not ask where the server is learns nothing, and who may only ask gets no further.
        for (who, to) in [("thief", "mapper"), ("lost", "files")] {
            for transport in ["tcp", "udp"] {
                let refused = stage.run(who, &["rpcinfo", "-T", transport, host, "nfs", "3"])?;
                refused.assert_failed_at_once();
                denial(&mut daemon, who, to)?;
            }
        }
        let url = format!("nfs://{host}/export/greeting?version=4");
        let refused = stage.run("thief", &["nfs-cat", &url])?;
        refused.assert_failed_at_once();
        denial(&mut daemon, "thief", "files")?;
    }
    assert_refused_only(&daemon.stop()?, &["thief", "lost"])
}
