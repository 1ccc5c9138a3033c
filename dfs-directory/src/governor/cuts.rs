//! Carries out the cuts and frees that the log holds as intents: on all in-sync and joining
//! members of every group concerned, then the end of the intent is logged. Pure, like the
//! governor.
//!
//! The intents of one inode one after the other, those of different inodes in parallel. An
//! intent that is carried out twice (the directory was restarted) does no harm: a replica makes
//! the cut of a generation once.

use super::event::{Link, LinkId, Links, Ticket};
use crate::namespace::read::{intents, intents_of};
use crate::namespace::{Intent, NamespaceCommand};
use crate::placement::Placed;
use crate::state::tables::{Read, TableError};
use dfs_proto::cluster::MemberState;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{ChunkIndex, Epoch, Generation, GroupId, InodeId, ServerId, ServerRun};
use dfs_proto::msg::control::{CutInode, CutMade};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Inodes that are cut at the same time.
const PARALLEL_MAX: usize = 64;

/// Intents looked at in one read; more than `PARALLEL_MAX`, since some are being carried out.
const PAGE_ITEMS_MAX: usize = 256;

/// Between the tries of a cut that failed.
const RETRY: Duration = Duration::from_millis(50);

/// Failed tries in a row after which a joining member is left aside for a while: a cut must not
/// wait for ever for a server that holds nothing that counts.
const FAILURES_MAX: u32 = 20;

/// What happened.
#[derive(Debug)]
pub enum CutEvent {
    /// Somebody waits until the inode's intents up to this generation have ended.
    Wait {
        inode: InodeId,
        generation: Generation,
        ticket: Ticket,
    },
    /// Nobody waits for these any more.
    GivenUp(BTreeSet<Ticket>),
    /// Intents were logged.
    Logged,
    /// What `CutAction::Look` asked for; `None` if it could not be read.
    Found(Option<Found>),
    /// A member's answer.
    Answered {
        inode: InodeId,
        run: ServerRun,
        link: LinkId,
        answer: Result<CutMade>,
    },
    /// The end of an intent was logged, or not.
    Ended { inode: InodeId, logged: bool },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CutAction {
    /// Read what the log holds (`Look::read`); answered by `CutEvent::Found`.
    Look(Look),
    /// Answered by `CutEvent::Answered`, in any case.
    Call { link: Link, request: CutInode },
    /// Log the end of an intent; answered by `CutEvent::Ended`.
    Commit {
        inode: InodeId,
        command: NamespaceCommand,
    },
    /// What was waited for has ended.
    Done(Ticket),
    /// A joining server holds cuts up.
    Unable(ServerId),
}

/// A question to the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    active: BTreeSet<InodeId>,
    waiting: Vec<(InodeId, Generation, Ticket)>,
}

/// The next intents to carry out, and the waits whose intents are no more.
#[derive(Debug, Default)]
pub struct Found {
    intents: Vec<Intent>,
    over: BTreeSet<Ticket>,
}

impl Look {
    pub fn read(&self, tables: &dyn Read) -> Result<Found, TableError> {
        let room = PARALLEL_MAX.saturating_sub(self.active.len());
        let mut found: Vec<Intent> = Vec::new();
        let mut after = None;
        while found.len() < room {
            let page = intents(tables, after, PAGE_ITEMS_MAX)?;
            let Some(last) = page.last() else { break };
            after = Some((last.inode, last.generation));
            for intent in page {
                let begun = self.active.contains(&intent.inode)
                    || found.last().is_some_and(|f| f.inode == intent.inode);
                if !begun && found.len() < room {
                    found.push(intent);
                }
            }
        }
        let mut over = BTreeSet::new();
        for (inode, generation, ticket) in &self.waiting {
            let pending = intents_of(tables, *inode)?
                .iter()
                .any(|intent| intent.generation <= *generation);
            if !pending {
                over.insert(*ticket);
            }
        }
        Ok(Found {
            intents: found,
            over,
        })
    }
}

/// An intent that is being carried out.
#[derive(Debug)]
struct Carried {
    intent: Intent,
    progress: Progress,
    /// Calls without an answer yet.
    called: BTreeMap<ServerRun, LinkId>,
    retry_at: Duration,
    failures: u32,
    /// Its end is on its way to the log.
    ending: bool,
}

