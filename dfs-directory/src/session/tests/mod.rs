//! Tests of sessions, interest and the ledger.

#![allow(clippy::unwrap_used)]

mod interest;
mod ledger;
mod lifecycle;

use super::*;
use crate::namespace::{self, Format, NamespaceCommand};
use crate::state::memory::MemoryTables;
use dfs_proto::ids::{ClusterId, ROOT, Sequence};
use dfs_proto::msg::namespace::{Creator, Mutation};
use dfs_proto::msg::session::Stamp;
use dfs_proto::name::FileName;

const NOW: Timestamp = Timestamp {
    seconds: 5,
    nanoseconds: 0,
};

fn run(tables: &mut MemoryTables, command: SessionCommand) -> Result<SessionChanged, ErrorCode> {
    let before = tables.clone();
    let outcome = apply(tables, NOW, &command).unwrap().0;
    if outcome.is_err() {
        assert_eq!(*tables, before, "refused, but changed something");
    }
    assert_eq!(fsck::fsck(tables).unwrap(), []);
    outcome
}

fn open(tables: &mut MemoryTables, incarnation: u64) -> (SessionId, bool) {
    let command = SessionCommand::Open {
        incarnation: Incarnation(incarnation),
        host: "host".into(),
        pid: 7,
        mount_point: "/mnt".into(),
    };
    match run(tables, command).unwrap() {
        SessionChanged::Opened { session, fresh } => (session, fresh),
        SessionChanged::Done => panic!("opened nothing"),
    }
}

fn formatted() -> MemoryTables {
    let mut tables = MemoryTables::default();
    let format = NamespaceCommand::Format(Format::defaults(ClusterId(1)));
    namespace::apply(&mut tables, NOW, &format)
        .unwrap()
        .0
        .unwrap();
    tables
}

/// A stamped command: makes the file `text`, exclusively.
fn create(
    tables: &mut MemoryTables,
    session: SessionId,
    (sequence, lowest): (u64, u64),
    text: &str,
) -> Result<namespace::Changed, ErrorCode> {
    let command = NamespaceCommand::Mutate {
        stamp: Stamp {
            session,
            sequence: Sequence(sequence),
            lowest_unanswered: Sequence(lowest),
        },
        mutation: Mutation::Create {
            parent: ROOT,
            name: FileName::new(text.as_bytes()).unwrap(),
            mode: 0o600,
            creator: Creator {
                uid: 0,
                gid: 0,
                umask: 0,
            },
            exclusive: true,
        },
    };
    let outcome = namespace::apply(tables, NOW, &command).unwrap().0;
    assert_eq!(fsck::fsck(tables).unwrap(), []);
    outcome
}
