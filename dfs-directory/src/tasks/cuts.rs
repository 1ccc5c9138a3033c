//! Carries out the cuts and frees that the log holds as intents: on all in-sync and joining
//! members of every group concerned, then the end of the intent is logged.
//!
//! The intents of one inode one after the other, those of different inodes in parallel. An
//! intent that is carried out twice (the directory was restarted) does no harm: a replica makes
//! the cut of a generation once.

use super::events::{Event, stopping};
use super::handle::CutWait;
use super::view::View;
use crate::namespace::read::{intents, intents_of};
use crate::namespace::{Intent, NamespaceCommand};
use crate::raft::RaftHandle;
use crate::state::Change;
use dfs_proto::cluster::MemberState;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ChunkIndex, Epoch, GroupId, InodeId, ServerId, ServerRun};
use dfs_proto::msg::control::{CutInode, CutMade};
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

/// Inodes that are cut at the same time.
const PARALLEL_MAX: usize = 64;

/// Intents looked at in one read; more than `PARALLEL_MAX`, since some are being carried out.
const PAGE_ITEMS_MAX: usize = 256;

/// Between the tries of a cut that failed.
const RETRY: Duration = Duration::from_millis(50);

/// Failed tries in a row after which a joining member is left aside for a while: a cut must not
/// wait for ever for a server that holds nothing that counts.
const FAILURES_MAX: u32 = 20;

/// The groups that may hold something of what the intent takes away.
pub(super) fn groups_concerned(intent: &Intent) -> BTreeSet<GroupId> {
    let layout = &intent.layout;
    let all = || (0..layout.groups).map(GroupId).collect();
    let Some(extent) = intent.extent else {
        return all();
    };
    if extent <= intent.from {
        return BTreeSet::new();
    }
    let first = layout.chunk_of(intent.from).0;
    let last = layout.chunk_of(extent - 1).0;
    if last - first >= u64::from(layout.groups) {
        return all();
    }
    (first..=last)
        .map(|index| layout.group_of(ChunkIndex(index)))
        .collect()
}

/// Which members have made a cut, in which epoch; pure.
#[derive(Debug)]
struct Progress {
    groups: BTreeSet<GroupId>,
    made: BTreeMap<(GroupId, ServerRun), Epoch>,
}

/// What is left of a cut.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Members that have not made it in their group's present epoch.
    missing: BTreeMap<ServerRun, Vec<GroupId>>,
    /// Joining in every group that is missing of it.
    joining: BTreeSet<ServerRun>,
    /// Groups that are between two epochs.
    waiting: usize,
}

impl Progress {
    fn new(intent: &Intent) -> Self {
        Self {
            groups: groups_concerned(intent),
            made: BTreeMap::new(),
        }
    }

    /// A group is done when all in-sync and joining members of one epoch that serves made the
    /// cut in it. Offline members hear of it when they come back: they take over what the others
    /// know of cut inodes.
    fn left(&self, view: &View) -> Left {
        let mut left = Left::default();
        let mut in_sync = BTreeSet::new();
        for group in &self.groups {
            let Some(record) = view.placed.groups.get(group).filter(|r| r.is_effective()) else {
                left.waiting += 1;
                continue;
            };
            for member in &record.config.members {
                let active = matches!(member.state, MemberState::InSync | MemberState::Joining);
                let made = self.made.get(&(*group, member.run)) == Some(&record.config.epoch);
                if !active || made {
                    continue;
                }
                left.missing.entry(member.run).or_default().push(*group);
                if member.state == MemberState::InSync {
                    in_sync.insert(member.run);
                } else {
                    left.joining.insert(member.run);
                }
            }
        }
        left.joining.retain(|run| !in_sync.contains(run));
        left
    }

    fn made(&mut self, run: ServerRun, answer: &CutMade) {
        self.made.extend(
            answer
                .epochs
                .iter()
                .map(|(group, epoch)| ((*group, run), *epoch)),
        );
    }
}

