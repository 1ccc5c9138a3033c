//! Mounts: their sessions, leases and recalls, and the fence at a session's end.
//!
//! Times to live are shorter than the product's, so that more happens in a run; their order is
//! the same.

use super::drive::control;
use super::{Directory, MOUNT_DEADLINE};
use crate::sim::message::{Answer, Ask, Process, Then, Told};
use crate::sim::schedule::{Schedule, error};
use dfs_directory::lease::Token;
use dfs_directory::lease::table::{Effect, LeaseTable, Wanted};
use dfs_directory::session::{SessionChanged, SessionCommand};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Epoch, GrantId, GroupId, Incarnation, InodeId, ServerRun, SessionId};
use dfs_proto::msg::control::FenceSessions;
use dfs_proto::msg::session::LeaseKind;
use dfs_server::replica::{Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Shared leases last this long from the sending of the last acknowledged sign of life.
pub(crate) const CACHE_RIGHT: Duration = Duration::from_millis(400);

/// What the granter adds.
const MARGIN: Duration = Duration::from_millis(50);

/// A session that is silent for longer is ended.
const SESSION_TTL: Duration = Duration::from_millis(900);

/// A server that does not acknowledge a fence by then leaves its groups.
const FENCE_DEADLINE: Duration = Duration::from_millis(1_000);

/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
struct Mount {
    process: Process,
    heard: Duration,
}

/// A lease that is asked for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    call: u64,
    session: SessionId,
    inode: InodeId,
}

/// A recall that is not answered.
#[derive(Clone, Copy, Debug)]
struct Recall {
    keep: Option<LeaseKind>,
    asked: bool,
    next: Duration,
}

/// A session that is being fenced.
#[derive(Debug, Default)]
struct Ending {
    acked: BTreeMap<(GroupId, ServerRun), Epoch>,
    asked: BTreeSet<ServerRun>,
    next: BTreeMap<ServerRun, Duration>,
}

#[derive(Debug)]
pub(super) struct Sessions {
    alive: BTreeMap<SessionId, Mount>,
    ending: BTreeMap<SessionId, Ending>,
    table: LeaseTable,
    waiting: BTreeMap<Token, Waiting>,
    tokens: u64,
    recalls: BTreeMap<(SessionId, InodeId, GrantId), Recall>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            alive: BTreeMap::new(),
            ending: BTreeMap::new(),
            table: LeaseTable::new(GrantId(0)),
            waiting: BTreeMap::new(),
            tokens: 0,
            recalls: BTreeMap::new(),
        }
    }
}

impl Sessions {
    pub(super) fn mounts(&self) -> Vec<Process> {
        self.alive.values().map(|mount| mount.process).collect()
    }
}

impl Directory {
    pub(super) fn open_session(
        &mut self,
        s: &mut Schedule,
        from: Process,
        incarnation: Incarnation,
    ) -> Answer {
        let command = SessionCommand::Open {
            incarnation,
            host: String::new(),
            pid: 1,
            mount_point: String::new(),
        };
        match self.commit_session(s, command).map(|outcome| outcome.0) {
            Some(Ok(SessionChanged::Opened { session, .. })) => {
                let heard = s.directory_now();
                let process = from;
                self.sessions
                    .alive
                    .insert(session, Mount { process, heard });
                Ok(Told::Session(session, self.map.clone()))
            }
            Some(Err(code)) => Err(error(code)),
            _ => Err(error(ErrorCode::Internal)),
        }
    }

    pub(super) fn beaten(&mut self, session: SessionId, now: Duration) -> Answer {
        match self.sessions.alive.get_mut(&session) {
            Some(mount) => {
                mount.heard = now;
                Ok(Told::Done)
            }
            None => Err(error(ErrorCode::SessionEnded)),
        }
    }

    pub(super) fn lease(
        &mut self,
        s: &mut Schedule,
        call: u64,
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
    ) {
        if !self.sessions.alive.contains_key(&session) {
            let answer = Err(error(ErrorCode::SessionEnded));
            return s.answer(self.process, call, answer);
        }
        let mut effects = Vec::new();
        // A mount has one ask for an inode at a time: an older one has been given up.
        let same = |w: &Waiting| w.session == session && w.inode == inode;
        let waiting = self.sessions.waiting.iter();
        let given_up: Vec<Token> = waiting.filter(|(_, w)| same(w)).map(|(t, _)| *t).collect();
        for token in given_up {
            self.sessions.waiting.remove(&token);
            self.sessions
                .table
                .finish(s.directory_now(), token, &mut effects);
        }
        self.sessions.tokens += 1;
        let token = Token(self.sessions.tokens);
        let waiting = Waiting {
            call,
            session,
            inode,
        };
        self.sessions.waiting.insert(token, waiting);
        let wanted = Wanted::Lease(kind);
        self.sessions.table.request(
            s.directory_now(),
            token,
            session,
            inode,
            wanted,
            &mut effects,
        );
        self.take_effects(s, effects);
    }

