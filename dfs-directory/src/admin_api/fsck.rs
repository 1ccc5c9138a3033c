//! fsck: the namespace with itself, and what every server holds with the namespace.
//!
//! Writes and cuts go on meanwhile, and sizes reach the directory some seconds after the data.
//! So a finding counts only when it is found again, later, in a fresh look at everything.

use super::AdminApi;
use super::held::{Owner, Roles, judge};
use crate::namespace::fsck::{Problem, fsck};
use crate::namespace::{self, read};
use crate::state::tables::TableError;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, ServerId, ServerRun};
use dfs_proto::layout::FileLayout;
use dfs_proto::limits::CHUNK_BYTES_DEFAULT;
use dfs_proto::msg::control::CutInode;
use dfs_proto::msg::scrub::{
    CheckGroup, CheckNames, DropStray, GroupChecked, HeldCopy, HeldFault, HeldFinding, HeldPage,
    ListHeld, NamesChecked,
};
use dfs_proto::payload::Payload;
use dfs_proto::timing::PUSH_INTERVAL;
use dfs_proto::transport::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;

const PAGE_ITEMS: u32 = 1024;
const LIST_DEADLINE: Duration = Duration::from_secs(10);
const REPAIR_DEADLINE: Duration = Duration::from_secs(30);

/// Before the second look: writes and cuts in flight have ended. Before the third, which only
/// chunks without a place in a file need: their size has been pushed.
const SECOND_LOOK: Duration = Duration::from_millis(700);
const THIRD_LOOK: Duration = PUSH_INTERVAL.saturating_mul(2);

/// Problems of the namespace that are told in one answer.
const PROBLEMS_MAX: usize = 1000;

/// What was seen of a page at one moment.
struct Look {
    epoch: Epoch,
    roles: Roles,
    chunks: u64,
    findings: Vec<HeldFinding>,
    copies: BTreeMap<ChunkKey, BTreeMap<ServerId, HeldCopy>>,
    missing: Vec<ServerId>,
    next: Option<ChunkKey>,
}

impl AdminApi {
    pub(super) async fn check_names(self, _: CheckNames) -> Result<NamesChecked> {
        let report = self.look(fsck).await?;
        let problems = report.problems.iter().take(PROBLEMS_MAX).map(describe);
        Ok(NamesChecked {
            inodes: report.inodes,
            entries: report.entries,
            orphans: report.orphans,
            intents: report.intents,
            problems: problems.collect(),
        })
    }

    pub(super) async fn check_group(self, request: CheckGroup) -> Result<GroupChecked> {
        let _permit = self
            .verifications
            .acquire()
            .await
            .map_err(|_| Error::bare(ErrorCode::ShuttingDown))?;
        let first = self.look_at(request, None).await?;
        let (next, chunks, missing) = (first.next, first.chunks, first.missing.clone());
        let mut last = first;
        for pause in [SECOND_LOOK, THIRD_LOOK] {
            let placeless = |f: &HeldFinding| placeless(f.fault);
            let due = pause == SECOND_LOOK || last.findings.iter().any(placeless);
            if last.findings.is_empty() || !due {
                break;
            }
            tokio::time::sleep(pause).await;
            let mut again = self.look_at(request, next).await?;
            if again.epoch != last.epoch || again.roles != last.roles {
                let text = format!("{} changes its members", request.group);
                return Err(Error::new(ErrorCode::GroupUnavailable, text));
            }
            let before: BTreeSet<_> = last.findings.iter().map(identity).collect();
            again.findings.retain(|f| before.contains(&identity(f)));
            last = again;
        }
        if request.repair && !last.findings.is_empty() {
            self.remove_garbage(request, &mut last).await?;
        }
        for found in &last.findings {
            log::warn!(
                "fsck of {}: {} on {}: {}{}",
                request.group,
                found.key,
                found.server,
                found.what,
                if found.removed { "; removed" } else { "" }
            );
        }
        Ok(GroupChecked {
            chunks,
            findings: last.findings,
            missing,
            next,
        })
    }

