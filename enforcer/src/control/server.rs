//! The server's end: who is let in, what each may do, and how much of the daemon a client can use up.

use std::fs::{self, File, OpenOptions, Permissions};
use std::future::pending;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, error, warn};

use super::connections::Live;
use super::peer::{self, Access, Refused};
use super::report::{self, Host, Subject};
use super::{Applied, Refusal, Request, Snapshot, api};
use crate::audit;
use crate::kernel::feature;
use crate::parser::Parser;
use crate::revision::{InvalidPolicy, Revision};
use crate::{privileges, vital};

/// The description of what is offered here.
const OPENAPI: &str = include_str!("../../openapi.yaml");

/// Connections of root at a time.
const ROOT_CONNECTIONS: usize = 32;

/// Connections of readers at a time; they have their own number, so that they cannot keep root out.
const READER_CONNECTIONS: usize = 32;

/// Connections of strangers that are told that they are; the others are closed without a word.
const STRANGER_CONNECTIONS: usize = 8;

/// Clients that follow events at a time.
const FOLLOWERS: usize = 16;

/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);

/// How long everything else may take, from the request's body to the last byte of the answer, if nobody says otherwise.
pub const DEFAULT_LIFETIME: &str = "2m";

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Bytes of a request's body: a policy of some hundred thousand rules.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// How long the daemon's loop may take to answer: a policy of the largest size is put in force meanwhile.
const LOOP: Duration = Duration::from_secs(60);

/// How long looking at the host may take.
const LOOK: Duration = Duration::from_secs(5);

/// How long to leave a listener alone that gave an error, as when no descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// Threads for what takes time.
const WORKERS: usize = 4;

/// How often a policy is compiled again when another one came into force meanwhile.
const TRIES: usize = 3;

/// A socket that belongs to this daemon alone. The file goes away with it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: StdListener,
    readers: Option<u32>,
    /// Held as long as the socket: whoever has it owns the path.
    _lock: File,
}

impl Socket {
    /// Makes the socket at `path`. What a daemon that has ended left there is replaced.
    ///
    /// # Errors
    ///
    /// Another daemon has it, something else is there, or the directory does not take it.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("make control socket {}", path.display());
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).with_context(context)?;
        }
        let lock = path.with_added_extension("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock);
        let lock = lock.with_context(context)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!(
                "make control socket {}: another enforcer has it\n\
                 hint: stop that one, or give this one `--control` with another path or `none`",
                path.display()
            ),
            Err(fs::TryLockError::Error(err)) => return Err(err).with_context(context),
        }
        match fs::symlink_metadata(path) {
            Ok(left) if left.file_type().is_socket() => fs::remove_file(path).with_context(context)?,
            Ok(_) => bail!("make control socket {}: a file that is no socket is there", path.display()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err).with_context(context),
        }
        let readers = peer::readers().with_context(context)?;
        let listener = bind(path).with_context(context)?;
        listener.set_nonblocking(true).with_context(context)?;
        let socket = Self { path: path.to_path_buf(), listener, readers, _lock: lock };
        // The kernel keeps strangers out already; who comes in is asked again. Until then only root may connect.
        if let Some(readers) = readers {
            // A daemon of that group needs no privilege for it, and may have none.
            if fs::metadata(path).with_context(context)?.gid() != readers {
                std::os::unix::fs::chown(path, None, Some(readers)).with_context(context)?;
            }
            fs::set_permissions(path, Permissions::from_mode(0o660)).with_context(context)?;
        }
        Ok(socket)
    }

    /// Answers clients on a thread of its own, until this process ends. `followed` carries the lines of the audit log, and
    /// `lifetime` is how long a client may take once it has said what it wants.
    ///
    /// # Errors
    ///
    /// There is no thread or no descriptor to be had.
    pub fn serve(
        &self,
        requests: mpsc::Sender<Request>,
        followed: broadcast::Sender<Arc<[u8]>>,
        parser: Parser,
        lifetime: Duration,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WORKERS)
            .build()?;
        let listener = self.listener.try_clone()?;
        let readers = self.readers;
        let server = Arc::new(Server {
            parser,
            lifetime,
            requests,
            followed,
            follower_slots: Arc::new(Semaphore::new(FOLLOWERS)),
            looking: Mutex::new(()),
        });
        vital::spawn("control", move || {
            // Clients are spoken with by who cannot change a map; its workers are made by it and have no more.
            if let Err(err) = privileges::keep_only(privileges::LOOKING) {
                error!("serve control socket: give up capabilities: {err}");
                return;
            }
            runtime.block_on(async {
                match UnixListener::from_std(listener) {
                    Ok(listener) => accept(&listener, readers, &server).await,
                    Err(err) => warn!("serve control socket: {err}"),
                }
            });
        })?;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have put something else there by hand.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.file_type().is_socket())
            && let Err(err) = fs::remove_file(&self.path)
        {
            debug!("remove control socket {}: {err}", self.path.display());
        }
    }
}

