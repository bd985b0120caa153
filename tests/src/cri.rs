//! A stand-in for containerd or CRI-O: their interface served on a socket by the crate that describes it, with whatever
//! containers a test says. It runs nothing. The real containerd is in [`containerd`](crate::containerd).

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context as _;
use k8s_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use k8s_cri::v1::{
    AttachRequest, AttachResponse, CheckpointContainerRequest, CheckpointContainerResponse, Container,
    ContainerEventResponse, ContainerMetadata, ContainerStatsRequest, ContainerStatsResponse,
    ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, ExecRequest, ExecResponse, ExecSyncRequest, ExecSyncResponse, GetEventsRequest,
    ImageSpec, ListContainerStatsRequest, ListContainerStatsResponse, ListContainersRequest,
    ListContainersResponse, ListMetricDescriptorsRequest, ListMetricDescriptorsResponse,
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandbox,
    PodSandboxMetadata, PodSandboxStatsRequest, PodSandboxStatsResponse, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest, PortForwardResponse,
    RemoveContainerRequest, RemoveContainerResponse, RemovePodSandboxRequest, RemovePodSandboxResponse,
    ReopenContainerLogRequest, ReopenContainerLogResponse, RunPodSandboxRequest, RunPodSandboxResponse,
    RuntimeConfigRequest, RuntimeConfigResponse, StartContainerRequest, StartContainerResponse,
    StatusRequest, StatusResponse, StopContainerRequest, StopContainerResponse, StopPodSandboxRequest,
    StopPodSandboxResponse, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The id of its sandbox.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The first process of its sandbox.
    pub pid: u32,
}

/// A container in a pod.
#[derive(Clone, Debug)]
pub struct InPod {
    /// Its id.
    pub id: String,
    /// The id of its pod's sandbox.
    pub pod: String,
    /// Its name within the pod.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Its first process.
    pub pid: u32,
}

/// What the runtime knows; a test may change it while it runs.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its containers.
    pub containers: Vec<InPod>,
}

/// A runtime that listens until it is dropped.
pub struct StandIn {
    known: Arc<Mutex<Known>>,
    answered: Arc<Mutex<HashMap<String, Instant>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl StandIn {
    /// Serves what is known on a socket, which is there when this returns.
    ///
    /// # Errors
    ///
    /// There is something at that path, or no room for a thread.
    pub fn start(socket: &Path, known: Known) -> anyhow::Result<Self> {
        let known = Arc::new(Mutex::new(known));
        let (stop, stopped) = oneshot::channel();
        let answered = Arc::default();
        let service = Service { known: known.clone(), answered: Arc::clone(&answered) };
        let service = RuntimeServiceServer::new(service);
        let listener = std::os::unix::net::UnixListener::bind(socket)
            .with_context(|| format!("listen at {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener)?);
                let stopped = async { drop(stopped.await) };
                Ok(Server::builder()
                    .add_service(service)
                    .serve_with_incoming_shutdown(incoming, stopped)
                    .await?)
            })
        });
        Ok(Self { known, answered, stop: Some(stop), thread: Some(thread) })
    }

    /// When it last began to answer what the container or pod of this id is.
    pub fn answered(&self, id: &str) -> Option<Instant> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// Changes what the runtime knows.
    pub fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Dropped, it stops the server too.
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Ok(Err(err))) = ended {
            tracing::error!("serve the stand-in: {err:#}");
        }
    }
}

struct Service {
    known: Arc<Mutex<Known>>,
    answered: Arc<Mutex<HashMap<String, Instant>>>,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

fn now<'a, T: Send + 'a>(answer: Result<T, Status>) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer.map(Response::new)))
}

/// Both runtimes tell the first process under this key, in JSON.
fn info(pid: u32) -> HashMap<String, String> {
    HashMap::from([(String::from("info"), format!(r#"{{"sandboxID":"x","pid":{pid},"config":{{}}}}"#))])
}

impl Service {
    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, id: &str) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), Instant::now());
    }
}

/// What nobody asks this runtime for.
macro_rules! refused {
    ($($name:ident: $asked:ty => $answered:ty;)*) => {
        $(fn $name<'life0, 'async_trait>(&'life0 self, _: Request<$asked>) -> Answer<'async_trait, $answered>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            now(Err(Status::unimplemented(stringify!($name))))
        })*
    };
}

impl RuntimeService for Service {
    type GetContainerEventsStream = tokio_stream::Pending<Result<ContainerEventResponse, Status>>;

