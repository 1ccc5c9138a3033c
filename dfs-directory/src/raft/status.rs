//! What a member tells about its part in the group of directory members.

use dfs_proto::ids::MemberId;
use std::time::Instant;

/// A member's view of the group. It is a report: what it says may have changed meanwhile, so
/// nothing is decided by it that `read` or `commit` do not confirm.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaftStatus {
    pub member: MemberId,
    pub term: u64,
    /// The leader that this member follows (itself included).
    pub leader: Option<MemberId>,
    /// This member leads and has applied everything that was acknowledged before its reign.
    pub leading: bool,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Incarnation of this member's reign: never the same for two reigns, `0` while it does not
    /// lead. What a leader keeps in memory is worth nothing under another life.
    pub life: u64,
    /// While it leads: no earlier leader has proved its lead by anything that began later than this.
    /// `None`: not known.
    pub led_until: Option<Instant>,
    /// Why the member has stopped for good (its disk failed).
    pub failed: Option<String>,
}

impl RaftStatus {
    /// The life of a reign. Terms rise, and a term has at most one leader per member.
    pub(crate) fn life_of(term: u64, member: MemberId) -> u64 {
        (term << 8) | (member.0 & 0xff)
    }
}

/// Another member, as the leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    pub member: MemberId,
    /// It counts for majorities; if not, it is still getting the log.
    pub votes: bool,
    /// Index of the last entry that it is known to have; `None` on a member that does not lead.
    pub held: Option<u64>,
}
