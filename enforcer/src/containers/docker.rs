//! The Docker-compatible API, which Docker and Podman speak: what it says of one container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use bollard::{ClientVersion, Docker, errors};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_stream::{Stream, StreamExt as _};

use super::Container;
use super::bounded::Bounded;
use super::cgroup::Runtime;
use super::lookup::Told;

/// Of the API; the oldest that current engines still speak is newer than none of the fields that are read.
const VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// Seconds after which the client itself gives up; the one who asks gives up before.
const CLIENT_TIMEOUT: u64 = 60;

/// What the engine behind `socket` says of a container; `None` if it knows none of this id.
///
/// # Errors
///
/// It cannot be reached, or its answer is none.
pub(super) async fn inspect(
    socket: &Path,
    runtime: Runtime,
    id: &str,
) -> Result<Option<Told>, errors::Error> {
    match client(socket)?.inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(answer) => Ok(told(runtime, id, answer)),
        Err(errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The ids of containers that the engine behind `socket` gives another name from now on, and of those to which it gave one
/// since `since`. It ends when the engine does, and after some thousands of them.
///
/// # Errors
///
/// It cannot be reached, or what it tells is no event.
pub(super) fn renames(
    socket: &Path,
    since: SystemTime,
) -> Result<impl Stream<Item = Result<String, errors::Error>> + use<>, errors::Error> {
    let since = since.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["rename"])]);
    let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
    let events = client(socket)?.events(Some(options));
    Ok(events.filter_map(|event| event.map(|event| event.actor?.id).transpose()))
}

fn client(socket: &Path) -> Result<Docker, errors::Error> {
    let socket = socket.to_path_buf();
    let transport = move |request| Box::pin(request_over(socket.clone(), request));
    Docker::connect_with_custom_transport(transport, Some("http://localhost"), CLIENT_TIMEOUT, &VERSION)
}

/// One connection for one request, of whose answer no more than so much is read.
async fn request_over(
    socket: PathBuf,
    mut request: bollard::BollardRequest,
) -> Result<hyper::Response<hyper::body::Incoming>, errors::Error> {
    // What a client that keeps connections would add.
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let target = request.uri().path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    *request.uri_mut() = target.parse().map_err(|err| errors::Error::from(std::io::Error::other(err)))?;
    let stream = Bounded::new(UnixStream::connect(&socket).await?);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or with the sender.
    tokio::spawn(async move {
        if let Err(err) = connection.await {
            tracing::debug!("speak to container runtime: {err}");
        }
    });
    Ok(sender.send_request(request).await?)
}

fn told(runtime: Runtime, id: &str, answer: ContainerInspectResponse) -> Option<Told> {
    // An engine finds a container by its name too.
    if answer.id.as_deref() != Some(id) {
        return None;
    }
    let pid = answer.state.and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok());
    let config = answer.config.unwrap_or_default();
    let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
    let container = Container {
        id: id.to_owned(),
        runtime,
        name: answer.name.map(|name| name.trim_start_matches('/').to_owned()),
        image: config.image,
        pod: labels.get("io.kubernetes.pod.name").cloned(),
        namespace: labels.get("io.kubernetes.pod.namespace").cloned(),
        labels,
    };
    Some(Told { container, pid: pid.filter(|pid| *pid > 0) })
}