    fn take_effects(&mut self, s: &mut Schedule, mut effects: Vec<Effect>) {
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Granted {
                        token,
                        session,
                        inode,
                        grant: Some(granted),
                    } => {
                        if let Some(waiting) = self.sessions.waiting.remove(&token) {
                            let told = Told::Granted {
                                grant: granted.grant,
                                kind: granted.kind,
                                map_version: self.map.version,
                            };
                            s.trace(|| format!("directory: {session} gets {inode} {granted:?}"));
                            s.answer(self.process, waiting.call, Ok(told));
                        }
                        let table = &mut self.sessions.table;
                        table.delivered(
                            s.directory_now(),
                            session,
                            inode,
                            granted.grant,
                            &mut effects,
                        );
                    }
                    Effect::Granted { .. } => {}
                    Effect::Recall {
                        session,
                        inode,
                        grant,
                        keep,
                    } => {
                        let recall = Recall {
                            keep,
                            asked: false,
                            next: s.directory_now(),
                        };
                        self.sessions
                            .recalls
                            .insert((session, inode, grant), recall);
                    }
                    Effect::Dropped { token } => {
                        if let Some(waiting) = self.sessions.waiting.remove(&token) {
                            let answer = Err(error(ErrorCode::SessionEnded));
                            s.answer(self.process, waiting.call, answer);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn recall_answered(
        &mut self,
        s: &mut Schedule,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        answer: Answer,
    ) {
        if let Some(recall) = self.sessions.recalls.get_mut(&(session, inode, grant)) {
            recall.asked = false;
            recall.next = s.directory_now() + RETRY;
        }
        if answer.is_ok() {
            let mut effects = Vec::new();
            self.sessions
                .table
                .returned(s.directory_now(), session, inode, grant, &mut effects);
            self.take_effects(s, effects);
        }
    }

    pub(super) fn fence_answered(
        &mut self,
        s: &mut Schedule,
        run: ServerRun,
        sessions: &[SessionId],
        answer: Answer,
    ) {
        let failed = answer.as_ref().err().map(|e| e.code);
        if failed == Some(ErrorCode::DeadlineExceeded) {
            s.trace(|| format!("directory: {run} does not fence {sessions:?}"));
            self.expel(s.directory_now(), run);
        }
        for session in sessions {
            let Some(ending) = self.sessions.ending.get_mut(session) else {
                continue;
            };
            ending.asked.remove(&run);
            ending.next.insert(run, s.directory_now() + RETRY);
            if let Ok(Told::Chunk(Response::Fenced(fenced), _)) = &answer {
                let epochs = fenced.epochs.iter();
                ending
                    .acked
                    .extend(epochs.map(|(group, epoch)| ((*group, run), *epoch)));
            }
        }
    }

    /// Everything of sessions that time or a new epoch brings.
    pub(super) fn step_sessions(&mut self, s: &mut Schedule) {
        let mut effects = Vec::new();
        let now = s.directory_now();
        let alive: Vec<(SessionId, Mount)> = self
            .sessions
            .alive
            .iter()
            .map(|(id, mount)| (*id, *mount))
            .collect();
        for (session, mount) in alive {
            if now > mount.heard + CACHE_RIGHT + MARGIN {
                self.sessions.table.lapse(now, session, &mut effects);
            }
            if now > mount.heard + SESSION_TTL {
                s.trace(|| format!("directory: {session} is silent, its end begins"));
                self.sessions.alive.remove(&session);
                self.sessions.ending.insert(session, Ending::default());
                self.commit_session(s, SessionCommand::BeginEnd { session });
            }
        }
        self.sessions.table.tick(now, &mut effects);
        self.take_effects(s, effects);
        self.fence(s);
        self.send_recalls(s);
    }

    fn send_recalls(&mut self, s: &mut Schedule) {
        let sessions = &mut self.sessions;
        let table = &sessions.table;
        sessions
            .recalls
            .retain(|(session, inode, grant), _| table.is_recalling(*session, *inode, *grant));
        for ((session, inode, grant), recall) in &mut sessions.recalls {
            let Some(mount) = sessions.alive.get(session) else {
                continue;
            };
            if recall.asked || recall.next > s.directory_now() {
                continue;
            }
            recall.asked = true;
            let ask = Ask::Recall {
                inode: *inode,
                grant: *grant,
                keep: recall.keep,
            };
            let then = Then::Recalled(*session, *inode, *grant);
            s.call(self.process, mount.process, ask, MOUNT_DEADLINE, then);
        }
    }

    /// Asks in-sync members that have not acknowledged; ends the sessions that all have.
    fn fence(&mut self, s: &mut Schedule) {
        let mut over = Vec::new();
        for (session, ending) in &mut self.sessions.ending {
            let mut open = false;
            for (group, record) in &self.placed.groups {
                if !record.is_effective() {
                    open = true;
                    continue;
                }
                let epoch = record.config.epoch;
                for run in record.config.in_sync() {
                    if ending.acked.get(&(*group, run)) == Some(&epoch) {
                        continue;
                    }
                    open = true;
                    let rests = ending
                        .next
                        .get(&run)
                        .is_some_and(|at| *at > s.directory_now());
                    let link = self
                        .registry
                        .link(run.server)
                        .filter(|link| link.run == run);
                    let Some(link) = link.filter(|_| !rests) else {
                        continue;
                    };
                    if ending.asked.insert(run) {
                        let sessions = vec![*session];
                        let then = Then::Fenced(run, sessions.clone());
                        let request = Request::Fence(FenceSessions { sessions });
                        s.call(
                            self.process,
                            link.process,
                            control(request),
                            FENCE_DEADLINE,
                            then,
                        );
                    }
                }
            }
            if !open {
                over.push(*session);
            }
        }
        for session in over {
            s.trace(|| format!("directory: {session} is over"));
            self.sessions.ending.remove(&session);
            self.commit_session(s, SessionCommand::FinishEnd { session });
            s.oracle.session_over(session);
            s.invariants.session_over(session);
            let mut effects = Vec::new();
            self.sessions
                .table
                .end_session(s.directory_now(), session, &mut effects);
            self.take_effects(s, effects);
        }
    }
}
