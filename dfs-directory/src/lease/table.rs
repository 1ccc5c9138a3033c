//! Inode leases: holders, the queue of waiting requests, operations and recalls.
//!
//! Requests on one inode are granted strictly in order (FIFO), so nobody starves: a request
//! that would fit the present holders still waits behind one that came earlier and does not.
//! The one exception is an operation of a session that holds a lease: it goes first, because the
//! holder may not be able to give the lease back before its operation is done.
//! An *operation* is a change of an inode's attributes by the directory itself on behalf of a
//! session: while it is held no *other* session has a lease.
//!
//! One recall a holder is outstanding at a time. A recall is sent only after the answer that
//! carried the grant was (`delivered`), so that a mount never hears of a recall first.

use super::{Moment, Token};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::timing::GRANT_TERM_MIN;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    Lease(LeaseKind),
    /// The right to change the inode's attributes in the log: no other session holds a lease.
    Operation,
}

/// What the caller has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The request has what it wanted. For a lease the holder is recorded; `delivered` must
    /// follow once the answer is on its way (or `release` if it can't be).
    Granted {
        token: Token,
        session: SessionId,
        inode: InodeId,
        /// `None` for an operation.
        grant: Option<Granted>,
    },
    /// The holder has to give back; ends with `returned`, `release`, a lapse or the session's end.
    Recall {
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        keep: Option<LeaseKind>,
    },
    /// The request went away with its session.
    Dropped { token: Token },
}

/// A lease as it was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    pub grant: GrantId,
    pub kind: LeaseKind,
    /// Others want it too.
    pub contended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    grant: GrantId,
    kind: LeaseKind,
    contended: bool,
    /// When the answer with this grant was sent; `None` until then.
    delivered: Option<Moment>,
    /// The recall that is outstanding: what may be kept.
    recalling: Option<Option<LeaseKind>>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    token: Token,
    session: SessionId,
    wanted: Wanted,
}

#[derive(Default, Debug)]
struct InodeLeases {
    holders: BTreeMap<SessionId, Holder>,
    /// Running operations, all of one session.
    operations: BTreeMap<Token, SessionId>,
    queue: VecDeque<Waiting>,
    /// Who lost it by a recall last, and when: who asks again so soon contends.
    lost: Option<(SessionId, Moment)>,
}

impl InodeLeases {
    fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.operations.is_empty() && self.queue.is_empty()
    }

    /// Whether nothing that is held now stands against the request.
    fn fits(&self, waiting: &Waiting) -> bool {
        let mine = |s: SessionId| s == waiting.session;
        if !self.operations.values().all(|s| mine(*s)) {
            return false;
        }
        // What this session is giving back right now may come with a push: first that.
        let returning = self
            .holders
            .get(&waiting.session)
            .is_some_and(|h| h.recalling.is_some());
        if returning && waiting.wanted != Wanted::Operation {
            return false;
        }
        self.holders
            .iter()
            .all(|(s, h)| mine(*s) || !conflicts(waiting.wanted, h.kind))
    }
}

fn conflicts(wanted: Wanted, held: LeaseKind) -> bool {
    !matches!(
        (wanted, held),
        (Wanted::Lease(LeaseKind::Shared), LeaseKind::Shared)
    )
}

/// All leases of the file system.
#[derive(Debug)]
pub struct LeaseTable {
    inodes: BTreeMap<InodeId, InodeLeases>,
    /// Session -> inodes that it holds a lease of.
    held: BTreeMap<SessionId, BTreeSet<InodeId>>,
    /// Where each waiting request or running operation is.
    tokens: BTreeMap<Token, (SessionId, InodeId)>,
    /// When a holder's minimum term ends and its inode is looked at again.
    deadlines: BTreeSet<(Moment, InodeId)>,
    last_grant: GrantId,
}

impl LeaseTable {
    /// An empty table. Grants are numbered from `after` on, which is above every grant of an
    /// earlier life of the directory.
    pub fn new(after: GrantId) -> Self {
        Self {
            inodes: BTreeMap::new(),
            held: BTreeMap::new(),
            tokens: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last_grant: after,
        }
    }

