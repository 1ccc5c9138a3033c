//! Compares the replicas of a group: every in-sync member reads and checks what it holds, and
//! here it is compared, a page at a time.
//!
//! The members are read at slightly different moments, so a chunk that is being written may
//! look different: what differs is read again before it is called a fault.

use super::AdminApi;
use crate::tasks::View;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId, ServerId};
use dfs_proto::msg::admin::{Fault, Verified, VerifyGroup};
use dfs_proto::msg::control::{VerifiedChunk, VerifiedPage, VerifyChunks};
use dfs_proto::payload::Payload;
use dfs_proto::transport::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;

/// Chunks of one page: 64 MiB to read with chunks of 4 MiB.
const PAGE_ITEMS_MAX: u32 = 16;

/// A page may have to be read from a slow, busy disk.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);

/// Readings of a chunk that looks different, and the pause before each.
const READINGS_MAX: u32 = 4;
const READING_PAUSE: Duration = Duration::from_millis(150);

/// What the servers hold of one chunk.
type Copies = BTreeMap<ServerId, VerifiedChunk>;

impl AdminApi {
    pub(super) async fn verify(self, request: VerifyGroup) -> Result<Verified> {
        let _permit = self
            .verifications
            .acquire()
            .await
            .map_err(|_| Error::bare(ErrorCode::ShuttingDown))?;
        let group = request.group;
        let members = members(&self.placement.view(), group)?;
        let servers: BTreeSet<ServerId> = members.keys().copied().collect();
        let pages = read(&members, group, request.after, PAGE_ITEMS_MAX).await?;
        let (mut chunks, next) = merge(pages);
        for (key, copies) in &mut chunks {
            let mut readings = 1;
            while readings < READINGS_MAX && !faults(*key, copies, &servers).is_empty() {
                readings += 1;
                tokio::time::sleep(READING_PAUSE).await;
                let again = read(&members, group, before(*key), 1).await?;
                *copies = again
                    .into_iter()
                    .filter_map(|(server, page)| Some((server, page.chunks.into_iter().next()?)))
                    .filter(|(_, chunk)| chunk.key == *key)
                    .collect();
            }
        }
        chunks.retain(|_, copies| !copies.is_empty());
        let faults: Vec<Fault> = chunks
            .iter()
            .flat_map(|(key, copies)| faults(*key, copies, &servers))
            .collect();
        for fault in &faults {
            log::warn!(
                "verification of {group}: {} of {} is faulty: {}",
                fault.key,
                fault.server,
                fault.what
            );
        }
        Ok(Verified {
            group,
            chunks: chunks.len() as u64,
            faults,
            digests: servers
                .iter()
                .map(|server| (*server, digest(&chunks, *server)))
                .collect(),
            next,
        })
    }
}

/// The in-sync members of the group's present epoch.
fn members(view: &View, group: GroupId) -> Result<BTreeMap<ServerId, Connection>> {
    let unavailable =
        |what: &str| Error::new(ErrorCode::GroupUnavailable, format!("{group} {what}"));
    let record = view
        .placed
        .groups
        .get(&group)
        .ok_or_else(|| unavailable("has no members yet, or is none of this cluster"))?;
    if !record.is_effective() {
        return Err(unavailable("is between two epochs, or has no server left"));
    }
    record
        .config
        .in_sync()
        .map(|run| {
            let link = view.links.get(&run.server).filter(|link| link.run == run);
            let link = link.ok_or_else(|| unavailable("has a member that is not connected"))?;
            Ok((run.server, link.connection.clone()))
        })
        .collect()
}

/// A page of every member.
async fn read(
    members: &BTreeMap<ServerId, Connection>,
    group: GroupId,
    after: Option<ChunkKey>,
    items_max: u32,
) -> Result<BTreeMap<ServerId, VerifiedPage>> {
    let mut calls = JoinSet::new();
    for (server, connection) in members {
        let (server, connection) = (*server, connection.clone());
        calls.spawn(async move {
            let request = VerifyChunks {
                group,
                after,
                items_max,
            };
            let answer = connection
                .call(&request, Payload::default(), PAGE_DEADLINE)
                .await;
            (server, answer)
        });
    }
    let mut pages = BTreeMap::new();
    while let Some(joined) = calls.join_next().await {
        let (server, answer) =
            joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
        let (page, _) = answer.map_err(|e| {
            let message = format!("{server} did not verify {group}: {e}");
            Error::new(ErrorCode::GroupUnavailable, message)
        })?;
        pages.insert(server, page);
    }
    Ok(pages)
}

