//! What time causes: terms that end, cached rights that lapse, sessions whose time is over,
//! interest records that are no longer needed.

use super::MountApi;
use crate::lease::Moment;
use crate::session::SessionCommand;
use dfs_proto::ids::{InodeId, SessionId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks while nothing is known to be due.
const IDLE: Duration = Duration::from_millis(100);

/// Sessions' lives and unused records are looked at this often.
const SLOW: Duration = Duration::from_millis(500);

/// An interest record is dropped when it has been unused for this long: a program that comes
/// back to the same files soon costs no log write.
const UNUSED: Duration = Duration::from_millis(5_000);

/// Records dropped at once.
const DROP_BATCH: usize = 1024;

impl MountApi {
    pub(super) async fn tick_for_ever(self) {
        let mut slow_due = Moment::ZERO;
        loop {
            let pause = self.until_next();
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.shared.sooner.notified() => {}
            }
            if self.core().life == 0 {
                continue;
            }
            self.tick();
            if self.now() >= slow_due {
                slow_due = self.now() + SLOW;
                self.look_at_sessions();
                self.drop_unused();
            }
        }
    }

    /// How long there is nothing to do, as far as is known.
    fn until_next(&self) -> Duration {
        let now = self.now();
        let mut core = self.core();
        let due = core.leases.next_deadline();
        let pause = due.map_or(IDLE, |due| due.saturating_sub(now).min(IDLE));
        core.tick_at = now + pause;
        pause
    }

    fn tick(&self) {
        let mut core = self.core();
        let mut effects = Vec::new();
        let at = self.now();
        for session in core.clock.lapsed(at) {
            core.leases.lapse(at, session, &mut effects);
            core.rights.lapse(session);
        }
        core.rights.tick(at);
        core.leases.tick(at, &mut effects);
        self.carry_out(&mut core, effects);
    }

    fn look_at_sessions(&self) {
        let (overdue, blocking) = {
            let core = self.core();
            let at = self.now();
            let expirable = core.clock.living().any(|s| core.clock.is_expirable(s, at));
            let blocking = if expirable {
                core.locks.blocking_sessions()
            } else {
                Default::default()
            };
            (core.clock.overdue(at), blocking)
        };
        for session in overdue {
            self.end_session(session, "no sign of life for very long");
        }
        for session in blocking {
            self.press(session, "a lock that others wait for");
        }
    }

    fn drop_unused(&self) {
        let batch = {
            let mut core = self.core();
            let core = &mut *core;
            let before = self.now().saturating_sub(UNUSED);
            let (leases, locks) = (&core.leases, &core.locks);
            core.interest
                .begin_drop(before, DROP_BATCH, |session, inode| {
                    leases.needs_interest(session, inode) || locks.needs_interest(session, inode)
                })
        };
        let mut by_session: BTreeMap<SessionId, Vec<InodeId>> = BTreeMap::new();
        for (session, inode) in batch {
            by_session.entry(session).or_default().push(inode);
        }
        for (session, inodes) in by_session {
            let api = self.clone();
            tokio::spawn(async move {
                let keys: Vec<_> = inodes.iter().map(|inode| (session, *inode)).collect();
                let command = SessionCommand::DropInterest { session, inodes };
                let failed = api.commit_session(command).await.is_err();
                api.core().interest.dropped(&keys, failed);
                api.changed();
            });
        }
    }
}
