//! Whether the session tables agree with each other, and with the inodes they name.
//!
//! For tests and the simulation; reads everything.

use super::{SessionPhase, keys, read};
use crate::namespace;
use crate::state::tables::{Read, Table, TableError};
use dfs_proto::ids::{InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// A key that is none.
    Unreadable { table: Table, key: Vec<u8> },
    /// An interest record that the other order does not have.
    OneSided { session: SessionId, inode: InodeId },
    /// Interest in an inode that is gone.
    InterestInNothing { session: SessionId, inode: InodeId },
    /// Records of a session that has ended or never was.
    Leftover { table: Table, session: SessionId },
}

/// Checks everything.
pub fn fsck(tables: &dyn Read) -> Result<Vec<Problem>, TableError> {
    let mut found = Vec::new();
    let phases: BTreeMap<SessionId, SessionPhase> = read::sessions(tables)?
        .into_iter()
        .map(|info| (info.session, info.phase))
        .collect();
    let lives = |session: &SessionId| {
        phases
            .get(session)
            .is_some_and(|phase| *phase != SessionPhase::Ended)
    };
    let (by_session, by_inode) = interest(tables, &mut found)?;
    for (session, inode) in by_session.symmetric_difference(&by_inode) {
        found.push(Problem::OneSided {
            session: *session,
            inode: *inode,
        });
    }
    for (session, inode) in &by_session {
        if !namespace::read::exists(tables, *inode)? {
            found.push(Problem::InterestInNothing {
                session: *session,
                inode: *inode,
            });
        }
        if !lives(session) {
            found.push(Problem::Leftover {
                table: Table::Interest,
                session: *session,
            });
        }
    }
    tables.scan(Table::Ledger, &[], &mut |key, _| {
        let table = Table::Ledger;
        match keys::read_ledger(key) {
            Some((session, _)) if lives(&session) => {}
            Some((session, _)) => found.push(Problem::Leftover { table, session }),
            None => found.push(Problem::Unreadable {
                table,
                key: key.to_vec(),
            }),
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

type Pairs = BTreeSet<(SessionId, InodeId)>;

/// The interest records in either order.
fn interest(tables: &dyn Read, found: &mut Vec<Problem>) -> Result<(Pairs, Pairs), TableError> {
    let (mut by_session, mut by_inode) = (Pairs::new(), Pairs::new());
    tables.scan(Table::Interest, &[], &mut |key, _| {
        if let Some(pair) = keys::read_interest(key) {
            by_session.insert(pair);
        } else if let Some((inode, session)) = keys::read_interested(key) {
            by_inode.insert((session, inode));
        } else {
            found.push(Problem::Unreadable {
                table: Table::Interest,
                key: key.to_vec(),
            });
        }
        ControlFlow::Continue(())
    })?;
    Ok((by_session, by_inode))
}
