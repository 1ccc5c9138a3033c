//! What the directory asks of a file server for `dfsctl scrub` and `dfsctl fsck`.

use super::Scrubber;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ChunkIndex, ChunkKey, InodeId};
use dfs_proto::limits::INVENTORY_PAGE_ITEMS_MAX;
use dfs_proto::msg::Request;
use dfs_proto::msg::scrub::{
    DropStray, GetScrubState, HeldCopy, HeldPage, ListHeld, Quarantined, ScrubChunks, ScrubState,
    ScrubbedPage,
};
use dfs_proto::payload::Payload;
use dfs_proto::transport::Incoming;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A page ends after this time.
const PAGE_TIME: Duration = Duration::from_secs(2);

impl Scrubber {
    /// Whether a method is answered here.
    pub(crate) fn serves(method: u16) -> bool {
        [
            ScrubChunks::METHOD,
            GetScrubState::METHOD,
            ListHeld::METHOD,
            DropStray::METHOD,
        ]
        .contains(&method)
    }

    pub(crate) fn serve(self: Arc<Self>, incoming: Incoming) {
        match incoming.method {
            ScrubChunks::METHOD => self.spawn(incoming, Self::scrub),
            GetScrubState::METHOD => self.spawn(incoming, Self::state),
            ListHeld::METHOD => self.spawn(incoming, Self::held),
            DropStray::METHOD => self.spawn(incoming, Self::drop_stray),
            _ => incoming.refuse_unknown(),
        }
    }

    fn spawn<R, F>(self: Arc<Self>, incoming: Incoming, handle: impl FnOnce(Arc<Self>, R) -> F)
    where
        R: Request,
        F: Future<Output = Result<R::Response>> + Send + 'static,
    {
        match incoming.decode::<R>() {
            Ok(request) => {
                let answer = handle(self, request);
                tokio::spawn(async move {
                    incoming.answer::<R>(answer.await, Payload::default());
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }

    async fn scrub(self: Arc<Self>, request: ScrubChunks) -> Result<ScrubbedPage> {
        let group = request.group;
        let after = match request.inode {
            Some(inode) => request.after.max(before(inode)),
            None => request.after,
        };
        let listed = self.keys(group, after).await?;
        let began = Instant::now();
        let mut page = ScrubbedPage {
            next: listed.next,
            ..ScrubbedPage::default()
        };
        for key in listed.keys {
            if request.inode.is_some_and(|inode| key.inode != inode) {
                page.next = None;
                break;
            }
            match self.compare(group, key).await {
                Ok(scrubbed) => {
                    page.chunks += 1;
                    page.bytes += scrubbed.bytes;
                    page.findings.extend(scrubbed.findings);
                }
                Err(error) if error.code == ErrorCode::Overloaded => page.skipped += 1,
                Err(error) => return Err(error),
            }
            if began.elapsed() > PAGE_TIME {
                page.next = Some(key);
                break;
            }
        }
        Ok(page)
    }

    async fn state(self: Arc<Self>, _: GetScrubState) -> Result<ScrubState> {
        let led = self.driver.led();
        let store = self.driver.store().clone();
        let kept = tokio::task::spawn_blocking(move || store.quarantined()).await;
        let kept = kept.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
        let plan = self.plan();
        let passes = || led.iter().map(|group| plan.pass(*group));
        let ended = passes().flatten().filter(|p| !p.never && !p.running);
        let total = |sum: &std::sync::atomic::AtomicU64| sum.load(Ordering::Relaxed);
        Ok(ScrubState {
            every_s: self.every.as_secs(),
            rate: self.rate,
            groups: led.len() as u32,
            never: passes().filter(|p| p.is_none_or(|p| p.never)).count() as u32,
            running: passes().flatten().filter(|p| p.running).count() as u32,
            oldest_s: ended.map(|p| p.at).min().unwrap_or(0),
            chunks: total(&self.totals.chunks),
            bytes: total(&self.totals.bytes),
            found: total(&self.totals.found),
            repaired: total(&self.totals.repaired),
            quarantined: kept
                .into_iter()
                .map(|copy| Quarantined {
                    key: copy.key,
                    at_s: copy.at,
                    bytes: copy.bytes,
                    why: copy.why,
                })
                .collect(),
        })
    }

    async fn held(self: Arc<Self>, request: ListHeld) -> Result<HeldPage> {
        let max = (request.items_max as usize).clamp(1, INVENTORY_PAGE_ITEMS_MAX);
        let listed = self.driver.store().list(request.group, request.after, max);
        let (chunks, end) = listed;
        let chunks = chunks
            .into_iter()
            .map(|(key, state)| HeldCopy {
                key,
                generation: state.generation,
                version: state.version,
                len: state.len,
                damaged: state.damaged,
            })
            .collect();
        Ok(HeldPage { chunks, end })
    }

    async fn drop_stray(self: Arc<Self>, request: DropStray) -> Result<u32> {
        let driver = self.driver.clone();
        let dropping = tokio::task::spawn_blocking(move || {
            let mut dropped = 0;
            for (key, version) in request.copies {
                if driver.drop_stray(request.group, key, version)? {
                    log::info!(
                        "{key} of {} is removed: this server is no member",
                        request.group
                    );
                    dropped += 1;
                }
            }
            Ok(dropped)
        });
        let dropped = dropping.await;
        dropped.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?
    }
}

/// The last key before those of an inode.
fn before(inode: InodeId) -> Option<ChunkKey> {
    Some(ChunkKey {
        inode: InodeId(inode.0.checked_sub(1)?),
        index: ChunkIndex(u64::MAX),
    })
}