/// All intents that are being carried out.
#[derive(Debug)]
pub struct Cuts {
    active: BTreeMap<InodeId, Carried>,
    waiting: Vec<(InodeId, Generation, Ticket)>,
    /// Something may be in the log that was not seen yet.
    unseen: bool,
    looking: bool,
    look_at: Duration,
}

impl Default for Cuts {
    fn default() -> Self {
        Self {
            active: BTreeMap::new(),
            waiting: Vec::new(),
            unseen: true,
            looking: false,
            look_at: Duration::ZERO,
        }
    }
}

impl Cuts {
    /// Something has happened.
    pub fn take(&mut self, now: Duration, event: CutEvent) -> Vec<CutAction> {
        match event {
            CutEvent::Wait {
                inode,
                generation,
                ticket,
            } => {
                self.waiting.push((inode, generation, ticket));
                self.unseen = true;
            }
            CutEvent::GivenUp(tickets) => {
                self.waiting
                    .retain(|(_, _, ticket)| !tickets.contains(ticket));
            }
            CutEvent::Logged => self.unseen = true,
            CutEvent::Found(found) => return self.found(now, found),
            CutEvent::Answered {
                inode,
                run,
                link,
                answer,
            } => self.answered(now, inode, run, link, answer),
            CutEvent::Ended { inode, logged } => {
                if logged {
                    self.active.remove(&inode);
                    self.unseen = true;
                } else if let Some(carried) = self.active.get_mut(&inode) {
                    carried.ending = false;
                    carried.retry_at = now + RETRY;
                }
            }
        }
        Vec::new()
    }

    fn found(&mut self, now: Duration, found: Option<Found>) -> Vec<CutAction> {
        self.looking = false;
        let Some(found) = found else {
            self.unseen = true;
            self.look_at = now + RETRY;
            return Vec::new();
        };
        for intent in found.intents {
            let carried = Carried::new(intent);
            self.active.entry(intent.inode).or_insert(carried);
        }
        self.waiting
            .retain(|(_, _, ticket)| !found.over.contains(ticket));
        found.over.into_iter().map(CutAction::Done).collect()
    }

    fn answered(
        &mut self,
        now: Duration,
        inode: InodeId,
        run: ServerRun,
        link: LinkId,
        answer: Result<CutMade>,
    ) {
        let Some(carried) = self.active.get_mut(&inode) else {
            return;
        };
        if carried.called.get(&run) == Some(&link) {
            carried.called.remove(&run);
        }
        let before = carried.progress.epochs_of(run);
        match answer {
            Ok(answer) => carried.progress.made(run, &answer),
            Err(e) if e.code == ErrorCode::Disconnected => {}
            Err(e) => log::warn!("{run} did not cut {inode}: {e}"),
        }
        if carried.progress.epochs_of(run) != before {
            carried.failures = 0;
            carried.retry_at = now;
        } else {
            carried.retry_at = now + RETRY;
        }
    }

    /// What is to be done now, with these groups and connections.
    pub fn step(&mut self, now: Duration, placed: &Placed, links: &Links) -> Vec<CutAction> {
        let mut out = Vec::new();
        if self.unseen && !self.looking && self.look_at <= now {
            self.unseen = false;
            self.looking = true;
            out.push(CutAction::Look(Look {
                active: self.active.keys().copied().collect(),
                waiting: self.waiting.clone(),
            }));
        }
        for carried in self.active.values_mut() {
            carried.step(now, placed, links, &mut out);
        }
        out
    }

    /// When `step` should be called next if nothing happens before; `None`: no need.
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        // Where nothing is to be tried again, an answer or another epoch is waited for.
        let again = |carried: &&Carried| !carried.ending && carried.retry_at > now;
        let due = self.active.values().filter(again).map(|c| c.retry_at);
        let look = (self.unseen && !self.looking).then_some(self.look_at);
        due.chain(look).min()
    }
}

impl Carried {
    fn new(intent: Intent) -> Self {
        Self {
            progress: Progress::new(&intent),
            intent,
            called: BTreeMap::new(),
            retry_at: Duration::ZERO,
            failures: 0,
            ending: false,
        }
    }