    /// Asks for a lease or an operation. The answer is an effect, now or later.
    pub fn request(
        &mut self,
        now: Moment,
        token: Token,
        session: SessionId,
        inode: InodeId,
        wanted: Wanted,
        effects: &mut Vec<Effect>,
    ) {
        let at = self.inodes.entry(inode).or_default();
        if let (Wanted::Lease(kind), Some(holder)) = (wanted, at.holders.get(&session))
            && holder.recalling.is_none()
            && holder.kind >= kind
        {
            // Held already: the same grant again, ahead of the queue (the recall for the
            // queue's head is yet to come).
            effects.push(Effect::Granted {
                token,
                session,
                inode,
                grant: Some(Granted {
                    grant: holder.grant,
                    kind: holder.kind,
                    contended: !at.queue.is_empty(),
                }),
            });
            return;
        }
        let waiting = Waiting {
            token,
            session,
            wanted,
        };
        // A holder may use its lease until its operation is done, so the operation must not
        // stand behind a request that waits for the lease.
        let first = wanted == Wanted::Operation && at.holders.contains_key(&session);
        let place = if first {
            let not_first =
                |w: &Waiting| !at.holders.contains_key(&w.session) || w.wanted != wanted;
            at.queue.iter().position(not_first)
        } else {
            None
        };
        at.queue.insert(place.unwrap_or(at.queue.len()), waiting);
        self.tokens.insert(token, (session, inode));
        self.advance(now, inode, effects);
    }

    /// Whether `try_lease` would succeed.
    pub fn is_free_for(&self, session: SessionId, inode: InodeId, kind: LeaseKind) -> bool {
        let Some(at) = self.inodes.get(&inode) else {
            return true;
        };
        let waiting = Waiting {
            token: Token(0),
            session,
            wanted: Wanted::Lease(kind),
        };
        let held = at.holders.get(&session);
        held.is_some_and(|h| h.recalling.is_none() && h.kind >= kind)
            || (at.queue.is_empty() && at.fits(&waiting))
    }

    /// Takes a lease only if that needs no recall and no waiting.
    pub fn try_lease(
        &mut self,
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
    ) -> Option<Granted> {
        let at = self.inodes.entry(inode).or_default();
        let waiting = Waiting {
            token: Token(0),
            session,
            wanted: Wanted::Lease(kind),
        };
        let held = at
            .holders
            .get(&session)
            .filter(|h| h.recalling.is_none() && h.kind >= kind);
        let granted = if let Some(h) = held {
            Some(Granted {
                grant: h.grant,
                kind: h.kind,
                contended: !at.queue.is_empty(),
            })
        } else if at.queue.is_empty() && at.fits(&waiting) {
            Some(self.hold(session, inode, kind, false))
        } else {
            None
        };
        self.forget_if_idle(inode);
        granted
    }

    /// The answer that carries this grant is on its way: from now on it can be recalled.
    pub fn delivered(
        &mut self,
        now: Moment,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(holder) = self.holder_mut(session, inode, grant)
            && holder.delivered.is_none()
        {
            holder.delivered = Some(now);
            self.advance(now, inode, effects);
        }
    }

    /// The holder has answered the recall of this grant. An answer under another grant says
    /// nothing about the present one and changes nothing.
    pub fn returned(
        &mut self,
        now: Moment,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(holder) = self.holder_mut(session, inode, grant) else {
            return;
        };
        match holder.recalling {
            None => return,
            Some(Some(LeaseKind::Shared)) => {
                holder.kind = LeaseKind::Shared;
                holder.recalling = None;
            }
            Some(_) => {
                self.unhold(session, inode);
                if let Some(at) = self.inodes.get_mut(&inode) {
                    at.lost = Some((session, now));
                }
            }
        }
        self.advance(now, inode, effects);
    }

    /// The session gives this grant back by itself.
    pub fn release(
        &mut self,
        now: Moment,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        effects: &mut Vec<Effect>,
    ) {
        if self.holder_mut(session, inode, grant).is_some() {
            self.unhold(session, inode);
            self.advance(now, inode, effects);
        }
    }

    /// A waiting request or a running operation ends.
    pub fn finish(&mut self, now: Moment, token: Token, effects: &mut Vec<Effect>) {
        let Some((_, inode)) = self.tokens.remove(&token) else {
            return;
        };
        if let Some(at) = self.inodes.get_mut(&inode) {
            at.operations.remove(&token);
            at.queue.retain(|w| w.token != token);
        }
        self.advance(now, inode, effects);
    }

    /// The session's right to cache has lapsed: its shared leases are gone.
    pub fn lapse(&mut self, now: Moment, session: SessionId, effects: &mut Vec<Effect>) {
        for inode in self.inodes_held(session) {
            let shared = self
                .inodes
                .get(&inode)
                .and_then(|at| at.holders.get(&session))
                .is_some_and(|h| h.kind == LeaseKind::Shared);
            if shared {
                self.unhold(session, inode);
                self.advance(now, inode, effects);
            }
        }
    }

