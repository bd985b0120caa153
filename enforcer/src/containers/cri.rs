//! The container runtime interface of Kubernetes, which containerd and CRI-O speak: what it says of one container or pod.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::io;
use std::path::Path;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerFilter, ContainerStatus, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    PodSandbox, PodSandboxFilter, PodSandboxStatusRequest,
};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

use super::Container;
use super::bounded::Bounded;
use super::cgroup::Runtime;
use super::lookup::Told;

/// Why a runtime has told nothing.
#[derive(Debug, Error)]
pub(super) enum CriError {
    /// Nobody listens.
    #[error("{0}")]
    Connect(#[from] io::Error),
    /// What listens does not speak HTTP/2.
    #[error("{0}")]
    Transport(#[from] tonic::transport::Error),
    /// It refuses, or its answer is none.
    #[error("{}: {}", .0.code(), .0.message())]
    Answer(#[from] Status),
}

/// What both runtimes add to an answer that is asked to be verbose, under the key `info`: their own, by the interface's
/// word for whatever they like.
#[derive(Deserialize, Default)]
struct Info {
    /// The first process.
    pid: Option<i32>,
}

/// What the runtime behind `socket` says of a container, or of a pod's sandbox, which has a cgroup like one; `None` if it
/// knows none of this id.
///
/// # Errors
///
/// It cannot be reached, or its answer is none.
pub(super) async fn inspect(socket: &Path, runtime: Runtime, id: &str) -> Result<Option<Told>, CriError> {
    let mut client = RuntimeServiceClient::new(connect(socket).await?);
    // Lists first: that a list has nothing is no error, and the runtime logs nothing while it is about to make a container.
    let filter = ContainerFilter { id: id.to_owned(), ..ContainerFilter::default() };
    let listed = client.list_containers(ListContainersRequest { filter: Some(filter) }).await?.into_inner();
    let Some(listed) = listed.containers.into_iter().find(|container| container.id == id) else {
        let Some(pod) = pod(&mut client, id).await? else { return Ok(None) };
        let asked = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = known(client.pod_sandbox_status(asked).await)?.unwrap_or_default();
        return Ok(Some(told(runtime, id, None, Some(pod), &answer.info)));
    };
    // Only the list tells in which pod it is, and only the status has the image as it was asked for, and the process.
    let asked = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let Some(answer) = known(client.container_status(asked).await)? else { return Ok(None) };
    let Some(status) = answer.status.filter(|status| status.id == id) else { return Ok(None) };
    let pod = pod(&mut client, &listed.pod_sandbox_id).await?;
    Ok(Some(told(runtime, id, Some(status), pod, &answer.info)))
}

/// A connection that is made once, and bounded as a whole.
async fn connect(socket: &Path) -> Result<Channel, CriError> {
    let mut stream = Some(TokioIo::new(Bounded::new(UnixStream::connect(socket).await?)));
    let connector = move |_: Uri| {
        ready(stream.take().ok_or_else(|| io::Error::other("the runtime has closed the connection")))
    };
    // The name is only what the request says; where it goes, the connector knows.
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(service_fn(connector)).await?)
}

async fn pod(client: &mut RuntimeServiceClient<Channel>, id: &str) -> Result<Option<PodSandbox>, Status> {
    let filter = PodSandboxFilter { id: id.to_owned(), ..PodSandboxFilter::default() };
    let listed = client.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await?.into_inner();
    Ok(listed.items.into_iter().find(|pod| pod.id == id))
}

/// An answer, unless the runtime says that it knows none of this id.
fn known<T>(answer: Result<tonic::Response<T>, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// `container` is none for the sandbox of the pod itself.
fn told(
    runtime: Runtime,
    id: &str,
    container: Option<ContainerStatus>,
    pod: Option<PodSandbox>,
    info: &HashMap<String, String>,
) -> Told {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let metadata = pod.as_ref().and_then(|pod| pod.metadata.clone());
    let (pod_name, namespace) = metadata.map_or((None, None), |pod| (given(pod.name), given(pod.namespace)));
    let (name, image, labels) = match container {
        Some(status) => {
            let image = status.image.unwrap_or_default();
            let image = given(image.user_specified_image).or_else(|| given(image.image));
            (status.metadata.and_then(|metadata| given(metadata.name)), image, status.labels)
        }
        None => (None, None, pod.map(|pod| pod.labels).unwrap_or_default()),
    };
    let labels: BTreeMap<String, String> = labels.into_iter().collect();
    // What is no JSON names no process, and so proves nothing.
    let info: Info = info.get("info").and_then(|info| serde_json::from_str(info).ok()).unwrap_or_default();
    let container = Container { id: id.to_owned(), runtime, name, image, labels, pod: pod_name, namespace };
    Told { container, pid: info.pid.filter(|pid| *pid > 0) }
}
