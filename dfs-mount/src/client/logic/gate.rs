//! The order of reads and writes of one inode on this mount. Pure; `client::ordering` waits.
//!
//! First come, first served: whoever conflicts with somebody earlier waits for him. A read
//! conflicts with a write of the same bytes; two writes conflict when they touch the same chunk,
//! because a session has at most one unanswered write a chunk.

use std::collections::BTreeMap;

/// A place in the order; `leave` gives it up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

/// What somebody is about to do. Bytes `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read { start: u64, end: u64 },
    Write { start: u64, end: u64 },
}

/// Everybody who is inside or waits.
#[derive(Debug, Default)]
pub struct ByteGate {
    entered: BTreeMap<Ticket, Access>,
    last: u64,
}

impl ByteGate {
    /// Takes a place at the end of the order.
    pub fn enter(&mut self, access: Access) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.entered.insert(ticket, access);
        ticket
    }

    /// Whether nobody earlier is in the way. Chunks are of `chunk_bytes`.
    pub fn is_clear(&self, ticket: Ticket, chunk_bytes: u64) -> bool {
        let Some(own) = self.entered.get(&ticket) else {
            return true;
        };
        self.entered
            .range(..ticket)
            .all(|(_, earlier)| !conflict(*own, *earlier, chunk_bytes))
    }

    pub fn leave(&mut self, ticket: Ticket) {
        self.entered.remove(&ticket);
    }
}

fn conflict(a: Access, b: Access, chunk_bytes: u64) -> bool {
    use Access::{Read, Write};
    match (a, b) {
        (Read { .. }, Read { .. }) => false,
        (Read { start, end }, Write { start: s, end: e })
        | (Write { start, end }, Read { start: s, end: e }) => start < e && s < end,
        (Write { start, end }, Write { start: s, end: e }) => {
            let first = |byte: u64| byte / chunk_bytes;
            let last = |end: u64| end.saturating_sub(1) / chunk_bytes;
            first(start) <= last(e) && first(s) <= last(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 100;

    fn read(start: u64, end: u64) -> Access {
        Access::Read { start, end }
    }

    fn write(start: u64, end: u64) -> Access {
        Access::Write { start, end }
    }

    #[test]
    fn reads_wait_for_earlier_writes_of_their_bytes_only() {
        let mut gate = ByteGate::default();
        let w = gate.enter(write(0, 10));
        let overlapping = gate.enter(read(5, 20));
        let beside = gate.enter(read(10, 20));
        assert!(gate.is_clear(w, CHUNK));
        assert!(!gate.is_clear(overlapping, CHUNK));
        assert!(gate.is_clear(beside, CHUNK));
        gate.leave(w);
        assert!(gate.is_clear(overlapping, CHUNK));
    }

    #[test]
    fn writes_of_one_chunk_go_one_after_the_other() {
        let mut gate = ByteGate::default();
        let a = gate.enter(write(0, 10));
        let same = gate.enter(write(90, 100));
        let other = gate.enter(write(100, 110));
        let both = gate.enter(write(95, 105));
        assert!(!gate.is_clear(same, CHUNK));
        assert!(gate.is_clear(other, CHUNK));
        gate.leave(a);
        assert!(gate.is_clear(same, CHUNK));
        assert!(!gate.is_clear(both, CHUNK));
        gate.leave(same);
        gate.leave(other);
        assert!(gate.is_clear(both, CHUNK));
    }

    #[test]
    fn a_waiting_write_is_not_overtaken() {
        let mut gate = ByteGate::default();
        let r = gate.enter(read(0, 10));
        let w = gate.enter(write(0, 10));
        let later = gate.enter(read(0, 10));
        assert!(!gate.is_clear(w, CHUNK));
        assert!(!gate.is_clear(later, CHUNK));
        gate.leave(r);
        assert!(gate.is_clear(w, CHUNK));
        gate.leave(w);
        assert!(gate.is_clear(later, CHUNK));
    }
}
