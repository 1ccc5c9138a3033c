//! Inode leases of the whole file system (`inode_leases` has the rules of one inode).
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

use super::inode_leases::{Holder, InodeLeases, Waiting};
use super::{Moment, Token};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::session::LeaseKind;
use std::collections::{BTreeMap, BTreeSet};

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
        if let Wanted::Lease(kind) = wanted
            && let Some(granted) = at.enough(session, kind)
        {
            // Ahead of the queue: the recall for its head is yet to come.
            effects.push(Effect::Granted {
                token,
                session,
                inode,
                grant: Some(granted),
            });
            return;
        }
        at.enqueue(Waiting {
            token,
            session,
            wanted,
        });
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
        at.enough(session, kind).is_some() || (at.queue.is_empty() && at.fits(&waiting))
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
        let granted = match at.enough(session, kind) {
            Some(held) => Some(held),
            None if at.queue.is_empty() && at.fits(&waiting) => {
                Some(self.hold(session, inode, kind, false))
            }
            None => None,
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

    /// The session keeps only a shared lease under this exclusive grant, by itself: everything
    /// under it is pushed.
    pub fn share(
        &mut self,
        now: Moment,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(holder) = self.holder_mut(session, inode, grant) {
            holder.kind = LeaseKind::Shared;
            if holder.recalling == Some(Some(LeaseKind::Shared)) {
                holder.recalling = None;
            }
            self.advance(now, inode, effects);
        }
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
                let mut later = Vec::new();
                for (session, grant, keep) in at.recalls(now, head, &mut later) {
                    effects.push(Effect::Recall {
                        session,
                        inode,
                        grant,
                        keep,
                    });
                }
                self.deadlines
                    .extend(later.into_iter().map(|due| (due, inode)));
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
                    let contended = others || at.hunts(head.session, now);
                    self.tokens.remove(&head.token);
                    Some(self.granted_again_or_new(head.session, inode, kind, contended))
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
}
