//! What a fenced session has left: where its files end is what the file servers hold, once the cuts
//! in the log are made.

use super::Directory;
use super::placement::Waiting;
use crate::sim::Around;
use crate::sim::client;
use crate::sim::message::CallKind;
use crate::sim::schedule::Schedule;
use dfs_directory::governor::Link;
use dfs_directory::namespace::{Changed, NamespaceCommand};
use dfs_proto::error::Error;
use dfs_proto::ids::{ChunkIndex, Epoch, GroupId, InodeId, ServerRun, SessionId};
use dfs_proto::msg::control::{InodesMeasured, MeasureInodes};
use dfs_server::replica::Request;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MEASURE_DEADLINE: Duration = Duration::from_millis(500);

/// Between two questions to a group.
const RETRY: Duration = Duration::from_millis(20);

/// The files of one session that is ending.
#[derive(Debug)]
struct Left {
    inodes: Vec<InodeId>,
    /// Groups that have not said what they hold; nobody is asked any more when there is none.
    unasked: BTreeSet<GroupId>,
    called: BTreeSet<ServerRun>,
    again: Duration,
    ends: BTreeMap<InodeId, u64>,
    /// The ends are in the log.
    logged: bool,
}

/// What ending sessions left.
#[derive(Debug, Default)]
pub(super) struct Settling(BTreeMap<SessionId, Left>);

impl Directory {
    /// A session is fenced: its files are settled, then it is over.
    pub(super) fn settle(&mut self, s: &mut Schedule, session: SessionId) {
        let files = s.files.clone();
        let held = |inode: InodeId| {
            let holder = self.sessions.table.exclusive_holder(inode);
            holder.is_some_and(|(holder, _)| holder == session)
        };
        let files: Vec<_> = files.iter().filter(|(inode, _)| held(*inode)).collect();
        // Also those that have nobody yet.
        let groups = files.iter().map(|(_, layout)| layout.groups).max();
        let inodes: Vec<InodeId> = files.iter().map(|(inode, _)| *inode).collect();
        if inodes.is_empty() {
            return self.finish_end(s, session);
        }
        let left = Left {
            inodes,
            unasked: (0..groups.unwrap_or(0)).map(GroupId).collect(),
            called: BTreeSet::new(),
            again: Duration::ZERO,
            ends: BTreeMap::new(),
            logged: false,
        };
        self.settling.0.insert(session, left);
    }

    /// Asks those groups that have not answered.
    pub(super) fn step_settling(&mut self, s: &mut Schedule) {
        let sessions: Vec<SessionId> = self.settling.0.keys().copied().collect();
        for session in sessions {
            self.ask_ends(s, session);
        }
    }

    fn ask_ends(&mut self, s: &mut Schedule, session: SessionId) {
        let now = s.directory_now();
        let cutting = |left: &Left| left.inodes.iter().any(|i| !self.intents(*i).is_empty());
        let Some(left) = self.settling.0.get(&session) else {
            return;
        };
        if left.logged || left.again > now || cutting(left) {
            return;
        }
        let placed = self.placement.governor.placed().clone();
        let links = self.placement.governor.links().clone();
        let mut asked: BTreeMap<ServerRun, (Link, Vec<(GroupId, Epoch)>)> = BTreeMap::new();
        for group in &left.unasked {
            let record = placed.groups.get(group).filter(|r| r.is_effective());
            let Some(config) = record.map(|record| &record.config) else {
                continue;
            };
            let link = config.primary.and_then(|primary| links.get(&primary));
            if let Some(link) = link.filter(|l| !left.called.contains(&l.run)) {
                let call = asked.entry(link.run).or_insert((*link, Vec::new()));
                call.1.push((*group, config.epoch));
            }
        }
        let inodes: Vec<_> = left.inodes.iter().map(|i| (*i, ChunkIndex(0))).collect();
        for (run, (link, groups)) in asked {
            if let Some(left) = self.settling.0.get_mut(&session) {
                left.called.insert(run);
            }
            let inodes = inodes.clone();
            let request = Request::Measure(MeasureInodes { groups, inodes });
            let kind = CallKind::Measure { session, run };
            self.call_server(s, link.link, request, MEASURE_DEADLINE, kind);
        }
    }

    pub(super) fn measured(
        &mut self,
        s: &mut Schedule,
        session: SessionId,
        run: ServerRun,
        answer: Result<InodesMeasured, Error>,
    ) {
        let Some(left) = self.settling.0.get_mut(&session) else {
            return;
        };
        left.called.remove(&run);
        left.again = s.directory_now() + RETRY;
        let measured = answer.unwrap_or_default();
        for (group, _) in measured.groups {
            left.unasked.remove(&group);
        }
        for (inode, index, stored) in measured.last {
            let layout = s.files.iter().find(|(file, _)| *file == inode);
            let bytes = layout.map_or(0, |(_, layout)| u64::from(layout.chunk_bytes));
            let end = left.ends.entry(inode).or_default();
            *end = (*end).max(index.0 * bytes + u64::from(stored));
        }
        if left.unasked.is_empty() && !left.logged {
            left.logged = true;
            self.log_ends(s, session);
        }
    }

    fn log_ends(&mut self, s: &mut Schedule, session: SessionId) {
        let Some(left) = self.settling.0.get(&session) else {
            return;
        };
        let ends = left.ends.clone();
        for inode in left.inodes.clone() {
            let mut end = ends.get(&inode).copied().unwrap_or_default();
            if s.around == Around::EndsForgotten {
                end = 0;
            }
            s.trace(|| format!("directory: the data of {inode} end at {end}"));
            match self.change_files(s, NamespaceCommand::Settle { inode, end }) {
                Ok(Changed { cut: Some(_), .. }) => {}
                other => s.violate(format!("{inode} is not settled: {other:?}")),
            }
        }
        self.note_intents(s);
        self.intents_logged(s);
        self.settled(s, session);
    }

    /// The next cut of an ending session is waited for; after the last one it is over.
    pub(super) fn settled(&mut self, s: &mut Schedule, session: SessionId) {
        let left = self.settling.0.get(&session);
        let inodes = left.into_iter().flat_map(|left| &left.inodes);
        let next = inodes
            .filter_map(|inode| Some((*inode, self.intents(*inode).last()?.generation)))
            .next();
        match next {
            Some((inode, generation)) => {
                self.wait_for_cut(s, inode, generation, Waiting::Settled(session));
            }
            None => self.finish_end(s, session),
        }
    }

    /// What lies beyond the sizes of files that a session left is zeros now, for certain, and nothing
    /// that anybody was answered was there.
    pub(super) fn end_settled(&mut self, s: &mut Schedule, session: SessionId) {
        let left = self.settling.0.remove(&session);
        for inode in left.into_iter().flat_map(|left| left.inodes) {
            let Ok(attr) = self.attr(s, inode) else {
                continue;
            };
            let beyond = (0..client::CHUNKS * client::BLOCKS)
                .filter(|block| client::byte_of(*block) >= attr.size);
            for block in beyond {
                if let Err(lost) = s.oracle.settled((inode, block)) {
                    s.violate(format!(
                        "{session} ended, and its answered write with it: {lost}"
                    ));
                }
            }
        }
    }
}