/// Binds such that only root can connect. The mode is set before the name is there, by way of a directory of root's own.
fn bind(path: &Path) -> io::Result<StdListener> {
    let directory = path.with_added_extension("new");
    match fs::remove_dir_all(&directory) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        Ok(()) | Err(_) => {}
    }
    fs::DirBuilder::new().create(&directory)?;
    fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
    let fresh = directory.join("s");
    let listener = StdListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    fs::remove_dir(&directory)?;
    debug_assert!(fs::metadata(path).is_ok_and(|made| made.mode() & 0o177 == 0));
    Ok(listener)
}

struct Server {
    parser: Parser,
    /// How long a client may take for everything but the request's head.
    lifetime: Duration,
    requests: mpsc::Sender<Request>,
    followed: broadcast::Sender<Arc<[u8]>>,
    follower_slots: Arc<Semaphore>,
    /// Held by whoever looks at the host, so that many clients do not make many looks at once.
    looking: Mutex<()>,
}

/// Who a request comes from.
#[derive(Clone)]
struct Client {
    access: Result<Access, Refused>,
    peer: Option<audit::Peer>,
    /// Set by an answer that has no end.
    stays: Arc<AtomicBool>,
}

async fn accept(listener: &UnixListener, readers: Option<u32>, server: &Arc<Server>) {
    let (roots, others, strangers) = (
        Arc::new(Semaphore::new(ROOT_CONNECTIONS)),
        Arc::new(Semaphore::new(READER_CONNECTIONS)),
        Arc::new(Semaphore::new(STRANGER_CONNECTIONS)),
    );
    let app = app(server);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                debug!("accept on control socket: {err}");
                wait(PAUSE).await;
                continue;
            }
        };
        let (access, peer) = (peer::access(&stream, readers), peer::who(&stream));
        let slots = match access {
            Ok(Access::Change) => &roots,
            Ok(Access::Read) => &others,
            Err(_) => &strangers,
        };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let stays = Arc::new(AtomicBool::new(false));
                let client = Client { access, peer, stays };
                drop(tokio::spawn(converse(stream, client, app.clone(), slot, server.lifetime)));
            }
            Err(_) => turn_away(&stream),
        }
    }
}

/// Lets time pass, where there is no event to wait for.
async fn wait(time: Duration) {
    if let Ok(never) = timeout(time, pending::<std::convert::Infallible>()).await {
        match never {}
    }
}

/// Says that there is no room, without waiting for anybody.
fn turn_away(stream: &UnixStream) {
    let body = r#"{"error":"use control socket: too many connections","hint":"close some, or try again"}"#;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    // What does not fit into the buffer of a fresh socket is not worth waiting for.
    if let Err(err) = stream.try_write(answer.as_bytes()) {
        debug!("turn a client away: {err}");
    }
}

async fn converse(
    stream: UnixStream,
    client: Client,
    app: Router,
    slot: OwnedSemaphorePermit,
    lifetime: Duration,
) {
    let stays = client.stays.clone();
    let app = app.layer(Extension(client));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(MAX_HEAD)
            // One request for each connection, so that a connection has an end.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
    );
    let ended = match timeout(lifetime, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) if stays.load(Ordering::Relaxed) => connection.await,
        Err(_) => {
            debug!("a client of the control socket took more than {lifetime:?}");
            Ok(())
        }
    };
    if let Err(err) = ended {
        debug!("serve a client of the control socket: {err}");
    }
    drop(slot);
}

