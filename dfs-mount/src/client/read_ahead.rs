//! Fetching ahead of a handle that is read in sequence, also where the kernel does not: reads of
//! direct I/O come one after the other.
//!
//! A piece is a read like any other: under a lease, after the earlier writes of its bytes. It may
//! be served later as long as that right was never lost (nobody else can have written) and this
//! mount has not begun a write to the inode since. Whoever serves it holds the right himself.

use super::clock;
use super::core::Core;
use super::gate::Access;
use super::guard::lock;
use super::inode::Inode;
use super::lease_use::LeaseUse;
use super::opens::Open;
use super::read::with_zeros;
use super::session::Session;
use super::stream::Stream;
use dfs_proto::layout::FileLayout;
use dfs_proto::payload::Payload;
use dfs_proto::timing::SERVER_SILENT;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Pieces that are kept or being fetched, of all handles: at most so many MiB.
const PIECES_MAX: usize = 64;

/// A fetch that takes longer is given up: it holds the lease in use, and nobody waits for it who
/// could be interrupted.
const FETCH_DEADLINE: Duration = SERVER_SILENT;

/// Pieces of a handle that nobody reads are dropped after this.
const IDLE_KEPT: Duration = Duration::from_secs(1);

/// What a piece was read under. Equal: what was read then is the present content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Basis {
    pub(super) era: u64,
    /// Writes of this mount that have begun.
    pub(super) changes: u64,
}

#[derive(Clone, Debug)]
struct Fetched {
    bytes: Payload,
    _place: Arc<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Piece {
    start: u64,
    end: u64,
    /// `None` while it is being fetched; the sender goes without a value when that failed.
    bytes: watch::Receiver<Option<Fetched>>,
}

#[derive(Debug, Default)]
struct State {
    stream: Stream,
    /// What all pieces were read under.
    basis: Option<Basis>,
    /// Following each other.
    pieces: VecDeque<Piece>,
    used_at: u64,
}

/// The read-ahead of one handle.
#[derive(Debug, Default)]
pub(super) struct ReadAhead(Mutex<State>);

impl ReadAhead {
    /// The pieces that cover a range, if it is covered. Those behind it are done with.
    fn covering(&self, basis: Basis, start: u64, end: u64) -> Option<Vec<Part>> {
        let mut state = lock(&self.0);
        state.used_at = clock::now();
        if state.basis != Some(basis) {
            state.basis = Some(basis);
            state.pieces.clear();
            state.stream.restart();
            return None;
        }
        let mut at = start;
        let mut parts = Vec::new();
        for piece in &state.pieces {
            if piece.start <= at && at < piece.end && at < end {
                let until = piece.end.min(end);
                parts.push(Part {
                    place: (at - start) as usize,
                    from: (at - piece.start) as usize,
                    len: (until - at) as usize,
                    bytes: piece.bytes.clone(),
                });
                at = until;
            }
        }
        // The kernel's own requests may come a little out of order.
        let passed = start.saturating_sub(super::stream::PIECE_BYTES);
        while state.pieces.front().is_some_and(|p| p.end <= passed) {
            state.pieces.pop_front();
        }
        (at >= end).then_some(parts)
    }

    /// Whether pieces are there, and none of them is still being fetched.
    #[cfg(test)]
    pub(super) fn is_complete(&self) -> bool {
        let state = lock(&self.0);
        !state.pieces.is_empty() && state.pieces.iter().all(|p| p.bytes.borrow().is_some())
    }