    fn step(&mut self, now: Duration, placed: &Placed, links: &Links, out: &mut Vec<CutAction>) {
        if self.ending {
            return;
        }
        let left = self.progress.left(placed);
        if left.missing.is_empty() && left.waiting == 0 {
            self.ending = true;
            out.push(CutAction::Commit {
                inode: self.intent.inode,
                command: self.end(),
            });
            return;
        }
        // A connection that is gone answers nothing that counts.
        self.called.retain(|run, link| {
            let known = links.get(&run.server);
            known
                == Some(&Link {
                    run: *run,
                    link: *link,
                })
        });
        if self.retry_at > now {
            return;
        }
        let mut called = false;
        for (run, groups) in &left.missing {
            let link = links.get(&run.server).filter(|link| link.run == *run);
            let Some(link) = link.filter(|_| !self.called.contains_key(run)) else {
                continue;
            };
            self.called.insert(*run, link.link);
            called = true;
            out.push(CutAction::Call {
                link: *link,
                request: CutInode {
                    inode: self.intent.inode,
                    generation: self.intent.generation,
                    from: self.intent.from,
                    to: self.intent.to,
                    layout: self.intent.layout,
                    groups: groups.clone(),
                },
            });
        }
        if !called && !self.called.is_empty() {
            return;
        }
        // Counts tries, or looks at groups that are between two epochs.
        self.failures += 1;
        self.retry_at = now + RETRY;
        if self.failures.is_multiple_of(FAILURES_MAX) {
            log::warn!(
                "the cut of {} waits for {} servers and {} groups",
                self.intent.inode,
                left.missing.len(),
                left.waiting
            );
            let held_up = left.joining.iter().map(|run| CutAction::Unable(run.server));
            out.extend(held_up);
        }
    }

    fn end(&self) -> NamespaceCommand {
        let (inode, generation) = (self.intent.inode, self.intent.generation);
        if self.intent.is_free() {
            NamespaceCommand::FreeDone { inode }
        } else {
            NamespaceCommand::CutDone { inode, generation }
        }
    }
}

/// The groups that may hold something of what the intent takes away.
fn groups_concerned(intent: &Intent) -> BTreeSet<GroupId> {
    let layout = &intent.layout;
    let all = || (0..layout.groups).map(GroupId).collect();
    let end = intent.extent.unwrap_or(u64::MAX).min(intent.to);
    if end == u64::MAX {
        return all();
    }
    if end <= intent.from {
        return BTreeSet::new();
    }
    let first = layout.chunk_of(intent.from).0;
    let last = layout.chunk_of(end - 1).0;
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
    missing: BTreeMap<ServerRun, Vec<(GroupId, Epoch)>>,
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
    fn left(&self, placed: &Placed) -> Left {
        let mut left = Left::default();
        let mut in_sync = BTreeSet::new();
        for group in &self.groups {
            let Some(record) = placed.groups.get(group).filter(|r| r.is_effective()) else {
                left.waiting += 1;
                continue;
            };
            for member in &record.config.members {
                let active = matches!(member.state, MemberState::InSync | MemberState::Joining);
                let made = self.made.get(&(*group, member.run)) == Some(&record.config.epoch);
                if !active || made {
                    continue;
                }
                let missing = left.missing.entry(member.run).or_default();
                missing.push((*group, record.config.epoch));
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

    /// In which epochs a run made it.
    fn epochs_of(&self, run: ServerRun) -> Vec<(GroupId, Epoch)> {
        let own = self.made.iter().filter(|((_, made_by), _)| *made_by == run);
        own.map(|((group, _), epoch)| (*group, *epoch)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::GroupRecord;
    use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember};
    use dfs_proto::ids::{Generation, Incarnation};
    use dfs_proto::layout::FileLayout;

    fn intent(from: u64, extent: Option<u64>) -> Intent {
        Intent {
            inode: InodeId(5),
            generation: Generation(2),
            from,
            to: u64::MAX,
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
        let hole = |to, extent| {
            let intent = Intent {
                to,
                ..intent(100, extent)
            };
            groups_concerned(&intent).len()
        };
        assert_eq!(hole(200, Some(4 * 4096)), 1);
        assert_eq!(hole(4097, None), 2);
        assert_eq!(hole(u64::MAX - 1, Some(200)), 1);
    }

    fn placed(epoch: u64, effective: bool, states: &[MemberState]) -> Placed {
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
            lost: Vec::new(),
        };
        Placed {
            groups: BTreeMap::from([(GroupId(2), record)]),
            ..Placed::default()
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
        let present = placed(3, true, &[InSync, Joining, Offline]);
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
        assert_eq!(progress.left(&placed(4, false, &[InSync; 2])).waiting, 1);
        assert_eq!(
            progress.left(&placed(4, true, &[InSync; 2])).missing.len(),
            2
        );
    }
}
