//! The leases of one inode: who holds them, who waits in which order, what has to be recalled.

use super::table::{Granted, Wanted};
use super::{Moment, Token};
use dfs_proto::ids::{GrantId, SessionId};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::timing::GRANT_TERM_MIN;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) grant: GrantId,
    pub(super) kind: LeaseKind,
    pub(super) contended: bool,
    /// When the answer with this grant was sent; `None` until then.
    pub(super) delivered: Option<Moment>,
    /// The recall that is outstanding: what may be kept.
    pub(super) recalling: Option<Option<LeaseKind>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) token: Token,
    pub(super) session: SessionId,
    pub(super) wanted: Wanted,
}

#[derive(Default, Debug)]
pub(super) struct InodeLeases {
    pub(super) holders: BTreeMap<SessionId, Holder>,
    /// Running operations, all of one session.
    pub(super) operations: BTreeMap<Token, SessionId>,
    pub(super) queue: VecDeque<Waiting>,
    /// Who lost it by a recall last, and when: who asks again so soon contends.
    pub(super) lost: Option<(SessionId, Moment)>,
}

impl InodeLeases {
    pub(super) fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.operations.is_empty() && self.queue.is_empty()
    }

    /// Queues a request. An operation of a holder goes before all but such operations: the
    /// holder may use its lease until the operation is done, so it must not stand behind a
    /// request that waits for the lease.
    pub(super) fn enqueue(&mut self, waiting: Waiting) {
        let holders = &self.holders;
        let goes_first =
            |w: &Waiting| w.wanted == Wanted::Operation && holders.contains_key(&w.session);
        let place = if goes_first(&waiting) {
            self.queue.iter().position(|w| !goes_first(w))
        } else {
            None
        };
        self.queue
            .insert(place.unwrap_or(self.queue.len()), waiting);
    }

    /// What the session holds already, if that is enough and is not being given back.
    pub(super) fn enough(&self, session: SessionId, kind: LeaseKind) -> Option<Granted> {
        let holder = self.holders.get(&session)?;
        let enough = holder.recalling.is_none() && holder.kind >= kind;
        enough.then_some(Granted {
            grant: holder.grant,
            kind: holder.kind,
            contended: !self.queue.is_empty(),
        })
    }

    /// Whether the session asks again right after it lost the lease: then two hunt it.
    pub(super) fn hunts(&self, session: SessionId, now: Moment) -> bool {
        self.lost
            .is_some_and(|(loser, when)| loser == session && now < when + GRANT_TERM_MIN)
    }

    /// Marks the recalls that the queue's head needs, and returns them: session, grant, what may
    /// be kept. A moment when a minimum term ends is added to `later`.
    pub(super) fn recalls(
        &mut self,
        now: Moment,
        head: Waiting,
        later: &mut Vec<Moment>,
    ) -> Vec<(SessionId, GrantId, Option<LeaseKind>)> {
        let mut recalls = Vec::new();
        // What an operation changes must not meet what its own session pushes on a recall.
        if !self.operations.is_empty() {
            return recalls;
        }
        let hunted = self.hunts(head.session, now);
        for (session, holder) in &mut self.holders {
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
                later.push(due);
                continue;
            }
            let keep = match (head.wanted, holder.kind) {
                (Wanted::Lease(LeaseKind::Shared), LeaseKind::Exclusive) => Some(LeaseKind::Shared),
                _ => None,
            };
            holder.recalling = Some(keep);
            recalls.push((*session, holder.grant, keep));
        }
        recalls
    }

    /// Whether nothing that is held now stands against the request.
    pub(super) fn fits(&self, waiting: &Waiting) -> bool {
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

/// Whether a lease that another session holds stands against what is wanted.
pub(super) fn conflicts(wanted: Wanted, held: LeaseKind) -> bool {
    !matches!(
        (wanted, held),
        (Wanted::Lease(LeaseKind::Shared), LeaseKind::Shared)
    )
}
