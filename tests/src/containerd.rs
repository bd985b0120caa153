//! The real containerd in a sandbox, driven through its interface as Kubernetes drives it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RunPodSandboxRequest, StartContainerRequest, VersionRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};

use crate::engine::{fill_image, tar};
use crate::sandbox::Sandbox;
use crate::slowness::patience;

/// How long it may take to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// The image of containers and of pods, as containerd writes its name.
pub const IMAGE: &str = "docker.io/library/tiny:1";

/// What runs runc without the limits that pods always have: where a host has v1 beside it, the cgroup v2 tree has no
/// controllers for them.
const WITHOUT_LIMITS: &str = r#"#!/usr/bin/python3
import json, os, sys
if "--bundle" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    with open(path) as file:
        spec = json.load(file)
    spec["linux"].pop("resources", None)
    with open(path, "w") as file:
        json.dump(spec, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"#;

/// A running containerd.
pub struct Containerd<'a> {
    sandbox: &'a Sandbox,
    child: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

/// A pod of its.
pub struct Pod {
    /// The id of its sandbox.
    pub id: String,
    config: PodSandboxConfig,
}

impl<'a> Containerd<'a> {
    /// Starts it in the sandbox's network namespace and cgroup `engine`, and gives it one image of busybox and the actor.
    ///
    /// # Errors
    ///
    /// It is not installed or does not start; its words are in the error.
    pub fn start(sandbox: &'a Sandbox) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut containerd = Self { sandbox, child: None, runtime };
        for directory in ["data", "run", "opt", "cni", "shims"] {
            fs::create_dir_all(containerd.path(directory))?;
        }
        let path = |name| containerd.path(name).display().to_string();
        let config = format!(
            r#"version = 2
root = "{data}"
state = "{run}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{cni}"
"#,
            data = path("data"),
            run = path("run"),
            socket = path("socket"),
            opt = path("opt"),
            cni = path("cni"),
            runc = path("runc"),
        );
        fs::write(containerd.path("runc"), WITHOUT_LIMITS)?;
        fs::set_permissions(containerd.path("runc"), fs::Permissions::from_mode(0o755))?;
        fs::write(containerd.path("config.toml"), config)?;
        containerd.run()?;
        containerd.import()?;
        Ok(containerd)
    }

    fn run(&mut self) -> anyhow::Result<()> {
        // A pure cgroup v2 tree of its own, and a place of its own for what always has the same path.
        let tree = format!(
            "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup \
             && mkdir -p /run/containerd && mount --bind {} /run/containerd",
            self.path("shims").display()
        );
        let mut command = self.sandbox.command("engine", "unshare")?;
        let config = self.path("config.toml");
        command.args(["-m", "sh", "-c", &format!("{tree} && exec containerd --config {}", config.display())]);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = self.sandbox.spawn(command)?;
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = child.try_wait()?;
            let late = start.elapsed() > patience(DEADLINE);
            ensure!(ended.is_none() && !late, "start containerd: {ended:?}; it said:\n{}", self.words());
            thread::yield_now();
        }
        self.child = Some(child);
        Ok(())
    }

    /// Gives it the image, which is an archive as `docker save` writes it.
    fn import(&self) -> anyhow::Result<()> {
        let (root, archive) = (self.path("root"), self.path("archive"));
        fill_image(&root)?;
        fs::create_dir_all(&archive)?;
        tar(&root, &archive.join("layer.tar"))?;
        let digest = Command::new("sha256sum").arg(archive.join("layer.tar")).output()?;
        let digest = String::from_utf8(digest.stdout)?;
        let digest = digest.split_whitespace().next().context("sha256sum tells a sum")?;
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/bin/busybox", "sleep", "1000000"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        });
        fs::write(archive.join("config.json"), config.to_string())?;
        let manifest =
            serde_json::json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
        fs::write(archive.join("manifest.json"), manifest.to_string())?;
        let file = self.path("image.tar");
        tar(&archive, &file)?;
        let mut ctr = Command::new("ctr");
        ctr.arg("-a").arg(self.socket()).args(["-n", "k8s.io", "images", "import", "--snapshotter=native"]);
        let output = ctr.arg(&file).output().context("run ctr: is containerd installed?")?;
        ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// What it complains of in its log.
    pub fn words(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let told = log.lines().filter(|line| !line.contains("level=info"));
        told.collect::<Vec<&str>>().join("\n")
    }

    /// Its name and version.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn version(&self) -> anyhow::Result<String> {
        self.runtime.block_on(async {
            let answer = self.client().await?.version(VersionRequest::default()).await?.into_inner();
            Ok(format!("{} {}", answer.runtime_name, answer.runtime_version))
        })
    }

    /// Runs a pod in the network namespace of the sandbox, with its cgroups below `parent`.
    ///
    /// # Errors
    ///
    /// It refuses; its words are in the error.
    pub fn pod(&self, namespace: &str, name: &str, parent: &str) -> anyhow::Result<Pod> {
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..LinuxSandboxSecurityContext::default()
        };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: namespace.to_owned(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.sandbox.path_of(parent),
                security_context: Some(security),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let asked = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
        let id = self.runtime.block_on(async {
            anyhow::Ok(self.client().await?.run_pod_sandbox(asked).await?.into_inner().pod_sandbox_id)
        });
        Ok(Pod { id: id.with_context(|| self.words())?, config })
    }

    /// Creates and starts a container in a pod, and returns its id.
    ///
    /// # Errors
    ///
    /// It refuses; its words are in the error.
    pub fn container(
        &self,
        pod: &Pod,
        name: &str,
        labels: &[(&str, &str)],
        command: &[&str],
    ) -> anyhow::Result<String> {
        let labels: HashMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() }),
            command: command.iter().map(|text| (*text).to_owned()).collect(),
            labels,
            ..ContainerConfig::default()
        };
        let asked = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let started = self.runtime.block_on(async {
            let mut client = self.client().await?;
            let container_id = client.create_container(asked).await?.into_inner().container_id;
            client.start_container(StartContainerRequest { container_id: container_id.clone() }).await?;
            anyhow::Ok(container_id)
        });
        started.with_context(|| self.words())
    }

    /// Sends a signal to containerd itself, and not to its containers.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("containerd runs")?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    async fn client(&self) -> anyhow::Result<RuntimeServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket().display()))?;
        Ok(RuntimeServiceClient::new(endpoint.connect().await?))
    }

    fn path(&self, name: &str) -> PathBuf {
        let directory: &Path = self.sandbox.directory();
        directory.join(format!("containerd-{name}"))
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // Everything of it is in the sandbox's cgroups, and its mounts are of a namespace that ends with it.
        if let Err(err) = crate::sandbox::kill_tree(self.sandbox.cgroup()) {
            tracing::error!("end containerd: {err:#}");
        }
        if let Some(mut child) = self.child.take()
            && let Err(err) = child.wait()
        {
            tracing::error!("end containerd: {err}");
        }
    }
}
