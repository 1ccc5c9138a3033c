//! The leader's memory: the pure tables of `lease`, and who waits for what in them.

use super::MountApi;
use super::epitaphs::Epitaphs;
use crate::lease::asks::Asks;
use crate::lease::clock::SessionClock;
use crate::lease::dir_rights::DirRights;
use crate::lease::grace::Grace;
use crate::lease::interest::InterestMirror;
use crate::lease::lock_table::{LockTable, WaitKey};
use crate::lease::opens::OpenTable;
use crate::lease::table::{Effect, Granted, LeaseTable};
use crate::lease::{Moment, Token};
use crate::session::{SessionInfo, SessionPhase, read};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{GrantId, InodeId, Sequence, SessionId};
use dfs_proto::limits::SESSION_DIR_RIGHTS_MAX;
use dfs_proto::transport::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::MutexGuard;
use tokio::sync::oneshot;

/// Requests of one session that may wait for leases: more are refused as `Overloaded`.
pub(super) const SESSION_WAITS_MAX: usize = 4096;

/// Leases, and opens, of one session: far more than a mount keeps, a bound for memory.
pub(super) const SESSION_HOLDS_MAX: usize = 1 << 20;

/// Stamped requests that are remembered for one session, as in the ledger.
const REMEMBERED_MAX: usize = crate::session::ledger::WINDOW as usize;

/// What became of a stamped request that changed only the leader's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remembered {
    Done,
    /// A lock wait that goes on.
    Queued,
    /// A lock wait that has ended with the lock; the mount has not acknowledged it yet.
    Granted,
    Refused(ErrorCode),
}

/// Exactly-once execution of stamped requests that are not logged (locks, closes).
#[derive(Default, Debug)]
pub(super) struct Memory {
    lowest: Sequence,
    answers: BTreeMap<Sequence, Remembered>,
}

impl Memory {
    /// The answer of a repeat; `None` for a request that comes for the first time.
    pub(super) fn recall(
        &mut self,
        sequence: Sequence,
        lowest_unanswered: Sequence,
    ) -> Result<Option<Remembered>> {
        if lowest_unanswered > self.lowest {
            self.lowest = lowest_unanswered;
            // A wait is asked for and cancelled by its sequence until the mount knows its end.
            self.answers.retain(|at, answer| {
                *at >= lowest_unanswered
                    || matches!(answer, Remembered::Queued | Remembered::Granted)
            });
        }
        let known = self.answers.get(&sequence).copied();
        if known.is_none() && sequence < self.lowest {
            return Err(ErrorCode::SequenceForgotten.into());
        }
        if known.is_none() && self.answers.len() >= REMEMBERED_MAX {
            return Err(Error::new(
                ErrorCode::Overloaded,
                "too many requests of the session are unanswered",
            ));
        }
        Ok(known)
    }

    pub(super) fn remember(&mut self, sequence: Sequence, answer: Remembered) {
        self.answers.insert(sequence, answer);
    }

    pub(super) fn known(&self, sequence: Sequence) -> Option<Remembered> {
        self.answers.get(&sequence).copied()
    }

    /// A wait was cancelled, perhaps before its request has come: it is never executed.
    pub(super) fn refuse(&mut self, sequence: Sequence) -> Result<()> {
        if sequence >= self.lowest && self.answers.len() >= REMEMBERED_MAX {
            return Err(ErrorCode::Overloaded.into());
        }
        if sequence >= self.lowest || self.answers.contains_key(&sequence) {
            self.remember(sequence, Remembered::Refused(ErrorCode::Interrupted));
        }
        Ok(())
    }

    /// The mount knows that the wait has ended with the lock.
    pub(super) fn acknowledged(&mut self, sequence: Sequence) {
        if sequence < self.lowest {
            self.answers.remove(&sequence);
        } else {
            self.remember(sequence, Remembered::Done);
        }
    }
}