/// Works while this member leads.
pub(super) async fn run(
    raft: RaftHandle,
    waits: &mut mpsc::Receiver<CutWait>,
    notify: Arc<Notify>,
    view: watch::Receiver<Arc<View>>,
    events: mpsc::Sender<Event>,
) -> Error {
    let mut waiting: Vec<CutWait> = Vec::new();
    let mut active: BTreeSet<InodeId> = BTreeSet::new();
    let mut tasks: JoinSet<(InodeId, Result<()>)> = JoinSet::new();
    loop {
        match look(&raft, &active, &waiting).await {
            Ok((found, pending)) => {
                let mut pending = pending.into_iter();
                for wait in std::mem::take(&mut waiting) {
                    if pending.next() == Some(false) {
                        let _ = wait.done.send(Ok(()));
                    } else if !wait.done.is_closed() {
                        waiting.push(wait);
                    }
                }
                for intent in found {
                    active.insert(intent.inode);
                    let (raft, view, events) = (raft.clone(), view.clone(), events.clone());
                    tasks.spawn(async move {
                        (intent.inode, carry_out(intent, raft, view, events).await)
                    });
                }
            }
            Err(e) if ends_reign(&e) => return e,
            Err(e) => {
                log::warn!("cannot read what is to be cut: {e}");
                tokio::time::sleep(RETRY).await;
            }
        }
        tokio::select! {
            wait = waits.recv() => match wait {
                Some(wait) => waiting.push(wait),
                None => return stopping(),
            },
            () = notify.notified() => {}
            Some(joined) = tasks.join_next(), if !tasks.is_empty() => {
                let Ok((inode, ended)) = joined else { continue };
                active.remove(&inode);
                if let Err(e) = ended {
                    if ends_reign(&e) {
                        return e;
                    }
                    log::warn!("the end of a cut of {inode} was not logged, again: {e}");
                }
            }
        }
        // What came meanwhile is looked at in the same read.
        while let Ok(wait) = waits.try_recv() {
            waiting.push(wait);
        }
        while let Some(joined) = tasks.try_join_next() {
            if let Ok((inode, _)) = joined {
                active.remove(&inode);
            }
        }
    }
}

fn ends_reign(e: &Error) -> bool {
    matches!(
        e.code,
        ErrorCode::NotLeader | ErrorCode::StorageFailed | ErrorCode::ShuttingDown
    )
}

/// The next intents to carry out, and for each wait whether its intent is still there.
async fn look(
    raft: &RaftHandle,
    active: &BTreeSet<InodeId>,
    waiting: &[CutWait],
) -> Result<(Vec<Intent>, Vec<bool>)> {
    let room = PARALLEL_MAX.saturating_sub(active.len());
    let active = active.clone();
    let asked: Vec<_> = waiting
        .iter()
        .map(|wait| (wait.inode, wait.generation))
        .collect();
    raft.read(move |tables| {
        let mut found: Vec<Intent> = Vec::new();
        let mut after = None;
        while found.len() < room {
            let page = intents(tables, after, PAGE_ITEMS_MAX)?;
            let Some(last) = page.last() else { break };
            after = Some((last.inode, last.generation));
            for intent in page {
                let begun = active.contains(&intent.inode)
                    || found.last().is_some_and(|f| f.inode == intent.inode);
                if !begun && found.len() < room {
                    found.push(intent);
                }
            }
        }
        let pending = asked.into_iter().map(|(inode, generation)| {
            Ok(intents_of(tables, inode)?
                .iter()
                .any(|intent| intent.generation <= generation))
        });
        Ok((found, pending.collect::<Result<_, _>>()?))
    })
    .await
}

/// One intent, to its logged end.
async fn carry_out(
    intent: Intent,
    raft: RaftHandle,
    mut view: watch::Receiver<Arc<View>>,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    let mut progress = Progress::new(&intent);
    let mut failures = 0;
    loop {
        let present = view.borrow_and_update().clone();
        let left = progress.left(&present);
        if left.missing.is_empty() && left.waiting == 0 {
            break;
        }
        let before = progress.made.clone();
        round(&intent, &left, &present, &mut progress).await;
        if progress.made == before {
            failures += 1;
            if failures % FAILURES_MAX == 0 {
                log::warn!(
                    "the cut of {} waits for {} servers and {} groups",
                    intent.inode,
                    left.missing.len(),
                    left.waiting
                );
                for run in &left.joining {
                    let _ = events.send(Event::Unable { server: run.server }).await;
                }
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return Err(stopping()) },
                () = tokio::time::sleep(RETRY) => {}
            }
        } else {
            failures = 0;
        }
    }
    let (inode, generation) = (intent.inode, intent.generation);
    let command = if intent.is_free() {
        NamespaceCommand::FreeDone { inode }
    } else {
        NamespaceCommand::CutDone { inode, generation }
    };
    raft.commit(Change::Namespace(command)).await?;
    Ok(())
}