fn app(server: &Arc<Server>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/identity", get(identity))
        .route("/v1/connections", get(connections))
        .route("/v1/mode", get(mode))
        .route("/v1/policy", get(policy))
        .route("/v1/policy/diff", post(diff))
        .route("/v1/policy/apply", post(apply))
        .route("/v1/policy/confirm", post(confirm))
        .route("/v1/reload", post(reload))
        .route("/v1/events", get(events))
        .route("/v1/openapi.yaml", get(openapi))
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(axum::middleware::from_fn(only_known))
        .with_state(server.clone())
}

/// Refuses strangers whatever they ask for, and readers what changes something.
async fn only_known(
    Extension(client): Extension<Client>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    match client.access {
        Err(refused) => {
            let hint = format!("run as root, or as a member of group `{}`", peer::GROUP);
            problem(StatusCode::FORBIDDEN, &refused.to_string(), Some(&hint))
        }
        Ok(Access::Read) if request.method() != axum::http::Method::GET => {
            let text = format!("{} {}: only root may", request.method(), request.uri().path());
            problem(StatusCode::FORBIDDEN, &text, Some("run as root"))
        }
        Ok(Access::Read | Access::Change) => next.run(request).await,
    }
}

async fn nothing_here(request: axum::extract::Request) -> Response {
    let text = format!("{} {}: there is no such thing", request.method(), request.uri().path());
    problem(StatusCode::NOT_FOUND, &text, Some("GET /v1/openapi.yaml tells what there is"))
}

async fn other_method(request: axum::extract::Request) -> Response {
    let path = request.uri().path();
    let text = format!("{} {path}: not by this method", request.method());
    let hint = match path {
        "/v1/mode" => "a mode is part of the policy: write it into the file, and reload",
        _ => "GET /v1/openapi.yaml tells what there is",
    };
    problem(StatusCode::METHOD_NOT_ALLOWED, &text, Some(hint))
}

fn problem(status: StatusCode, text: &str, hint: Option<&str>) -> Response {
    let problem = api::Problem { error: text.to_owned(), hint: hint.map(str::to_owned) };
    (status, Json(problem)).into_response()
}

/// Why a request is not answered as it was meant.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(status, text) = self;
        let (text, hint) = match text.split_once("\nhint: ") {
            // Of several findings each has its own hint, which stays where it is.
            Some((text, hint)) if !text.contains('\n') && !hint.contains('\n') => (text, Some(hint)),
            Some(_) | None => (text.as_str(), None),
        };
        problem(status, text, hint)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Overtaken | Refusal::Unconfirmed(_) | Refusal::NothingToConfirm => StatusCode::CONFLICT,
            Refusal::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self(status, refusal.to_string())
    }
}

impl From<InvalidPolicy> for Failed {
    fn from(invalid: InvalidPolicy) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, invalid.0)
    }
}

type Answer<T> = Result<Json<T>, Failed>;

impl Server {
    /// Asks the loop for something.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Failed> {
        let unavailable = || {
            let text =
                "ask the daemon: it does not answer\nhint: it is stopping, or busy with a large policy";
            Failed(StatusCode::SERVICE_UNAVAILABLE, String::from(text))
        };
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.requests.send(request(sender)).await.ok()?;
            receiver.await.ok()
        };
        timeout(LOOP, asked).await.ok().flatten().ok_or_else(unavailable)
    }

    async fn snapshot(&self) -> Result<Snapshot, Failed> {
        self.ask(Request::Snapshot).await
    }

    /// Looks at the host, and answers from that.
    async fn look<T: Serialize + Send + 'static>(
        &self,
        answer: impl FnOnce(&Snapshot, &Host) -> Result<T, Failed> + Send + 'static,
    ) -> Answer<T> {
        let turn = self.looking.lock().await;
        let snapshot = self.snapshot().await?;
        let looked = work(move || {
            let host = Host::look(&snapshot, Instant::now() + LOOK).map_err(|err| {
                Failed(StatusCode::INTERNAL_SERVER_ERROR, format!("look at the host: {err}"))
            })?;
            answer(&snapshot, &host)
        });
        let answer = looked.await?;
        drop(turn);
        Ok(Json(answer))
    }
}

