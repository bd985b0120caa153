//! The commands' end of the control socket.

use std::error::Error as _;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::api;
use super::peer;

/// How long the daemon may take to answer: it compiles a policy of the largest size meanwhile.
const PATIENCE: Duration = Duration::from_secs(150);

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// An answer, as it came and as it is meant.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The JSON text.
    pub text: String,
    /// What it says.
    pub value: T,
}

impl Client {
    /// The daemon at `socket`; nothing is asked yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// No daemon answers, or it refuses; its words are in the error.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Answer<T>> {
        self.call(Method::GET, path, Bytes::new())
    }

    /// Has something changed, or compared.
    ///
    /// # Errors
    ///
    /// No daemon answers, or it refuses; its words are in the error.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Answer<T>> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into())
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer<T>> {
        runtime()?.block_on(async {
            let answered = timeout(PATIENCE, async {
                let response = self.send(method, path, body).await?;
                let status = response.status();
                let body = response.into_body().collect().await.context("read the daemon's answer")?;
                anyhow::Ok((status, body.to_bytes()))
            });
            let (status, body) = answered.await.with_context(|| {
                format!("ask the daemon at {}: no answer within {PATIENCE:?}", self.socket.display())
            })??;
            if !status.is_success() {
                return Err(refusal(&body).unwrap_or_else(|| anyhow!("ask the daemon: {status}")));
            }
            let text = String::from_utf8(body.into()).context("read the daemon's answer")?;
            let value = serde_json::from_str(&text).with_context(|| {
                format!(
                    "read the daemon's answer to {path}\nhint: it may be of another version than this command"
                )
            })?;
            Ok(Answer { text, value })
        })
    }

    /// Copies the lines of `path` to `out` as they come, until either side ends.
    ///
    /// # Errors
    ///
    /// No daemon answers, or it refuses, or `out` takes nothing.
    pub fn follow(&self, path: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let mut response = self.send(Method::GET, path, Bytes::new()).await?;
            if !response.status().is_success() {
                let status = response.status();
                let body =
                    response.into_body().collect().await.context("read the daemon's answer")?.to_bytes();
                return Err(refusal(&body).unwrap_or_else(|| anyhow!("ask the daemon: {status}")));
            }
            while let Some(frame) = response.frame().await {
                let Ok(frame) = frame else { bail!("follow events: the daemon has ended") };
                let Some(lines) = frame.data_ref() else { continue };
                match out.write_all(lines).and_then(|()| out.flush()) {
                    Err(err) if err.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    other => other.context("write events")?,
                }
            }
            Ok(())
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|err| {
            if fs::metadata(&self.socket).is_ok_and(|found| !found.file_type().is_socket()) {
                // The kernel would only say that the connection is refused.
                return anyhow!(
                    "connect to control socket {}: it is not a socket\nhint: `--control` names the socket that \
                     `enforcer run` has made",
                    self.socket.display()
                );
            }
            let hint = match err.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("run as root, or as a member of group `{}`", peer::GROUP)
                }
                _ => String::from("is `enforcer run` running? `--control` names another socket"),
            };
            anyhow!("connect to control socket {}: {err}\nhint: {hint}", self.socket.display())
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, and what went wrong is told by the answer that does not come.
        drop(tokio::spawn(connection));
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "enforcer")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        sender.send_request(request).await.map_err(|err| {
            let text = "ask the daemon: it has closed the connection without an answer\n\
                        hint: it is stopping, or has as many clients as it serves at a time; try again";
            let is_closed =
                err.is_incomplete_message() || err.is_closed() || err.is_canceled() || is_reset(&err);
            if is_closed { anyhow!(text) } else { anyhow!(err).context("ask the daemon") }
        })
    }
}

/// Whether the other end has closed the connection while there was something for it to read.
fn is_reset(err: &hyper::Error) -> bool {
    let cause = err.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(cause.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

/// The daemon's own words.
fn refusal(body: &[u8]) -> Option<anyhow::Error> {
    let api::Problem { error, hint } = serde_json::from_slice(body).ok()?;
    Some(match hint {
        Some(hint) => anyhow!("{error}\nhint: {hint}"),
        None => anyhow!(error),
    })
}