/// The chunks that every page reaches, by key, and where the next page begins.
fn merge(
    pages: BTreeMap<ServerId, VerifiedPage>,
) -> (BTreeMap<ChunkKey, Copies>, Option<ChunkKey>) {
    let bound = pages
        .values()
        .filter(|page| !page.end)
        .filter_map(|page| page.chunks.last().map(|chunk| chunk.key))
        .min();
    let mut chunks: BTreeMap<ChunkKey, Copies> = BTreeMap::new();
    for (server, page) in pages {
        for chunk in page.chunks {
            if bound.is_none_or(|bound| chunk.key <= bound) {
                chunks.entry(chunk.key).or_default().insert(server, chunk);
            }
        }
    }
    (chunks, bound)
}

/// The key right before this one.
fn before(key: ChunkKey) -> Option<ChunkKey> {
    match (key.inode.0, key.index.0) {
        (0, 0) => None,
        (inode, 0) => Some(ChunkKey {
            inode: InodeId(inode - 1),
            index: ChunkIndex(u64::MAX),
        }),
        (inode, index) => Some(ChunkKey {
            inode: InodeId(inode),
            index: ChunkIndex(index - 1),
        }),
    }
}

/// What is wrong with the copies of one chunk: damaged, missing, or different from the copy
/// that most servers have of the highest version.
fn faults(key: ChunkKey, copies: &Copies, servers: &BTreeSet<ServerId>) -> Vec<Fault> {
    let fault = |server: ServerId, what: String| Fault {
        server,
        key,
        version: copies.get(&server).map(|chunk| chunk.version),
        what,
    };
    let mut found = Vec::new();
    let mut votes: BTreeMap<_, Vec<ServerId>> = BTreeMap::new();
    for (server, chunk) in copies {
        match &chunk.digest {
            Ok(digest) => {
                let content = (chunk.generation, chunk.version, *digest, chunk.len);
                votes.entry(content).or_default().push(*server);
            }
            Err(what) => found.push(fault(*server, what.clone())),
        }
    }
    let right = votes
        .iter()
        .max_by_key(|((generation, version, ..), voters)| (*generation, *version, voters.len()))
        .map(|(content, voters)| (*content, voters.clone()));
    let Some((right, holders)) = right else {
        return found;
    };
    let model = holders.first().copied().unwrap_or_default();
    for server in servers {
        let Some(chunk) = copies.get(server) else {
            found.push(fault(*server, format!("missing, {model} has {}", right.1)));
            continue;
        };
        if chunk.digest.is_err() || holders.contains(server) {
            continue;
        }
        let what = if (chunk.generation, chunk.version) != (right.0, right.1) {
            format!(
                "is {} of {}, {model} has {} of {}",
                chunk.version, chunk.generation, right.1, right.0
            )
        } else {
            format!("has another content than that of {model}, in the same version")
        };
        found.push(fault(*server, what));
    }
    found.sort_by_key(|fault| fault.server);
    found
}