/// Does what takes time where nobody waits for it.
async fn work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|err| Failed(StatusCode::INTERNAL_SERVER_ERROR, format!("answer: {err}")))?
}

async fn status(State(server): State<Arc<Server>>) -> Answer<api::Status> {
    server.look(|snapshot, host| Ok(report::status(snapshot, host))).await
}

async fn services(State(server): State<Arc<Server>>) -> Answer<api::Services> {
    server.look(|snapshot, host| Ok(report::services(snapshot, host))).await
}

#[derive(Deserialize)]
struct Of {
    of: String,
}

async fn identity(
    State(server): State<Arc<Server>>,
    query: Result<Query<Of>, QueryRejection>,
) -> Answer<api::Identity> {
    let bad = |text: String| Failed(StatusCode::BAD_REQUEST, text);
    let Query(Of { of }) = query.map_err(|err| {
        bad(format!("look up identity: {err}\nhint: ask for /v1/identity?of=PID, CGROUP or ADDRESS:PORT"))
    })?;
    let mount = feature::cgroup2_mount().map_err(|err| bad(err.to_string()))?;
    let subject = Subject::parse(&of, &mount).map_err(bad)?;
    let not_found = |text| Failed(StatusCode::NOT_FOUND, text);
    server
        .look(move |snapshot, host| report::identity(&of, &subject, snapshot, host).map_err(not_found))
        .await
}

async fn mode(State(server): State<Arc<Server>>) -> Answer<api::Modes> {
    Ok(Json(report::modes(&server.snapshot().await?)))
}

async fn policy(State(server): State<Arc<Server>>) -> Answer<api::Policy> {
    let snapshot = server.snapshot().await?;
    work(move || Ok(Json(report::policy(&snapshot)))).await
}

async fn connections(State(server): State<Arc<Server>>) -> Answer<api::Connections> {
    let turn = server.looking.lock().await;
    let snapshot = server.snapshot().await?;
    let looked = work(move || {
        let live = Live::look(&snapshot).map_err(|err| unseen(&err))?;
        Ok(Json(live.connections(&snapshot).map_err(|err| unseen(&err))?))
    });
    let answer = looked.await;
    drop(turn);
    answer
}

fn unseen(err: &io::Error) -> Failed {
    Failed(StatusCode::INTERNAL_SERVER_ERROR, format!("look at live connections: {err}"))
}

async fn diff(State(server): State<Arc<Server>>, body: Body) -> Answer<api::Diff> {
    let proposal = proposal(body).await?;
    let turn = server.looking.lock().await;
    let snapshot = server.snapshot().await?;
    let parser = server.parser;
    let compared = work(move || {
        let after = successor(parser, &snapshot.revision, &proposal)?;
        let mut changes = report::changes(&snapshot.revision, &after);
        let live = Live::look(&snapshot).map_err(|err| unseen(&err))?;
        changes.dying = Some(live.dying(&snapshot, &after).map_err(|err| unseen(&err))?);
        Ok(Json(changes))
    });
    let answer = compared.await;
    drop(turn);
    answer
}

async fn apply(
    State(server): State<Arc<Server>>,
    Extension(client): Extension<Client>,
    body: Body,
) -> Answer<api::Applied> {
    let proposal = Arc::new(proposal(body).await?);
    let confirm_within_seconds = proposal.confirm_within_seconds;
    if confirm_within_seconds.is_some_and(|seconds| !api::CONFIRM_WITHIN.contains(&seconds)) {
        let (least, most) = (api::CONFIRM_WITHIN.start(), api::CONFIRM_WITHIN.end());
        let text = format!("read confirm_within_seconds: not a number from {least} to {most}");
        return Err(Failed(StatusCode::BAD_REQUEST, text));
    }
    let parser = server.parser;
    let mut refused = Refusal::Overtaken;
    for _ in 0..TRIES {
        let before = server.snapshot().await?.revision;
        let compiled = proposal.clone();
        let revision = work(move || successor(parser, &before, &compiled)).await?;
        let confirm_within = confirm_within_seconds.map(Duration::from_secs);
        let wanted = Box::new(super::Proposal { revision, confirm_within, by: client.peer });
        match server.ask(|answer| Request::Apply(wanted, answer)).await? {
            Ok(Applied { before, after }) => {
                return work(move || {
                    Ok(Json(api::Applied {
                        revision: after.tables.revision,
                        confirm_within_seconds,
                        changes: report::changes(&before, &after),
                    }))
                })
                .await;
            }
            Err(Refusal::Overtaken) => refused = Refusal::Overtaken,
            Err(other) => return Err(other.into()),
        }
    }
    Err(refused.into())
}

