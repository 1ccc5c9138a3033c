//! A backup of the names, read from the leader piece by piece.
//!
//! It is of one moment: a view of the tables is held until its end. That costs disk for what changes
//! meanwhile, so there is one at a time, and it ends when nobody asks for it any more.

use super::AdminApi;
use crate::backup;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::msg::admin::{BeginExport, NextExport};
use dfs_proto::payload::Payload;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bytes of a piece.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that are ready before they are asked for.
const READY_MAX: usize = 2;
/// A backup that nobody asks for ends after this.
const IDLE_MAX: Duration = Duration::from_secs(60);

type Piece = std::result::Result<Vec<u8>, String>;
type Pieces = Arc<tokio::sync::Mutex<mpsc::Receiver<Piece>>>;

struct Running {
    export: u64,
    pieces: Pieces,
    asked: Instant,
}

/// The backup that is being read.
#[derive(Clone, Default)]
pub(super) struct Exports(Arc<Mutex<(u64, Option<Running>)>>);

impl std::fmt::Debug for Exports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exports").finish_non_exhaustive()
    }
}

impl Exports {
    fn with<T>(&self, f: impl FnOnce(&mut (u64, Option<Running>)) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, pieces: mpsc::Receiver<Piece>) -> u64 {
        self.with(|(last, running)| {
            *last += 1;
            *running = Some(Running {
                export: *last,
                pieces: Arc::new(tokio::sync::Mutex::new(pieces)),
                asked: Instant::now(),
            });
            *last
        })
    }

    fn pieces(&self, export: u64) -> Option<Pieces> {
        self.with(|(_, running)| {
            let running = running.as_mut().filter(|r| r.export == export)?;
            running.asked = Instant::now();
            Some(running.pieces.clone())
        })
    }

    /// Ends it if it is idle; `false` when it is not there any more.
    fn end_idle(&self, export: u64) -> bool {
        self.with(|(_, running)| {
            let Some(present) = running.as_ref().filter(|r| r.export == export) else {
                return false;
            };
            if present.asked.elapsed() > IDLE_MAX {
                log::warn!("a backup of the names is given up: nobody asked for its next piece");
                *running = None;
            }
            true
        })
    }

    fn end(&self, export: u64) {
        self.with(|(_, running)| {
            if running.as_ref().is_some_and(|r| r.export == export) {
                *running = None;
            }
        });
    }
}

/// Hands pieces over; waits for the reader, and fails when it is gone.
struct Sending {
    pieces: mpsc::Sender<Piece>,
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        self.pieces
            .blocking_send(Ok(piece.to_vec()))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AdminApi {
    pub(super) async fn begin_export(self, _: BeginExport) -> Result<u64> {
        // What was acknowledged before the question is in it.
        self.raft.read(|_| Ok(())).await?;
        let raft = self.raft.clone();
        let (sender, pieces) = mpsc::channel(READY_MAX);
        let export = self.exports.begin(pieces);
        tokio::task::spawn_blocking(move || {
            let told = sender.clone();
            let mut out = BufWriter::with_capacity(PIECE_BYTES, Sending { pieces: sender });
            let written = raft
                .with_view(|view| backup::write(&mut out, view))
                .map_err(|e| e.to_string())
                .and_then(|written| written.map_err(|e| e.to_string()))
                .and_then(|_| out.flush().map_err(|e| e.to_string()));
            if let Err(why) = written {
                // Nobody listens if the reader is gone.
                let _ = told.blocking_send(Err(why));
            }
        });
        let exports = self.exports.clone();
        tokio::spawn(async move {
            while exports.end_idle(export) {
                tokio::time::sleep(IDLE_MAX / 4).await;
            }
        });
        Ok(export)
    }

    pub(super) async fn next_export(self, request: NextExport) -> Result<(bool, Payload)> {
        let NextExport { export } = request;
        let gone = || {
            Error::new(
                ErrorCode::NotFound,
                "this backup has ended; begin another one",
            )
        };
        let pieces = self.exports.pieces(export).ok_or_else(gone)?;
        let piece = pieces.lock().await.recv().await;
        match piece {
            Some(Ok(piece)) => Ok((true, Payload::copy_from(&piece))),
            Some(Err(why)) => {
                self.exports.end(export);
                Err(Error::new(ErrorCode::Internal, why))
            }
            None => {
                self.exports.end(export);
                Ok((false, Payload::default()))
            }
        }
    }
}