    fn container_status<'life0, 'async_trait>(
        &'life0 self,
        asked: Request<ContainerStatusRequest>,
    ) -> Answer<'async_trait, ContainerStatusResponse>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let asked = asked.into_inner();
        self.note(&asked.container_id);
        let found = self.known().containers.into_iter().find(|container| container.id == asked.container_id);
        now(found.ok_or_else(|| Status::not_found("no such container")).map(|container| {
            let status = ContainerStatus {
                id: container.id,
                metadata: Some(ContainerMetadata { name: container.name, attempt: 0 }),
                image: Some(ImageSpec { image: container.image, ..ImageSpec::default() }),
                labels: container.labels,
                ..ContainerStatus::default()
            };
            let info = if asked.verbose { info(container.pid) } else { HashMap::new() };
            ContainerStatusResponse { status: Some(status), info }
        }))
    }

    fn list_containers<'life0, 'async_trait>(
        &'life0 self,
        asked: Request<ListContainersRequest>,
    ) -> Answer<'async_trait, ListContainersResponse>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let wanted = asked.into_inner().filter.unwrap_or_default().id;
        let containers = self.known().containers.into_iter();
        let listed = containers.filter(|container| wanted.is_empty() || container.id == wanted);
        let containers = listed
            .map(|container| Container {
                id: container.id,
                pod_sandbox_id: container.pod,
                ..Container::default()
            })
            .collect();
        now(Ok(ListContainersResponse { containers }))
    }

    fn pod_sandbox_status<'life0, 'async_trait>(
        &'life0 self,
        asked: Request<PodSandboxStatusRequest>,
    ) -> Answer<'async_trait, PodSandboxStatusResponse>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let asked = asked.into_inner();
        self.note(&asked.pod_sandbox_id);
        let found = self.known().pods.into_iter().find(|pod| pod.id == asked.pod_sandbox_id);
        now(found.ok_or_else(|| Status::not_found("no such pod")).map(|pod| {
            let status = PodSandboxStatus { id: pod.id, ..PodSandboxStatus::default() };
            let info = if asked.verbose { info(pod.pid) } else { HashMap::new() };
            PodSandboxStatusResponse { status: Some(status), info, ..PodSandboxStatusResponse::default() }
        }))
    }

    fn list_pod_sandbox<'life0, 'async_trait>(
        &'life0 self,
        asked: Request<ListPodSandboxRequest>,
    ) -> Answer<'async_trait, ListPodSandboxResponse>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let wanted = asked.into_inner().filter.unwrap_or_default().id;
        let pods = self.known().pods.into_iter().filter(|pod| wanted.is_empty() || pod.id == wanted);
        let items = pods
            .map(|pod| {
                let metadata = PodSandboxMetadata {
                    name: pod.name,
                    namespace: pod.namespace,
                    ..PodSandboxMetadata::default()
                };
                PodSandbox { id: pod.id, metadata: Some(metadata), ..PodSandbox::default() }
            })
            .collect();
        now(Ok(ListPodSandboxResponse { items }))
    }

    refused! {
        version: VersionRequest => VersionResponse;
        run_pod_sandbox: RunPodSandboxRequest => RunPodSandboxResponse;
        stop_pod_sandbox: StopPodSandboxRequest => StopPodSandboxResponse;
        remove_pod_sandbox: RemovePodSandboxRequest => RemovePodSandboxResponse;
        create_container: CreateContainerRequest => CreateContainerResponse;
        start_container: StartContainerRequest => StartContainerResponse;
        stop_container: StopContainerRequest => StopContainerResponse;
        remove_container: RemoveContainerRequest => RemoveContainerResponse;
        update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse;
        reopen_container_log: ReopenContainerLogRequest => ReopenContainerLogResponse;
        exec_sync: ExecSyncRequest => ExecSyncResponse;
        exec: ExecRequest => ExecResponse;
        attach: AttachRequest => AttachResponse;
        port_forward: PortForwardRequest => PortForwardResponse;
        container_stats: ContainerStatsRequest => ContainerStatsResponse;
        list_container_stats: ListContainerStatsRequest => ListContainerStatsResponse;
        pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse;
        list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse;
        update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse;
        status: StatusRequest => StatusResponse;
        checkpoint_container: CheckpointContainerRequest => CheckpointContainerResponse;
        get_container_events: GetEventsRequest => Self::GetContainerEventsStream;
        list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse;
        runtime_config: RuntimeConfigRequest => RuntimeConfigResponse;
    }
}
