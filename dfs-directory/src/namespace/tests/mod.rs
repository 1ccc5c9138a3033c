//! Tests of the namespace: outcomes of every operation, and random operations against a model.

#![allow(clippy::unwrap_used)]

mod attributes;
mod create;
mod dirs;
mod fsck;
mod intents;
mod link;
mod listing;
mod model;
mod model_xattrs;
mod operations;
mod paths;
mod random;
mod rename;
mod size;
mod xattrs;

use super::{Changed, Format, NamespaceCommand, NamespaceOutcome, acl, fsck as check, read};
use crate::session::{self, SessionChanged, SessionCommand};
use crate::state::memory::MemoryTables;
use crate::state::tables::{self, Read, Table, Write};
use crate::state::{self, Change, Command, Outcome};
use dfs_proto::attr::{FileAttr, SizeTimes, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ClusterId, Incarnation, InodeId, ROOT, Sequence, SessionId};
use dfs_proto::msg::namespace::{Creator, Mutation, RenameFlags};
use dfs_proto::msg::session::Stamp;
use dfs_proto::name::FileName;
use std::ops::ControlFlow;

const ALICE: Creator = Creator {
    uid: 1000,
    gid: 100,
    umask: 0,
};

fn name(text: &str) -> FileName {
    FileName::new(text.as_bytes()).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: 0,
    }
}

/// A formatted cluster with one session; every command is one second after the one before.
///
/// Each command is checked for what all must keep: a repeat is answered alike and changes
/// nothing, a refused one changes nothing, and the tables agree with each other after it.
struct Cluster {
    tables: MemoryTables,
    session: SessionId,
    seconds: i64,
    sequence: u64,
    log: Vec<Command>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            tables: MemoryTables::default(),
            session: SessionId(0),
            seconds: 1_000,
            sequence: 0,
            log: Vec::new(),
        };
        let mut format = Format::defaults(ClusterId(7));
        format.groups = 4;
        format.chunk_bytes = 65536;
        cluster.command(NamespaceCommand::Format(format)).unwrap();
        cluster.session = cluster.open_session(1);
        cluster
    }

    fn open_session(&mut self, incarnation: u64) -> SessionId {
        let open = SessionCommand::Open {
            incarnation: Incarnation(incarnation),
            host: "h".into(),
            pid: 1,
            mount_point: "/m".into(),
        };
        match self.apply(Change::Session(open)) {
            Outcome::Session(session::SessionOutcome(Ok(SessionChanged::Opened {
                session,
                ..
            }))) => session,
            other => panic!("no session: {other:?}"),
        }
    }

    fn apply(&mut self, change: Change) -> Outcome {
        self.seconds += 1;
        let command = Command {
            now: at(self.seconds),
            change,
        };
        let outcome = state::apply(&mut self.tables, &command).unwrap();
        self.log.push(command);
        outcome
    }

    /// The time of the last command.
    fn now(&self) -> Timestamp {
        at(self.seconds)
    }

    fn command(&mut self, command: NamespaceCommand) -> Result<Changed, ErrorCode> {
        let before = self.contents();
        let outcome = self.apply(Change::Namespace(command.clone()));
        let Outcome::Namespace(NamespaceOutcome(result)) = outcome else {
            panic!("another part's outcome");
        };
        if result.is_err() {
            assert_eq!(before, self.contents(), "refused, but changed something");
        }
        let stamped = matches!(
            command,
            NamespaceCommand::Mutate { .. } | NamespaceCommand::Push { .. }
        );
        if stamped {
            let after = self.everything();
            let again = self.apply(Change::Namespace(command));
            assert_eq!(again, Outcome::Namespace(NamespaceOutcome(result)));
            assert_eq!(after, self.everything(), "a repeat changed something");
            self.seconds -= 1;
        }
        self.check();
        result
    }

    fn check(&self) {
        let report = check::fsck(&self.tables).unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        assert_eq!(session::fsck::fsck(&self.tables).unwrap(), []);
        assert_eq!(
            report.inodes,
            read::counts(&self.tables).unwrap().inodes,
            "inodes"
        );
    }

    /// Every record of the namespace and of interest.
    fn contents(&self) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        use Table as T;
        let mut tables = vec![T::Inodes, T::Entries, T::Cookies, T::Orphans, T::Intents];
        tables.extend([T::Targets, T::Xattrs, T::Interest]);
        self.records(&tables)
    }

    /// The same with sessions and the ledger (not the clock, which a repeat moves too).
    fn everything(&self) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        let mut all = self.contents();
        all.extend(self.records(&[Table::Sessions, Table::Ledger]));
        all
    }

    fn records(&self, wanted: &[Table]) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        for table in wanted {
            self.tables
                .scan(*table, &[], &mut |key, value| {
                    all.push((*table, key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        all
    }

    fn stamp(&mut self) -> Stamp {
        self.sequence += 1;
        Stamp {
            session: self.session,
            sequence: Sequence(self.sequence),
            lowest_unanswered: Sequence(self.sequence.saturating_sub(3).max(1)),
        }
    }

    fn mutate(&mut self, mutation: Mutation) -> Result<Changed, ErrorCode> {
        let stamp = self.stamp();
        self.command(NamespaceCommand::Mutate { stamp, mutation })
    }

    fn create(&mut self, parent: InodeId, text: &str) -> Result<InodeId, ErrorCode> {
        self.open(parent, text, true).map(|c| c.attr.unwrap().inode)
    }

    fn open(&mut self, parent: InodeId, text: &str, exclusive: bool) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::Create {
            parent,
            name: name(text),
            mode: 0o644,
            creator: ALICE,
            exclusive,
        })
    }

    fn mkdir(&mut self, parent: InodeId, text: &str) -> Result<InodeId, ErrorCode> {
        let made = self.mutate(Mutation::MakeDir {
            parent,
            name: name(text),
            mode: 0o755,
            creator: ALICE,
        })?;
        Ok(made.attr.unwrap().inode)
    }

    fn symlink(&mut self, parent: InodeId, text: &str, to: &[u8]) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::Symlink {
            parent,
            name: name(text),
            target: to.to_vec(),
            creator: ALICE,
        })
    }

    fn link(&mut self, inode: InodeId, to: InodeId, text: &str) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::Link {
            inode,
            parent: to,
            name: name(text),
        })
    }

    fn unlink(&mut self, parent: InodeId, text: &str) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::Unlink {
            parent,
            name: name(text),
            caller: 0,
        })
    }

    fn rmdir(&mut self, parent: InodeId, text: &str) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::RemoveDir {
            parent,
            name: name(text),
            caller: 0,
        })
    }

    fn rename(
        &mut self,
        (parent, from): (InodeId, &str),
        (new_parent, to): (InodeId, &str),
    ) -> Result<Changed, ErrorCode> {
        self.rename_with((parent, from), (new_parent, to), RenameFlags::default())
    }

    fn rename_with(
        &mut self,
        (parent, from): (InodeId, &str),
        (new_parent, to): (InodeId, &str),
        flags: RenameFlags,
    ) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::Rename {
            parent,
            name: name(from),
            new_parent,
            new_name: name(to),
            flags,
            caller: 0,
        })
    }

    fn set_size(&mut self, inode: InodeId, size: u64) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::SetSize {
            inode,
            size,
            modified: true,
        })
    }

    fn push(&mut self, inode: InodeId, push: SizeTimes) -> Result<Changed, ErrorCode> {
        let stamp = self.stamp();
        self.command(NamespaceCommand::Push { stamp, inode, push })
    }

    fn attr(&self, inode: InodeId) -> FileAttr {
        read::attr(&self.tables, inode).unwrap().unwrap()
    }

    fn lookup(&self, parent: InodeId, text: &str) -> Result<InodeId, ErrorCode> {
        read::lookup(&self.tables, parent, Some(&name(text)))
            .unwrap()
            .map(|attr| attr.inode)
    }
}

