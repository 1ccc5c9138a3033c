//! Mounts: their sessions, leases and recalls, and the end of a session.
//!
//! Times to live are shorter than the product's, so that more happens in a run; their order is
//! the same.

use super::{Directory, MOUNT_DEADLINE};
use crate::sim::message::{Answer, Ask, Process, Then, Told};
use crate::sim::schedule::{Schedule, error};
use dfs_directory::lease::Token;
use dfs_directory::lease::table::{Effect, LeaseTable, Wanted};
use dfs_directory::session::{SessionChanged, SessionCommand};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{GrantId, Incarnation, InodeId, SessionId};
use dfs_proto::msg::session::LeaseKind;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Shared leases last this long from the sending of the last acknowledged sign of life.
pub(crate) const CACHE_RIGHT: Duration = Duration::from_millis(400);

/// What the granter adds.
const MARGIN: Duration = Duration::from_millis(50);

/// A session that is silent for longer is ended.
const SESSION_TTL: Duration = Duration::from_millis(900);

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

#[derive(Debug)]
pub(super) struct Sessions {
    alive: BTreeMap<SessionId, Mount>,
    ending: BTreeSet<SessionId>,
    pub(super) table: LeaseTable,
    waiting: BTreeMap<Token, Waiting>,
    tokens: u64,
    recalls: BTreeMap<(SessionId, InodeId, GrantId), Recall>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            alive: BTreeMap::new(),
            ending: BTreeSet::new(),
            table: LeaseTable::new(GrantId(0)),
            waiting: BTreeMap::new(),
            tokens: 0,
            recalls: BTreeMap::new(),
        }
    }
}

impl Sessions {
    pub(super) fn is_alive(&self, session: SessionId) -> bool {
        self.alive.contains_key(&session)
    }

    pub(super) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

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
        self.take_effects(s, effects);
        let token = self.sessions.token();
        let waiting = Waiting {
            call,
            session,
            inode,
        };
        self.sessions.waiting.insert(token, waiting);
        self.want(s, token, session, inode, Wanted::Lease(kind));
    }

    pub(super) fn want(
        &mut self,
        s: &mut Schedule,
        token: Token,
        session: SessionId,
        inode: InodeId,
        wanted: Wanted,
    ) {
        let (now, mut effects) = (s.directory_now(), Vec::new());
        let table = &mut self.sessions.table;
        table.request(now, token, session, inode, wanted, &mut effects);
        self.take_effects(s, effects);
    }

    /// An operation is over.
    pub(super) fn finish(&mut self, s: &mut Schedule, token: Token) {
        let (now, mut effects) = (s.directory_now(), Vec::new());
        self.sessions.table.finish(now, token, &mut effects);
        self.take_effects(s, effects);
    }

    /// The answer with a grant is on its way.
    pub(super) fn delivered(
        &mut self,
        s: &mut Schedule,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
    ) {
        let (now, mut effects) = (s.directory_now(), Vec::new());
        let table = &mut self.sessions.table;
        table.delivered(now, session, inode, grant, &mut effects);
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
                    } => match self.sessions.waiting.remove(&token) {
                        Some(w) => self.answer_grant(s, w.call, session, inode, granted),
                        None => self.delivered(s, session, inode, granted.grant),
                    },
                    Effect::Granted { token, inode, .. } => self.operates(s, token, inode),
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
                        self.operation_dropped(s, token);
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
        // Of a session that ends nothing is free before it is fenced.
        if answer.is_ok() && self.sessions.is_alive(session) {
            let mut effects = Vec::new();
            self.sessions
                .table
                .returned(s.directory_now(), session, inode, grant, &mut effects);
            self.take_effects(s, effects);
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
                self.sessions.ending.insert(session);
                self.commit_session(s, SessionCommand::BeginEnd { session });
                self.reload(s);
                self.begin_fence(s, session);
            }
        }
        self.sessions.table.tick(now, &mut effects);
        self.take_effects(s, effects);
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

    /// Nothing of an ending session is in progress any more, nor will be.
    pub(super) fn fenced(&mut self, s: &mut Schedule, session: SessionId) {
        s.trace(|| format!("directory: {session} is fenced"));
        self.settle(s, session);
    }

    /// What an ending session left is settled: everything of it is free.
    pub(super) fn finish_end(&mut self, s: &mut Schedule, session: SessionId) {
        s.trace(|| format!("directory: {session} is over"));
        self.sessions.ending.remove(&session);
        self.commit_session(s, SessionCommand::FinishEnd { session });
        self.reload(s);
        s.oracle.session_over(session);
        s.invariants.session_over(session);
        self.end_settled(s, session);
        let mut effects = Vec::new();
        let now = s.directory_now();
        self.sessions.table.end_session(now, session, &mut effects);
        self.take_effects(s, effects);
    }
}