    /// The session has ended: all of it goes. Running operations stay until `finish`, since
    /// their command may be in the log.
    pub fn end_session(&mut self, now: Moment, session: SessionId, effects: &mut Vec<Effect>) {
        let mut touched: BTreeSet<InodeId> = self.inodes_held(session).into_iter().collect();
        for inode in &touched {
            self.unhold(session, *inode);
        }
        let tokens: Vec<(Token, InodeId)> = self
            .tokens
            .iter()
            .filter(|(_, (s, _))| *s == session)
            .map(|(t, (_, i))| (*t, *i))
            .collect();
        for (token, inode) in tokens {
            let Some(at) = self.inodes.get_mut(&inode) else {
                continue;
            };
            if at.operations.contains_key(&token) {
                continue;
            }
            at.queue.retain(|w| w.token != token);
            self.tokens.remove(&token);
            effects.push(Effect::Dropped { token });
            touched.insert(inode);
        }
        for inode in touched {
            self.advance(now, inode, effects);
        }
    }

    /// The inode is gone, and with it everybody's lease; names who had one.
    pub fn forget(
        &mut self,
        now: Moment,
        inode: InodeId,
        effects: &mut Vec<Effect>,
    ) -> Vec<SessionId> {
        let Some(at) = self.inodes.get(&inode) else {
            return Vec::new();
        };
        let sessions: Vec<SessionId> = at.holders.keys().copied().collect();
        for session in &sessions {
            self.unhold(*session, inode);
        }
        self.advance(now, inode, effects);
        sessions
    }

    /// How many leases a session holds.
    pub fn held(&self, session: SessionId) -> usize {
        self.held.get(&session).map_or(0, BTreeSet::len)
    }

    /// A mount reclaims its exclusive lease after a change of the leader. `None` if another
    /// session holds one already.
    pub fn reassert(&mut self, session: SessionId, inode: InodeId) -> Option<Granted> {
        self.try_lease(session, inode, LeaseKind::Exclusive)
    }

    /// Looks again at the inodes whose holders' minimum term has ended.
    pub fn tick(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        while let Some((at, inode)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.advance(now, inode, effects);
        }
    }

    /// When `tick` has something to do next.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Who holds the exclusive lease, and under which grant.
    pub fn exclusive_holder(&self, inode: InodeId) -> Option<(SessionId, GrantId)> {
        let at = self.inodes.get(&inode)?;
        let (session, holder) = at
            .holders
            .iter()
            .find(|(_, h)| h.kind == LeaseKind::Exclusive)?;
        Some((*session, holder.grant))
    }

    /// Whether an operation runs on the inode.
    pub fn is_operated(&self, inode: InodeId) -> bool {
        self.inodes
            .get(&inode)
            .is_some_and(|at| !at.operations.is_empty())
    }

    /// Whether the session holds this very grant, and as what.
    pub fn holds(&self, session: SessionId, inode: InodeId, grant: GrantId) -> Option<LeaseKind> {
        let holder = self.inodes.get(&inode)?.holders.get(&session)?;
        (holder.grant == grant).then_some(holder.kind)
    }

    /// Whether this recall is still wanted.
    pub fn is_recalling(&self, session: SessionId, inode: InodeId, grant: GrantId) -> bool {
        self.inodes
            .get(&inode)
            .and_then(|at| at.holders.get(&session))
            .is_some_and(|h| h.grant == grant && h.recalling.is_some())
    }

    /// Whether the session holds the exclusive lease of the inode or is about to.
    pub fn needs_interest(&self, session: SessionId, inode: InodeId) -> bool {
        self.inodes.get(&inode).is_some_and(|at| {
            at.holders
                .get(&session)
                .is_some_and(|h| h.kind == LeaseKind::Exclusive)
                || at.operations.values().any(|s| *s == session)
                || at
                    .queue
                    .iter()
                    .any(|w| w.session == session && w.wanted != Wanted::Lease(LeaseKind::Shared))
        })
    }

    /// Numbers of shared and exclusive leases of a session.
    pub fn count(&self, session: SessionId) -> (u64, u64) {
        let mut counts = (0, 0);
        for inode in self.held.get(&session).into_iter().flatten() {
            match self
                .inodes
                .get(inode)
                .and_then(|at| at.holders.get(&session))
            {
                Some(h) if h.kind == LeaseKind::Exclusive => counts.1 += 1,
                Some(_) => counts.0 += 1,
                None => {}
            }
        }
        counts
    }

    /// Sessions whose lease or operation stands in the way of the queue's head.
    pub fn blockers(&self, inode: InodeId) -> Vec<SessionId> {
        let Some(at) = self.inodes.get(&inode) else {
            return Vec::new();
        };
        let Some(head) = at.queue.front() else {
            return Vec::new();
        };
        at.holders
            .iter()
            .filter(|(s, h)| **s != head.session && conflicts(head.wanted, h.kind))
            .map(|(s, _)| *s)
            .collect()
    }