/// A session as its leader sees it.
pub(super) struct Present {
    pub(super) info: SessionInfo,
    /// Where callbacks go; `None` while it is not connected.
    pub(super) connection: Option<Connection>,
    pub(super) memory: Memory,
    /// Lease requests that wait.
    pub(super) waits: usize,
}

/// Everything that a leader knows and the log does not.
pub(super) struct Core {
    /// Of this leader; `0` while this member does not lead.
    pub(super) life: u64,
    pub(super) started: Moment,
    pub(super) leases: LeaseTable,
    pub(super) rights: DirRights,
    pub(super) locks: LockTable,
    pub(super) opens: OpenTable,
    pub(super) clock: SessionClock,
    pub(super) grace: Grace,
    pub(super) interest: InterestMirror,
    pub(super) asks: Asks,
    pub(super) sessions: BTreeMap<SessionId, Present>,
    /// Requests that wait for a lease (`Some`) or an operation (`None`).
    pub(super) lease_waits: BTreeMap<Token, oneshot::Sender<Option<Granted>>>,
    pub(super) ask_waits: BTreeMap<Token, oneshot::Sender<()>>,
    /// Granted lock waits that the mount has not acknowledged.
    pub(super) lock_grants: BTreeMap<WaitKey, InodeId>,
    /// Inodes without a name, and those of them whose free is on its way to the log.
    pub(super) orphans: BTreeSet<InodeId>,
    pub(super) freeing: BTreeSet<InodeId>,
    /// Rises whenever an exclusive holder's size and times come into the log.
    pub(super) pushes: u64,
    /// Inodes whose size was set since a question about it was sent: the answer may be older.
    pub(super) overtaken: BTreeSet<InodeId>,
    pub(super) ended: Epitaphs,
    /// When the ticker looks again.
    pub(super) tick_at: Moment,
}

impl Core {
    /// The memory of a member that does not lead.
    pub(super) fn idle() -> Self {
        Self {
            life: 0,
            started: Moment::ZERO,
            leases: LeaseTable::new(GrantId(0)),
            rights: DirRights::new(SESSION_DIR_RIGHTS_MAX),
            locks: LockTable::default(),
            opens: OpenTable::default(),
            clock: SessionClock::default(),
            grace: Grace::begin(Moment::ZERO, [], []),
            interest: InterestMirror::default(),
            asks: Asks::default(),
            sessions: BTreeMap::new(),
            lease_waits: BTreeMap::new(),
            ask_waits: BTreeMap::new(),
            lock_grants: BTreeMap::new(),
            orphans: BTreeSet::new(),
            freeing: BTreeSet::new(),
            pushes: 0,
            overtaken: BTreeSet::new(),
            ended: Epitaphs::default(),
            tick_at: Moment::MAX,
        }
    }

    /// The memory of a new leader: the sessions and interest records of the log. No earlier leader
    /// has proved its lead by anything that began after `led_until`.
    fn lead(
        life: u64,
        now: Moment,
        led_until: Moment,
        sessions: Vec<SessionInfo>,
        records: &[(SessionId, InodeId)],
    ) -> Self {
        // Grants of a later life are above those of all earlier ones.
        let mut core = Self {
            life,
            started: now,
            ..Self::idle()
        };
        core.leases = LeaseTable::new(GrantId(life << 32));
        core.grace = Grace::begin(
            led_until,
            sessions.iter().map(|s| s.session),
            records.iter().copied(),
        );
        for (session, inode) in records {
            core.interest.logged(*session, *inode);
        }
        for info in sessions {
            core.clock.begin(info.session, now);
            if info.phase == SessionPhase::Ending {
                core.clock.begin_end(info.session);
            }
            core.begin_session(info);
        }
        core
    }

    pub(super) fn begin_session(&mut self, info: SessionInfo) {
        self.sessions
            .entry(info.session)
            .or_insert_with(|| Present {
                info,
                connection: None,
                memory: Memory::default(),
                waits: 0,
            });
    }