    fn drop_idle(&self) {
        let mut state = lock(&self.0);
        if !state.pieces.is_empty() && clock::elapsed(state.used_at) > IDLE_KEPT {
            state.pieces.clear();
            state.stream.lost();
        }
    }
}

/// A part of a read, and the piece it is in.
struct Part {
    place: usize,
    from: usize,
    len: usize,
    bytes: watch::Receiver<Option<Fetched>>,
}

/// Where the bytes of a read are.
pub(super) struct FoundAhead {
    parts: Vec<Part>,
    len: usize,
}

impl FoundAhead {
    /// Waits for what is still being fetched; `None` if that failed. Not to be waited for with a
    /// place in the order of the inode: a fetch may wait for a write that waits for that place.
    pub(super) async fn bytes(self) -> Option<Payload> {
        let mut ready = Vec::with_capacity(self.parts.len());
        for mut part in self.parts {
            let fetched = part.bytes.wait_for(Option::is_some).await.ok()?.clone()?;
            let bytes = fetched.bytes.slice(part.from..part.from + part.len);
            ready.push((part.place, bytes));
        }
        if let [(_, bytes)] = &ready[..] {
            return Some(bytes.clone());
        }
        Some(with_zeros(self.len, ready.into_iter()))
    }
}

/// All handles of a mount that have read ahead.
#[derive(Debug)]
pub(super) struct AheadHandles {
    places: Arc<Semaphore>,
    handles: Mutex<Vec<Weak<Open>>>,
}

impl Default for AheadHandles {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PIECES_MAX)),
            handles: Mutex::default(),
        }
    }
}

impl AheadHandles {
    /// Lets go of what nobody reads. To be called about every second.
    pub(super) fn sweep(&self) {
        lock(&self.handles).retain(|handle| match handle.upgrade() {
            Some(open) => {
                open.ahead.drop_idle();
                !lock(&open.ahead.0).pieces.is_empty()
            }
            None => false,
        });
    }
}

/// A read that is about to be made: bytes `start..end`, within the size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) size: u64,
    pub(super) layout: FileLayout,
}

impl Core {
    /// What a read finds fetched ahead, or being fetched; and begins to fetch what will probably
    /// be read next. `right` is in use and `basis` is of now.
    pub(super) fn from_ahead(
        self: &Arc<Self>,
        open: &Arc<Open>,
        right: &LeaseUse,
        session: &Arc<Session>,
        basis: Basis,
        wanted: Wanted,
    ) -> Option<FoundAhead> {
        let parts = open.ahead.covering(basis, wanted.start, wanted.end);
        self.fetch_ahead(open, right, session, wanted);
        Some(FoundAhead {
            parts: parts?,
            len: (wanted.end - wanted.start) as usize,
        })
    }

    fn fetch_ahead(
        self: &Arc<Self>,
        open: &Arc<Open>,
        right: &LeaseUse,
        session: &Arc<Session>,
        wanted: Wanted,
    ) {
        let mut state = lock(&open.ahead.0);
        let first = state.pieces.is_empty();
        let pieces = state.stream.read(wanted.start, wanted.end, wanted.size);
        for (start, end) in pieces {
            let place = self.ahead.places.clone().try_acquire_owned().ok();
            let (Some(place), Some(right)) = (place, right.also()) else {
                state.stream.lost();
                break;
            };
            let (tell, bytes) = watch::channel(None);
            state.pieces.push_back(Piece { start, end, bytes });
            let (core, inode, session) = (self.clone(), open.inode.clone(), session.clone());
            self.data.spawn(async move {
                let fetch = core.fetch_piece(&inode, session, wanted.layout, start, end);
                let fetched = tokio::time::timeout(FETCH_DEADLINE, fetch).await;
                // A failure is for the read itself to meet.
                let bytes = fetched.ok().flatten().filter(|_| right.is_valid());
                drop(right);
                if let Some(bytes) = bytes {
                    let _place = Arc::new(place);
                    tell.send_replace(Some(Fetched { bytes, _place }));
                }
            });
        }
        if first && !state.pieces.is_empty() {
            drop(state);
            lock(&self.ahead.handles).push(Arc::downgrade(open));
        }
    }

    async fn fetch_piece(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: Arc<Session>,
        layout: FileLayout,
        start: u64,
        end: u64,
    ) -> Option<Payload> {
        let _turn = inode.turn(Access::Read { start, end }, layout).await;
        let len = (end - start) as usize;
        let read = self.read_range(inode, session, layout, start, len);
        read.await.ok()
    }
}
