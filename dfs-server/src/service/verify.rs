//! Reading and checking everything that is held, a page at a time.

use crate::chunk::ChunkStore;
use dfs_proto::limits::INVENTORY_PAGE_ITEMS_MAX;
use dfs_proto::msg::control::{VerifiedChunk, VerifiedPage, VerifyChunks};
use std::time::{Duration, Instant};

/// A page ends after this, so that it is answered before its deadline whatever the chunks' size.
const PAGE_TIME: Duration = Duration::from_secs(2);

/// Verifies the next chunks of a group. Blocks.
pub(super) fn page(store: &ChunkStore, request: VerifyChunks) -> VerifiedPage {
    let max = (request.items_max as usize).clamp(1, INVENTORY_PAGE_ITEMS_MAX);
    let (listed, mut end) = store.list(request.group, request.after, max);
    let started = Instant::now();
    let mut chunks = Vec::with_capacity(listed.len());
    let total = listed.len();
    for (at, (key, state)) in listed.into_iter().enumerate() {
        let mut verified = VerifiedChunk {
            key,
            generation: state.generation,
            version: state.version,
            digest: Ok(0),
            len: state.len,
        };
        match store.verify(key) {
            Ok(Some(found)) => {
                verified.generation = found.generation;
                verified.version = found.version;
                verified.len = found.len;
                verified.digest = found.digest.map_err(|damage| damage.to_string());
            }
            // Removed since it was listed.
            Ok(None) => continue,
            Err(error) => verified.digest = Err(error.to_string()),
        }
        if let Err(damage) = &verified.digest {
            log::error!("{key} of {}: {damage}", request.group);
        }
        chunks.push(verified);
        if started.elapsed() > PAGE_TIME && at + 1 < total {
            end = false;
            break;
        }
    }
    VerifiedPage { chunks, end }
}