    pub(super) fn connection(&self, session: SessionId) -> Option<Connection> {
        self.sessions.get(&session)?.connection.clone()
    }

    pub(super) fn present(&mut self, session: SessionId) -> Result<&mut Present> {
        self.sessions
            .get_mut(&session)
            .ok_or_else(|| Error::bare(ErrorCode::SessionEnded).with_detail(session.0))
    }
}

impl MountApi {
    /// Loads the leader's memory whenever this member begins to lead, and drops it at the end.
    pub(super) async fn follow_leadership(self) {
        let mut status = self.raft().watch();
        loop {
            let (leading, life) = {
                let status = status.borrow_and_update();
                (status.leading, status.life)
            };
            let present = self.core().life;
            if leading && life != present {
                match self.load(life).await {
                    Ok(()) => log::info!("serving mounts as leader, life {life}"),
                    Err(e) => {
                        log::warn!("can't take over the sessions of the log yet: {e}");
                        tokio::time::sleep(dfs_proto::timing::RETRY_DELAY_MIN).await;
                        continue;
                    }
                }
            } else if !leading && present != 0 {
                log::info!("not the leader any more: mounts are sent to the new one");
                // Dropping it ends every wait; those who waited answer `NotLeader`.
                *self.core() = Core::idle();
                self.changed();
            }
            if status.changed().await.is_err() {
                *self.core() = Core::idle();
                self.changed();
                return;
            }
        }
    }

    async fn load(&self, life: u64) -> Result<()> {
        let (sessions, records) = self
            .raft()
            .read(|tables| {
                let mut sessions = read::sessions(tables)?;
                sessions.retain(|s| s.phase != SessionPhase::Ended);
                let mut records = Vec::new();
                for session in sessions.iter().map(|s| s.session) {
                    let inodes = read::interest_of(tables, session)?;
                    records.extend(inodes.into_iter().map(|inode| (session, inode)));
                }
                Ok((sessions, records))
            })
            .await?;
        let ending: Vec<SessionId> = sessions
            .iter()
            .filter(|s| s.phase == SessionPhase::Ending)
            .map(|s| s.session)
            .collect();
        let status = self.raft().status();
        let known = status.led_until.filter(|_| status.life == life);
        // Not known: up to now.
        let ago = known.map_or(Moment::ZERO, |at| at.elapsed());
        let now = self.now();
        *self.core() = Core::lead(life, now, now.saturating_sub(ago), sessions, &records);
        self.changed();
        for session in ending {
            tokio::spawn(self.clone().finish_ending(session));
        }
        self.shared.orphans.notify_one();
        Ok(())
    }

    /// Carries out what the lease table decided.
    pub(super) fn carry_out(&self, core: &mut MutexGuard<'_, Core>, effects: Vec<Effect>) {
        let mut todo: std::collections::VecDeque<Effect> = effects.into();
        let mut more = Vec::new();
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::Granted {
                    token,
                    session,
                    inode,
                    grant,
                } => {
                    let waiter = core.lease_waits.remove(&token);
                    if waiter.is_some_and(|waiter| waiter.send(grant).is_ok()) {
                        continue;
                    }
                    // Nobody waits for it any more.
                    match grant {
                        Some(g) => {
                            core.leases
                                .release(self.now(), session, inode, g.grant, &mut more);
                        }
                        None => core.leases.finish(self.now(), token, &mut more),
                    }
                }
                Effect::Recall {
                    session,
                    inode,
                    grant,
                    keep,
                } => {
                    tokio::spawn(self.clone().recall(core.life, session, inode, grant, keep));
                }
                Effect::Dropped { token } => {
                    core.lease_waits.remove(&token);
                }
            }
            todo.extend(more.drain(..));
        }
        // The ticker itself comes by here: told of what it knows it would never rest.
        let due = core.leases.next_deadline();
        if due.is_some_and(|due| due < core.tick_at) {
            self.shared.sooner.notify_one();
        }
    }
}