#[test]
fn the_same_log_gives_the_same_tables() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let file = cluster.create(dir, "f").unwrap();
    cluster.set_size(file, 10_000).unwrap();
    cluster.set_size(file, 10).unwrap();
    cluster.unlink(dir, "f").unwrap();
    let mut second = MemoryTables::default();
    for command in &cluster.log {
        state::apply(&mut second, command).unwrap();
    }
    assert_eq!(cluster.tables, second);
}

#[test]
fn before_the_format_nothing_can_be_made() {
    let mut tables = MemoryTables::default();
    let command = NamespaceCommand::Settle {
        inode: ROOT,
        end: 5,
    };
    let outcome = super::apply(&mut tables, at(1), &command).unwrap();
    assert_eq!(outcome.0, Ok(Changed::default()));
    assert_eq!(
        read::attr(&tables, ROOT).unwrap(),
        Err(ErrorCode::Stale),
        "no root yet"
    );
    assert_eq!(read::format(&tables).unwrap(), None);
}

#[test]
fn the_format_is_written_once() {
    let mut cluster = Cluster::new();
    let known = read::format(&cluster.tables).unwrap().unwrap();
    assert!(
        !cluster
            .command(NamespaceCommand::Format(known))
            .unwrap()
            .created
    );
    let other = Format::defaults(ClusterId(8));
    assert_eq!(
        cluster.command(NamespaceCommand::Format(other)),
        Err(ErrorCode::Exists)
    );
    let root = cluster.attr(ROOT);
    assert_eq!(
        (root.links, root.mode, root.uid, root.gid),
        (2, 0o755, 0, 0)
    );
}

#[test]
fn a_format_that_can_not_work_is_refused() {
    let good = Format::defaults(ClusterId(1));
    let bad = [
        Format { groups: 0, ..good },
        Format {
            groups: u32::MAX,
            ..good
        },
        Format {
            chunk_bytes: 5000,
            ..good
        },
        Format {
            replicas: 0,
            ..good
        },
        Format {
            replicas: 9,
            ..good
        },
        Format {
            min_in_sync: 0,
            ..good
        },
        Format {
            min_in_sync: 4,
            ..good
        },
    ];
    for format in bad {
        let mut tables = MemoryTables::default();
        let command = NamespaceCommand::Format(format);
        let outcome = super::apply(&mut tables, at(1), &command).unwrap();
        assert_eq!(outcome.0, Err(ErrorCode::InvalidArgument), "{format:?}");
        assert_eq!(tables, MemoryTables::default());
    }
}

#[test]
fn the_clock_never_goes_back() {
    let mut cluster = Cluster::new();
    cluster.seconds += 100;
    let file = cluster.create(ROOT, "f").unwrap();
    let clock = tables::clock(&cluster.tables).unwrap();
    cluster.seconds -= 50;
    cluster.set_size(file, 5).unwrap();
    assert!(cluster.now() < clock);
    assert_eq!(cluster.attr(file).changed, clock);
    assert_eq!(tables::clock(&cluster.tables).unwrap(), clock);
}