    /// Lists what all servers hold and judges it; up to `until`, if the end of the page is known.
    async fn look_at(&self, request: CheckGroup, until: Option<ChunkKey>) -> Result<Look> {
        let group = request.group;
        let view = self.placement.view();
        let record = view.placed.groups.get(&group);
        let record = record.filter(|r| r.is_effective()).ok_or_else(|| {
            Error::new(
                ErrorCode::GroupUnavailable,
                format!("{group} does not serve now"),
            )
        })?;
        let links: BTreeMap<ServerId, (ServerRun, Connection)> = view
            .links
            .iter()
            .map(|(server, link)| (*server, (link.run, link.connection.clone())))
            .collect();
        let connected = |run: &ServerRun| links.get(&run.server).is_some_and(|l| l.0 == *run);
        let roles = Roles {
            in_sync: record
                .config
                .in_sync()
                .filter(connected)
                .map(|run| run.server)
                .collect(),
            // One that leaves holds the group until the others have it.
            home: record
                .home
                .iter()
                .copied()
                .chain(record.config.members.iter().map(|m| m.run.server))
                .collect(),
        };
        let mut pages = list(&links, group, request.after).await;
        let missing: Vec<ServerId> = view
            .placed
            .servers
            .keys()
            .filter(|server| !pages.contains_key(server))
            .copied()
            .collect();
        if let Some(server) = roles.in_sync.iter().find(|s| !pages.contains_key(s)) {
            let text = format!("{server} does not say what it holds");
            return Err(Error::new(ErrorCode::GroupUnavailable, text));
        }
        let ends = pages.values().filter(|page| !page.end);
        let bound = ends
            .filter_map(|page| page.chunks.last().map(|c| c.key))
            .min();
        let bound = match until {
            Some(until) => Some(bound.map_or(until, |bound| bound.min(until))),
            None => bound,
        };
        let mut copies: BTreeMap<ChunkKey, BTreeMap<ServerId, HeldCopy>> = BTreeMap::new();
        for (server, page) in &mut pages {
            for copy in page.chunks.drain(..) {
                if bound.is_none_or(|bound| copy.key <= bound) {
                    copies.entry(copy.key).or_default().insert(*server, copy);
                }
            }
        }
        let owners = self
            .owners(copies.keys().map(|key| key.inode).collect())
            .await?;
        let owner = |key: &ChunkKey| owners.get(&key.inode).copied().unwrap_or(Owner::Busy);
        let findings = copies
            .iter()
            .flat_map(|(key, copies)| judge(group, *key, copies, owner(key), &roles))
            .collect();
        Ok(Look {
            epoch: record.config.epoch,
            roles,
            chunks: copies.len() as u64,
            findings,
            copies,
            missing,
            next: bound,
        })
    }

    async fn owners(&self, inodes: BTreeSet<InodeId>) -> Result<BTreeMap<InodeId, Owner>> {
        let owner = |tables: &dyn crate::state::tables::Read, inode| {
            if !read::intents_of(tables, inode)?.is_empty() {
                return Ok(Owner::Busy);
            }
            Ok::<_, TableError>(match read::attr(tables, inode)? {
                Ok(attr) => Owner::Here(attr),
                Err(_) => Owner::Gone,
            })
        };
        self.look(move |tables| {
            let found = inodes
                .into_iter()
                .map(|inode| Ok((inode, owner(tables, inode)?)));
            found.collect()
        })
        .await
    }

