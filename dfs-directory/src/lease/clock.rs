//! When each session was last heard of: its right to cache, its time to live, its end.
//!
//! A new leader knows every session of the log as just renewed: it can't know what its
//! predecessor renewed, and a session must never be ended earlier than its mount expects.

use super::Moment;
use dfs_proto::ids::SessionId;
use dfs_proto::timing::{CACHE_RIGHT, DRIFT_MARGIN, SESSION_EXPIRABLE_MAX, SESSION_TTL};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
struct Life {
    renewed: Moment,
    /// Its end has begun: nothing of it is accepted any more.
    ending: bool,
}

/// The lives of all sessions.
#[derive(Default, Debug)]
pub struct SessionClock {
    lives: BTreeMap<SessionId, Life>,
}

impl SessionClock {
    /// A session of the log, or a new one: renewed now.
    pub fn begin(&mut self, session: SessionId, now: Moment) {
        self.lives.insert(
            session,
            Life {
                renewed: now,
                ending: false,
            },
        );
    }

    /// A heartbeat was received at `received`. `false` if the session is not alive.
    pub fn renew(&mut self, session: SessionId, received: Moment) -> bool {
        match self.lives.get_mut(&session) {
            Some(life) if !life.ending => {
                life.renewed = life.renewed.max(received);
                true
            }
            _ => false,
        }
    }

    /// Whether requests of the session are accepted.
    pub fn is_alive(&self, session: SessionId) -> bool {
        self.lives.get(&session).is_some_and(|life| !life.ending)
    }

    /// Marks the beginning of its end; `false` if that is not its first.
    pub fn begin_end(&mut self, session: SessionId) -> bool {
        match self.lives.get_mut(&session) {
            Some(life) if !life.ending => {
                life.ending = true;
                true
            }
            _ => false,
        }
    }

    /// The session is gone.
    pub fn forget(&mut self, session: SessionId) {
        self.lives.remove(&session);
    }

    /// Time since the last heartbeat.
    pub fn silence(&self, session: SessionId, now: Moment) -> Option<Moment> {
        self.lives
            .get(&session)
            .map(|life| now.saturating_sub(life.renewed))
    }

    /// Whether its mount has certainly stopped to use what it cached.
    pub fn cache_right_over(&self, session: SessionId, now: Moment) -> bool {
        self.silence(session, now)
            .is_none_or(|s| s >= CACHE_RIGHT + DRIFT_MARGIN)
    }

    /// Whether it may be ended because somebody wants what it holds.
    pub fn is_expirable(&self, session: SessionId, now: Moment) -> bool {
        self.silence(session, now).is_some_and(|s| s >= SESSION_TTL)
    }

    /// Sessions whose right to cache is over.
    pub fn lapsed(&self, now: Moment) -> Vec<SessionId> {
        self.living()
            .filter(|s| self.cache_right_over(*s, now))
            .collect()
    }

    /// Sessions that nobody has heard of for so long that they end without a conflict.
    pub fn overdue(&self, now: Moment) -> Vec<SessionId> {
        self.living()
            .filter(|s| {
                self.silence(*s, now)
                    .is_some_and(|t| t >= SESSION_EXPIRABLE_MAX)
            })
            .collect()
    }

    /// All sessions that are alive.
    pub fn living(&self) -> impl Iterator<Item = SessionId> {
        self.lives
            .iter()
            .filter(|(_, life)| !life.ending)
            .map(|(session, _)| *session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SessionId = SessionId(3);

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    #[test]
    fn silence_first_costs_the_cache_then_makes_expirable() {
        let mut clock = SessionClock::default();
        clock.begin(S, at(0));
        assert!(clock.renew(S, at(500)));
        assert!(!clock.cache_right_over(S, at(2_699)));
        assert!(clock.cache_right_over(S, at(2_700)));
        assert_eq!(clock.lapsed(at(2_700)), [S]);
        assert!(!clock.is_expirable(S, at(10_499)));
        assert!(clock.is_expirable(S, at(10_500)));
        assert!(clock.overdue(at(10_500)).is_empty());
        assert_eq!(clock.overdue(at(3_600_500)), [S]);
    }

    #[test]
    fn a_late_heartbeat_renews_an_expirable_session_but_not_an_ending_one() {
        let mut clock = SessionClock::default();
        clock.begin(S, at(0));
        assert!(clock.renew(S, at(20_000)));
        assert!(!clock.is_expirable(S, at(20_001)));
        assert!(clock.begin_end(S));
        assert!(!clock.begin_end(S));
        assert!(!clock.renew(S, at(20_002)));
        assert!(!clock.is_alive(S));
        clock.forget(S);
        assert!(!clock.begin_end(S));
    }

    #[test]
    fn heartbeats_out_of_order_never_shorten_a_life() {
        let mut clock = SessionClock::default();
        clock.begin(S, at(0));
        clock.renew(S, at(900));
        clock.renew(S, at(400));
        assert_eq!(clock.silence(S, at(1_000)), Some(at(100)));
    }
}
