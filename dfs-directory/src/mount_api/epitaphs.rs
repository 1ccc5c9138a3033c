//! Why sessions were ended, for the mounts that still ask in their name.

use dfs_proto::ids::SessionId;
use std::collections::VecDeque;

/// So many are remembered: a mount that lives asks within a second.
const REMEMBERED_MAX: usize = 256;

/// The last sessions that this leader has ended, oldest first.
#[derive(Default, Debug)]
pub(super) struct Epitaphs(VecDeque<(SessionId, String)>);

impl Epitaphs {
    pub(super) fn push(&mut self, session: SessionId, why: &str) {
        if self.0.len() == REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((session, why.to_owned()));
    }

    /// That the session has ended, and why if that is known, in words.
    pub(super) fn read(&self, session: SessionId) -> String {
        match self.0.iter().rev().find(|(ended, _)| *ended == session) {
            Some((_, why)) => format!("{session} has ended: {why}"),
            None => format!("{session} has ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let mut ended = Epitaphs::default();
        assert_eq!(ended.read(SessionId(7)), "session:7 has ended");
        for number in 0..300 {
            ended.push(SessionId(number), "so");
        }
        assert_eq!(ended.0.len(), REMEMBERED_MAX);
        assert_eq!(ended.read(SessionId(299)), "session:299 has ended: so");
        assert_eq!(ended.read(SessionId(1)), "session:1 has ended");
    }
}