    /// Removes what belongs to nobody: copies on servers that are no members, and chunks of
    /// inodes that are gone. What lies beyond the end of a file stays: the file's next
    /// truncation takes it.
    async fn remove_garbage(&self, request: CheckGroup, look: &mut Look) -> Result<()> {
        let group = request.group;
        let view = self.placement.view();
        let given = self.look(namespace::read::next_inode).await?;
        let newest = look.copies.keys().map(|key| key.inode).max();
        if newest.is_some_and(|inode| inode >= given) {
            log::error!(
                "fsck of {group}: servers hold {}, which the directory has never given out (the \
                 next is {given}): was its data dir set back? Nothing is removed",
                newest.unwrap_or_default()
            );
            return Ok(());
        }
        let mut strays: BTreeMap<ServerId, Vec<ChunkKey>> = BTreeMap::new();
        let mut freed: BTreeSet<InodeId> = BTreeSet::new();
        for found in &look.findings {
            match found.fault {
                HeldFault::Stray => strays.entry(found.server).or_default().push(found.key),
                HeldFault::Freed => drop(freed.insert(found.key.inode)),
                _ => {}
            }
        }
        for (server, keys) in strays {
            let Some(link) = view.links.get(&server) else {
                continue;
            };
            let version = |key: &ChunkKey| Some(look.copies.get(key)?.get(&server)?.version);
            let copies = keys.iter().filter_map(|key| Some((*key, version(key)?)));
            let drop = DropStray {
                group,
                copies: copies.collect(),
            };
            let answer = link
                .connection
                .call(&drop, Payload::default(), REPAIR_DEADLINE)
                .await;
            if let Err(e) = answer {
                log::warn!("{server} did not remove its strays of {group}: {e}");
            }
        }
        for inode in freed {
            let cut = CutInode {
                inode,
                generation: Generation::FREED,
                from: 0,
                to: u64::MAX,
                layout: FileLayout {
                    chunk_bytes: CHUNK_BYTES_DEFAULT,
                    first_group: GroupId(0),
                    groups: 1,
                },
                groups: vec![(group, look.epoch)],
            };
            for (server, link) in &view.links {
                if !look.roles.home.contains(server) {
                    continue;
                }
                let answer = link
                    .connection
                    .call(&cut, Payload::default(), REPAIR_DEADLINE)
                    .await;
                if let Err(e) = answer {
                    log::warn!("{server} did not free {inode} in {group}: {e}");
                }
            }
        }
        let after = self.look_at(request, look.next).await?;
        let left: BTreeSet<_> = after.findings.iter().map(identity).collect();
        for found in &mut look.findings {
            let garbage = matches!(found.fault, HeldFault::Stray | HeldFault::Freed);
            found.removed = garbage && !left.contains(&identity(found));
        }
        Ok(())
    }
}

fn identity(found: &HeldFinding) -> (ServerId, ChunkKey, u8) {
    (found.server, found.key, found.fault as u8)
}

/// What looks like garbage may be a chunk whose file has not told its size yet.
fn placeless(fault: HeldFault) -> bool {
    matches!(fault, HeldFault::Freed | HeldFault::Beyond)
}

/// A page of every server that can be asked.
async fn list(
    links: &BTreeMap<ServerId, (ServerRun, Connection)>,
    group: GroupId,
    after: Option<ChunkKey>,
) -> BTreeMap<ServerId, HeldPage> {
    let mut calls = JoinSet::new();
    for (server, (_, connection)) in links {
        let (server, connection) = (*server, connection.clone());
        calls.spawn(async move {
            let request = ListHeld {
                group,
                after,
                items_max: PAGE_ITEMS,
            };
            let answer = connection
                .call(&request, Payload::default(), LIST_DEADLINE)
                .await;
            (server, answer)
        });
    }
    let mut pages = BTreeMap::new();
    for (server, answer) in calls.join_all().await {
        match answer {
            Ok((page, _)) => drop(pages.insert(server, page)),
            Err(e) => log::warn!("{server} does not list what it holds of {group}: {e}"),
        }
    }
    pages
}

/// A problem of the namespace in words, with the inode to look for.
fn describe(problem: &Problem) -> (Option<InodeId>, String) {
    let inode = match problem {
        Problem::Unreadable { .. } | Problem::WrongCounters { .. } => None,
        Problem::BadInode { inode, .. }
        | Problem::Dangling { inode, .. }
        | Problem::WrongLinks { inode, .. }
        | Problem::WrongParent { inode, .. }
        | Problem::Unreachable { inode }
        | Problem::FalseOrphan { inode }
        | Problem::UnlistedOrphan { inode }
        | Problem::WrongTarget { inode }
        | Problem::WrongXattrs { inode, .. }
        | Problem::StrayIntent { inode, .. } => Some(*inode),
        Problem::NoSuchDir { parent, .. }
        | Problem::WrongKind { parent, .. }
        | Problem::CookieMismatch { parent, .. } => Some(*parent),
    };
    (inode, format!("{problem:?}"))
}