/// The policy that a client wants after the one in force.
fn successor(parser: Parser, before: &Revision, proposal: &api::Proposal) -> Result<Revision, Failed> {
    let documents = report::documents(proposal)?;
    let loaded = parser
        .compile_documents(documents, || {})
        .map_err(|err| Failed(StatusCode::INTERNAL_SERVER_ERROR, err.to_string()))?;
    Ok(Revision::of(loaded, before.identities.clone(), before.tables.revision + 1, &before.tables.top)?)
}

async fn proposal(body: Body) -> Result<api::Proposal, Failed> {
    // What is announced to be too much is not waited for.
    if hyper::body::Body::size_hint(&body).lower() > u64::try_from(MAX_BODY).unwrap_or(u64::MAX) {
        let text = format!("read the policy: it has more than {MAX_BODY} bytes");
        return Err(Failed(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|err| {
        let text = format!("read the policy, of at most {MAX_BODY} bytes: {err}");
        Failed(StatusCode::PAYLOAD_TOO_LARGE, text)
    })?;
    work(move || {
        serde_json::from_slice(&bytes)
            .map_err(|err| Failed(StatusCode::BAD_REQUEST, format!("read the policy: {err}")))
    })
    .await
}

async fn confirm(
    State(server): State<Arc<Server>>,
    Extension(client): Extension<Client>,
) -> Answer<api::InForce> {
    let revision = server.ask(|answer| Request::Confirm(client.peer, answer)).await??;
    Ok(Json(api::InForce { revision }))
}

async fn reload(
    State(server): State<Arc<Server>>,
    Extension(client): Extension<Client>,
) -> Answer<api::InForce> {
    let reloaded = server.ask(|answer| Request::Reload(client.peer, answer)).await?;
    let refused = |text| Failed(StatusCode::UNPROCESSABLE_ENTITY, text);
    Ok(Json(api::InForce { revision: reloaded.map_err(refused)? }))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI).into_response()
}

async fn events(
    State(server): State<Arc<Server>>,
    Extension(client): Extension<Client>,
) -> Result<Response, Failed> {
    let slot = server.follower_slots.clone().try_acquire_owned().map_err(|err| {
        let text = format!("follow events: {FOLLOWERS} clients do already: {err}");
        Failed(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    client.stays.store(true, Ordering::Relaxed);
    let (sender, lines) = mpsc::channel(1);
    drop(tokio::spawn(follow(server.followed.subscribe(), sender, slot)));
    let lines = Body::new(Lines(lines));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Hands lines on as fast as the client takes them. What it does not take in time is lost to it, and it is told so.
async fn follow(
    mut followed: broadcast::Receiver<Arc<[u8]>>,
    client: mpsc::Sender<Bytes>,
    slot: OwnedSemaphorePermit,
) {
    loop {
        let line = tokio::select! {
            line = followed.recv() => line,
            () = client.closed() => break,
        };
        let line = match line {
            Ok(line) => Bytes::from_owner(line),
            Err(broadcast::error::RecvError::Lagged(count)) => {
                Bytes::from(format!("{{\"kind\":\"lost\",\"cause\":\"slow-reader\",\"count\":{count}}}\n"))
            }
            Err(broadcast::error::RecvError::Closed) => break,
        };
        if client.send(line).await.is_err() {
            break;
        }
    }
    drop(slot);
}

/// A body of lines that come one by one.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
