//! Keys of the session tables: big-endian numbers, so that byte order is number order.
//!
//! | table | key | order |
//! | --- | --- | --- |
//! | `Sessions` | session | by number |
//! | `Interest` | 0, session, inode | a session's inodes together |
//! | `Interest` | 1, inode, session | an inode's sessions together |
//! | `Ledger` | session, sequence | a session's answers by sequence; sequence 0 holds its floor |
//! | `Meta` | the word below | |

use dfs_proto::ids::{InodeId, Sequence, SessionId};

/// `Meta`: the number of the next session.
pub(super) const NEXT_SESSION: &[u8] = b"session";

const BY_SESSION: u8 = 0;
const BY_INODE: u8 = 1;

pub(super) fn session(session: SessionId) -> [u8; 8] {
    session.0.to_be_bytes()
}

pub(super) fn read_session(key: &[u8]) -> Option<SessionId> {
    Some(SessionId(u64::from_be_bytes(key.try_into().ok()?)))
}

pub(super) fn interest(session: SessionId, inode: InodeId) -> [u8; 17] {
    triple(BY_SESSION, session.0, inode.0)
}

pub(super) fn interest_of_session(session: SessionId) -> [u8; 9] {
    prefix(BY_SESSION, session.0)
}

pub(super) fn interested(inode: InodeId, session: SessionId) -> [u8; 17] {
    triple(BY_INODE, inode.0, session.0)
}

pub(super) fn interested_in_inode(inode: InodeId) -> [u8; 9] {
    prefix(BY_INODE, inode.0)
}

pub(super) fn read_interest(key: &[u8]) -> Option<(SessionId, InodeId)> {
    let (session, inode) = read_triple(BY_SESSION, key)?;
    Some((SessionId(session), InodeId(inode)))
}

pub(super) fn read_interested(key: &[u8]) -> Option<(InodeId, SessionId)> {
    let (inode, session) = read_triple(BY_INODE, key)?;
    Some((InodeId(inode), SessionId(session)))
}

pub(super) fn ledger(session: SessionId, sequence: Sequence) -> [u8; 16] {
    ((u128::from(session.0) << 64) | u128::from(sequence.0)).to_be_bytes()
}

/// Where a session's floor is kept: no request has sequence 0.
pub(super) fn ledger_floor(session: SessionId) -> [u8; 16] {
    ledger(session, Sequence(0))
}

pub(super) fn read_ledger(key: &[u8]) -> Option<(SessionId, Sequence)> {
    let both = u128::from_be_bytes(key.try_into().ok()?);
    Some((SessionId((both >> 64) as u64), Sequence(both as u64)))
}

fn prefix(order: u8, high: u64) -> [u8; 9] {
    let mut key = [order; 9];
    key[1..].copy_from_slice(&high.to_be_bytes());
    key
}

fn triple(order: u8, high: u64, low: u64) -> [u8; 17] {
    let mut key = [order; 17];
    key[1..9].copy_from_slice(&high.to_be_bytes());
    key[9..].copy_from_slice(&low.to_be_bytes());
    key
}

fn read_triple(order: u8, key: &[u8]) -> Option<(u64, u64)> {
    let (first, rest) = key.split_first()?;
    if *first != order {
        return None;
    }
    let (high, low) = rest.split_first_chunk::<8>()?;
    Some((
        u64::from_be_bytes(*high),
        u64::from_be_bytes(low.try_into().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_as_what_they_name(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
            let key = |(session, inode)| interest(SessionId(session), InodeId(inode));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            let key = |(inode, session)| interested(InodeId(inode), SessionId(session));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            let key = |(session, sequence)| ledger(SessionId(session), Sequence(sequence));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }

        #[test]
        fn keys_read_back(high in any::<u64>(), low in any::<u64>()) {
            let (s, i, q) = (SessionId(high), InodeId(low), Sequence(low));
            prop_assert_eq!(read_session(&session(s)), Some(s));
            prop_assert_eq!(read_interest(&interest(s, i)), Some((s, i)));
            prop_assert_eq!(read_interested(&interested(i, s)), Some((i, s)));
            prop_assert_eq!(read_interested(&interest(s, i)), None);
            prop_assert_eq!(read_ledger(&ledger(s, q)), Some((s, q)));
            prop_assert!(interest(s, i).starts_with(&interest_of_session(s)));
            prop_assert!(interested(i, s).starts_with(&interested_in_inode(i)));
        }
    }
}
