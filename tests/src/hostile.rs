//! Something that listens where a container runtime should, and answers as it likes. It runs nothing.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;

/// How it answers a question about a container. In a text `ID` stands for what was asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Manner {
    /// With a body of this text.
    Json(String),
    /// As Docker does: with the text for whatever was asked about, and with a rename of each when events are asked for.
    Honest(HashMap<String, String>),
    /// With these bytes and nothing else.
    Raw(&'static str),
    /// With a text of so many bytes that never comes to its end.
    Huge,
    /// With chunks, one after the other, for ever.
    Chunks,
    /// Not at all, while the connection stays.
    Silence,
    /// By closing the connection.
    Closing,
}

/// It listens until its socket is closed with the process; what it holds open is closed with a change of manner.
pub struct Hostile {
    shared: Arc<Shared>,
}

struct Shared {
    manner: Mutex<Manner>,
    held: Mutex<Vec<UnixStream>>,
    asked: AtomicUsize,
}

impl Hostile {
    /// Listens at `socket` and answers in this manner.
    ///
    /// # Errors
    ///
    /// There is something at that path.
    pub fn start(socket: &Path, manner: Manner) -> anyhow::Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("listen at {}", socket.display()))?;
        let (manner, held, asked) = (Mutex::new(manner), Mutex::default(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { manner, held, asked });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                thread::spawn(move || {
                    // Whoever asked has heard enough.
                    drop(shared.answer(&stream));
                });
            }
        });
        Ok(Self { shared })
    }

    /// Answers in another manner from now on.
    pub fn change(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn answer(&self, mut stream: &UnixStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default();
        let id = path.split('/').nth_back(1).unwrap_or_default();
        let manner = self.manner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.asked.fetch_add(1, Ordering::Relaxed);
        match manner {
            Manner::Json(text) => {
                let body = text.replace("ID", id);
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Manner::Honest(known) if path.contains("/events") => {
                write!(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
                known.keys().try_for_each(|id| {
                    writeln!(stream, r#"{{"Type":"container","Action":"rename","Actor":{{"ID":"{id}"}}}}"#)
                })
            }
            Manner::Honest(known) => match known.get(id) {
                Some(body) => write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
                None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{{}}"),
            },
            Manner::Raw(text) => stream.write_all(text.as_bytes()),
            Manner::Huge => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n{{\"Id\":\"")?;
                loop {
                    stream.write_all(&[b'a'; 65_536])?;
                }
            }
            Manner::Chunks => {
                write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[[\r\n")?;
                loop {
                    write!(stream, "4\r\n1, 2\r\n")?;
                }
            }
            Manner::Silence => {
                self.held.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
                Ok(())
            }
            Manner::Closing => Ok(()),
        }
    }
}