/// Over keys, versions and contents of what a server holds.
fn digest(chunks: &BTreeMap<ChunkKey, Copies>, server: ServerId) -> u32 {
    let mut sum = 0;
    let mut add = |bytes: &[u8]| sum = crc32c::crc32c_append(sum, bytes);
    for (key, copies) in chunks {
        let Some(chunk) = copies.get(&server) else {
            continue;
        };
        add(&key.inode.0.to_be_bytes());
        add(&key.index.0.to_be_bytes());
        add(&chunk.generation.0.to_be_bytes());
        add(&chunk.version.epoch.0.to_be_bytes());
        add(&chunk.version.counter.to_be_bytes());
        add(&chunk.len.to_be_bytes());
        match &chunk.digest {
            Ok(digest) => add(&digest.to_be_bytes()),
            Err(_) => add(b"damaged"),
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{Epoch, Generation, Version};

    fn key(inode: u64, index: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(inode),
            index: ChunkIndex(index),
        }
    }

    fn chunk(key: ChunkKey, counter: u64, digest: u32) -> VerifiedChunk {
        VerifiedChunk {
            key,
            generation: Generation(1),
            version: Version {
                epoch: Epoch(2),
                counter,
            },
            digest: Ok(digest),
            len: 4096,
        }
    }

    fn three() -> BTreeSet<ServerId> {
        [1, 2, 3].map(ServerId).into()
    }

    fn found(copies: [Option<VerifiedChunk>; 3]) -> Vec<(u32, String)> {
        let copies = copies
            .into_iter()
            .zip(1..)
            .filter_map(|(copy, server)| Some((ServerId(server), copy?)))
            .collect();
        let found = faults(key(5, 0), &copies, &three());
        found
            .into_iter()
            .map(|fault| (fault.server.0, fault.what))
            .collect()
    }

    #[test]
    fn equal_copies_have_no_fault() {
        let copy = || Some(chunk(key(5, 0), 7, 99));
        assert!(found([copy(), copy(), copy()]).is_empty());
    }

    #[test]
    fn damaged_missing_older_and_different_copies_are_named() {
        let copy = || Some(chunk(key(5, 0), 7, 99));
        let rotten = VerifiedChunk {
            digest: Err("block 3 fails its checksum".into()),
            ..chunk(key(5, 0), 7, 0)
        };
        assert_eq!(
            found([Some(rotten), copy(), None]),
            [
                (1, "block 3 fails its checksum".to_owned()),
                (3, "missing, server:2 has v2.7".to_owned())
            ]
        );
        let older = found([copy(), Some(chunk(key(5, 0), 6, 98)), copy()]);
        assert_eq!(older.len(), 1);
        assert!(older[0].0 == 2 && older[0].1.contains("v2.6"), "{older:?}");
        let different = found([Some(chunk(key(5, 0), 7, 98)), copy(), copy()]);
        assert_eq!(different.len(), 1);
        assert!(
            different[0].0 == 1 && different[0].1.contains("content"),
            "{different:?}"
        );
    }

    #[test]
    fn a_page_ends_where_the_shortest_one_does() {
        let page = |keys: &[u64], end| VerifiedPage {
            chunks: keys
                .iter()
                .map(|inode| chunk(key(*inode, 0), 1, 1))
                .collect(),
            end,
        };
        let pages = BTreeMap::from([
            (ServerId(1), page(&[1, 2, 4], false)),
            (ServerId(2), page(&[1, 2, 3], false)),
            (ServerId(3), page(&[1], true)),
        ]);
        let (chunks, next) = merge(pages);
        assert_eq!(
            chunks.keys().map(|k| k.inode.0).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(next, Some(key(3, 0)));
        assert_eq!(chunks[&key(2, 0)].len(), 2);
    }

    #[test]
    fn digests_differ_exactly_when_the_copies_do() {
        let copies = |counter| {
            BTreeMap::from([
                (ServerId(1), chunk(key(1, 0), 7, 9)),
                (ServerId(2), chunk(key(1, 0), counter, 9)),
            ])
        };
        let chunks = BTreeMap::from([(key(1, 0), copies(7))]);
        assert_eq!(digest(&chunks, ServerId(1)), digest(&chunks, ServerId(2)));
        let chunks = BTreeMap::from([(key(1, 0), copies(8))]);
        assert_ne!(digest(&chunks, ServerId(1)), digest(&chunks, ServerId(2)));
    }

    #[test]
    fn the_key_before_leads_back_to_the_key() {
        assert_eq!(before(key(0, 0)), None);
        assert_eq!(before(key(7, 0)), Some(key(6, u64::MAX)));
        assert_eq!(before(key(7, 4)), Some(key(7, 3)));
    }
}