/// Asks every member that is missing, all at the same time.
async fn round(intent: &Intent, left: &Left, view: &View, progress: &mut Progress) {
    let mut calls: JoinSet<(ServerRun, Result<CutMade>)> = JoinSet::new();
    for (run, groups) in &left.missing {
        let linked = |server: &ServerId| view.links.get(server).filter(|link| link.run == *run);
        let Some(link) = linked(&run.server) else {
            continue;
        };
        let (run, connection) = (*run, link.connection.clone());
        let request = CutInode {
            inode: intent.inode,
            generation: intent.generation,
            from: intent.from,
            layout: intent.layout,
            groups: groups.clone(),
        };
        calls.spawn(async move {
            let answer = connection
                .call(&request, Payload::default(), REQUEST_DEADLINE)
                .await;
            (run, answer.map(|(answer, _)| answer))
        });
    }
    while let Some(joined) = calls.join_next().await {
        match joined {
            Ok((run, Ok(answer))) => progress.made(run, &answer),
            Ok((_, Err(e))) if e.code == ErrorCode::Disconnected => {}
            Ok((run, Err(e))) => log::warn!("{run} did not cut {}: {e}", intent.inode),
            Err(e) => log::error!("a call to cut {} was lost: {e}", intent.inode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{GroupRecord, Placed};
    use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember};
    use dfs_proto::ids::{Generation, Incarnation};
    use dfs_proto::layout::FileLayout;

    fn intent(from: u64, extent: Option<u64>) -> Intent {
        Intent {
            inode: InodeId(5),
            generation: Generation(2),
            from,
            extent,
            layout: FileLayout {
                chunk_bytes: 4096,
                first_group: GroupId(2),
                groups: 4,
            },
        }
    }

    fn groups(from: u64, extent: Option<u64>) -> Vec<u32> {
        groups_concerned(&intent(from, extent))
            .into_iter()
            .map(|group| group.0)
            .collect()
    }

    #[test]
    fn only_groups_that_may_hold_something_are_asked() {
        assert_eq!(groups(0, Some(1)), [2]);
        assert_eq!(groups(0, Some(4096)), [2]);
        assert_eq!(groups(0, Some(4097)), [2, 3]);
        assert_eq!(groups(4095, Some(8192)), [2, 3]);
        assert_eq!(groups(4096, Some(8192)), [3]);
        assert_eq!(groups(8192, Some(8192)), [0; 0]);
        assert_eq!(groups(0, Some(4 * 4096)), [0, 1, 2, 3]);
        assert_eq!(groups(5, Some(u64::MAX)), [0, 1, 2, 3]);
        assert_eq!(groups(u64::MAX, None), [0, 1, 2, 3]);
    }

    fn view(epoch: u64, effective: bool, states: &[MemberState]) -> View {
        let config = GroupConfig {
            group: GroupId(2),
            epoch: Epoch(epoch),
            primary: Some(ServerId(1)),
            members: (1..)
                .zip(states)
                .map(|(server, state)| GroupMember {
                    run: run(server),
                    state: *state,
                })
                .collect(),
            min_in_sync: 1,
            equalise: Equalise::Marked,
        };
        let record = GroupRecord {
            home: Vec::new(),
            effective: effective.then(|| config.clone()),
            config,
        };
        let placed = Placed {
            groups: BTreeMap::from([(GroupId(2), record)]),
            ..Placed::default()
        };
        View {
            placed: Arc::new(placed),
            ..View::default()
        }
    }

    fn run(server: u32) -> ServerRun {
        ServerRun {
            server: ServerId(server),
            incarnation: Incarnation(1),
        }
    }

    #[test]
    fn a_group_is_done_when_all_its_active_members_did_it_in_one_epoch() {
        use MemberState::{InSync, Joining, Offline};
        let mut progress = Progress::new(&intent(0, Some(1)));
        let answer = |epoch| CutMade {
            epochs: vec![(GroupId(2), Epoch(epoch))],
        };
        let present = view(3, true, &[InSync, Joining, Offline]);
        let left = progress.left(&present);
        assert_eq!(
            left.missing.keys().copied().collect::<Vec<_>>(),
            [run(1), run(2)]
        );
        assert_eq!(left.joining, BTreeSet::from([run(2)]));
        progress.made(run(1), &answer(3));
        progress.made(run(2), &answer(2));
        let left = progress.left(&present);
        assert_eq!(left.missing.keys().copied().collect::<Vec<_>>(), [run(2)]);
        progress.made(run(2), &answer(3));
        assert_eq!(progress.left(&present), Left::default());
        // Another epoch: again, by all.
        assert_eq!(progress.left(&view(4, false, &[InSync; 2])).waiting, 1);
        assert_eq!(progress.left(&view(4, true, &[InSync; 2])).missing.len(), 2);
    }
}