    fn inodes_held(&self, session: SessionId) -> Vec<InodeId> {
        self.held
            .get(&session)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    fn holder_mut(
        &mut self,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
    ) -> Option<&mut Holder> {
        let holder = self.inodes.get_mut(&inode)?.holders.get_mut(&session)?;
        (holder.grant == grant).then_some(holder)
    }

    fn hold(
        &mut self,
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
        contended: bool,
    ) -> Granted {
        self.last_grant = GrantId(self.last_grant.0 + 1);
        let grant = self.last_grant;
        let holder = Holder {
            grant,
            kind,
            contended,
            delivered: None,
            recalling: None,
        };
        self.inodes
            .entry(inode)
            .or_default()
            .holders
            .insert(session, holder);
        self.held.entry(session).or_default().insert(inode);
        Granted {
            grant,
            kind,
            contended,
        }
    }

    fn unhold(&mut self, session: SessionId, inode: InodeId) {
        if let Some(at) = self.inodes.get_mut(&inode) {
            at.holders.remove(&session);
        }
        if let Some(held) = self.held.get_mut(&session) {
            held.remove(&inode);
            if held.is_empty() {
                self.held.remove(&session);
            }
        }
    }

    fn forget_if_idle(&mut self, inode: InodeId) {
        if self.inodes.get(&inode).is_some_and(InodeLeases::is_idle) {
            self.inodes.remove(&inode);
        }
    }

    /// Grants what can be granted in order, then recalls what the queue's head needs.
    fn advance(&mut self, now: Moment, inode: InodeId, effects: &mut Vec<Effect>) {
        loop {
            let Some(at) = self.inodes.get_mut(&inode) else {
                return;
            };
            let Some(head) = at.queue.front().copied() else {
                break;
            };
            if !at.fits(&head) {
                self.recall_for(now, inode, head, effects);
                break;
            }
            at.queue.pop_front();
            let grant = match head.wanted {
                Wanted::Operation => {
                    at.operations.insert(head.token, head.session);
                    None
                }
                Wanted::Lease(kind) => {
                    let others = at.queue.iter().any(|w| w.session != head.session);
                    let hunted = at.lost.is_some_and(|(loser, when)| {
                        loser == head.session && now < when + GRANT_TERM_MIN
                    });
                    self.tokens.remove(&head.token);
                    Some(self.granted_again_or_new(head.session, inode, kind, others || hunted))
                }
            };
            effects.push(Effect::Granted {
                token: head.token,
                session: head.session,
                inode,
                grant,
            });
        }
        self.forget_if_idle(inode);
    }

    /// An earlier request of the same session may have brought the lease meanwhile.
    fn granted_again_or_new(
        &mut self,
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
        contended: bool,
    ) -> Granted {
        let held = self
            .inodes
            .get(&inode)
            .and_then(|at| at.holders.get(&session));
        match held {
            Some(h) if h.kind >= kind => Granted {
                grant: h.grant,
                kind: h.kind,
                contended,
            },
            _ => self.hold(session, inode, kind, contended),
        }
    }

    fn recall_for(
        &mut self,
        now: Moment,
        inode: InodeId,
        head: Waiting,
        effects: &mut Vec<Effect>,
    ) {
        let Some(at) = self.inodes.get_mut(&inode) else {
            return;
        };
        // A session that asks again right after it lost the lease: two of them are hunting it.
        let hunted = at
            .lost
            .is_some_and(|(loser, when)| loser == head.session && now < when + GRANT_TERM_MIN);
        // What an operation changes must not meet what its own session pushes on a recall.
        if !at.operations.is_empty() {
            return;
        }
        for (session, holder) in &mut at.holders {
            if *session == head.session
                || holder.recalling.is_some()
                || !conflicts(head.wanted, holder.kind)
            {
                continue;
            }
            holder.contended |= hunted;
            let Some(delivered) = holder.delivered else {
                continue;
            };
            let due = delivered + GRANT_TERM_MIN;
            if holder.contended && now < due {
                self.deadlines.insert((due, inode));
                continue;
            }
            let keep = match (head.wanted, holder.kind) {
                (Wanted::Lease(LeaseKind::Shared), LeaseKind::Exclusive) => Some(LeaseKind::Shared),
                _ => None,
            };
            holder.recalling = Some(keep);
            effects.push(Effect::Recall {
                session: *session,
                inode,
                grant: holder.grant,
                keep,
            });
        }
    }
}
