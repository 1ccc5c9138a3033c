//! What goes in and what comes out.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::members::MembersCommand;
use crate::namespace::{Format, NamespaceCommand};
use crate::placement::{Placed, PlacementCommand};
use crate::session::SessionCommand;
use crate::state::{Change, Command, IMPORT_JUMP, Outcome, apply};
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::ids::{
    Epoch, GroupId, Incarnation, InodeId, NodeId, ROOT, Sequence, ServerId, ServerRun, SessionId,
};
use dfs_proto::msg::namespace::{Creator, Mutation};
use dfs_proto::msg::registry::DataDirPast;
use dfs_proto::msg::session::Stamp;
use dfs_proto::name::FileName;

const NOW: Timestamp = Timestamp {
    seconds: 1000,
    nanoseconds: 0,
};
const GROUP: GroupId = GroupId(0);

fn run(server: u32) -> ServerRun {
    ServerRun {
        server: ServerId(server),
        incarnation: Incarnation(100 + u64::from(server)),
    }
}

fn change(store: &Store, change: Change) -> Outcome {
    let mut writer = store.write().unwrap();
    let mut tables = writer.tables().unwrap();
    let outcome = apply(&mut tables, &Command { now: NOW, change }).unwrap();
    drop(tables);
    writer.commit().unwrap();
    outcome
}

fn register(store: &Store, server: u32, past: DataDirPast, epoch: u64) -> Outcome {
    let command = PlacementCommand::RegisterServer {
        node: NodeId(server.into()),
        incarnation: Incarnation(if past.runs.is_empty() {
            run(server).incarnation.0
        } else {
            900 + u64::from(server)
        }),
        address: format!("s:{server}"),
        past,
        epochs: vec![(GROUP, Epoch(epoch))],
    };
    change(store, Change::Placement(command))
}

/// A cluster with three servers, a file of one session, and a group in epoch 1.
fn cluster(dir: &std::path::Path) -> Store {
    let store = Store::open(&dir.join("tables")).unwrap();
    let format = Format {
        groups: 1,
        replicas: 3,
        ..Format::defaults(ClusterId(77))
    };
    change(&store, Change::Namespace(NamespaceCommand::Format(format)));
    let admit = MembersCommand::Admit {
        node: NodeId(1),
        address: "d:1".to_owned(),
        supports: 2,
    };
    change(&store, Change::Members(admit));
    for server in 1..=3 {
        register(&store, server, DataDirPast::default(), 0);
    }
    let member = |server| GroupMember {
        run: run(server),
        state: if server == 3 {
            MemberState::Joining
        } else {
            MemberState::InSync
        },
    };
    let config = GroupConfig {
        group: GROUP,
        epoch: Epoch(1),
        primary: Some(ServerId(1)),
        members: (1..=3).map(member).collect(),
        min_in_sync: 2,
        equalise: Equalise::Marked,
    };
    let first = PlacementCommand::Change {
        gone: Vec::new(),
        groups: vec![(Epoch(0), config)],
    };
    change(&store, Change::Placement(first));
    let serves = PlacementCommand::Effective {
        groups: vec![(GROUP, Epoch(1))],
    };
    change(&store, Change::Placement(serves));
    let open = SessionCommand::Open {
        incarnation: Incarnation(5),
        host: "h".into(),
        pid: 1,
        mount_point: "/m".into(),
    };
    change(&store, Change::Session(open));
    create(&store, SessionId(1), 1, "f");
    store
}

fn create(store: &Store, session: SessionId, sequence: u64, name: &str) -> InodeId {
    let stamp = Stamp {
        session,
        sequence: Sequence(sequence),
        lowest_unanswered: Sequence(sequence),
    };
    let mutation = Mutation::Create {
        parent: ROOT,
        name: FileName::new(name.as_bytes()).unwrap(),
        creator: Creator {
            uid: 0,
            gid: 0,
            umask: 0,
        },
        mode: 0o644,
        exclusive: true,
    };
    let command = NamespaceCommand::Mutate { stamp, mutation };
    match change(store, Change::Namespace(command)) {
        Outcome::Namespace(outcome) => outcome.0.unwrap().attr.unwrap().inode,
        other => panic!("{other:?}"),
    }
}

fn backup(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = write(&mut bytes, &store.read().unwrap()).unwrap();
    assert_eq!((head.cluster, head.inodes), (ClusterId(77), 2));
    bytes
}

fn imported(dir: &std::path::Path, bytes: &[u8]) -> Store {
    let store = Store::open(&dir.join("imported")).unwrap();
    import(bytes, &store, 2, NOW).unwrap();
    store
}

#[test]
fn names_come_back_and_numbers_jump() {
    let dir = tempfile::tempdir().unwrap();
    let before = cluster(dir.path());
    let bytes = backup(&before);
    assert_eq!(check(&bytes[..]).unwrap().member, MemberId(2));
    let after = imported(dir.path(), &bytes);
    let view = after.read().unwrap();
    assert_eq!(members::list(&view).unwrap(), []);
    assert_eq!(session::read::sessions(&view).unwrap(), []);
    assert_eq!(namespace::fsck::fsck(&view).unwrap().problems, []);
    assert_eq!(session::fsck::fsck(&view).unwrap(), []);
    // The file has a generation of its own and is cut at its size.
    let cuts = namespace::read::intents_of(&view, InodeId(2)).unwrap();
    assert_eq!(cuts.len(), 1);
    assert!(cuts[0].generation.0 > IMPORT_JUMP);
    drop(view);
    // What is new has numbers that nobody knows.
    let open = SessionCommand::Open {
        incarnation: Incarnation(5),
        host: "h".into(),
        pid: 1,
        mount_point: "/m".into(),
    };
    change(&after, Change::Session(open));
    let session = session::read::sessions(&after.read().unwrap()).unwrap()[0].session;
    assert!(session.0 > IMPORT_JUMP);
    assert!(create(&after, session, 1, "new").0 > IMPORT_JUMP);
}

#[test]
fn groups_wait_for_those_that_were_in_sync_and_compare_everything() {
    let dir = tempfile::tempdir().unwrap();
    let before = cluster(dir.path());
    let after = imported(dir.path(), &backup(&before));
    let placed = |store: &Store| Placed::load(&store.read().unwrap()).unwrap();
    let group = placed(&after).groups[&GROUP].clone();
    assert_eq!(group.config.primary, None);
    assert_eq!(group.config.epoch, Epoch(1 + IMPORT_JUMP));
    assert_eq!(group.config.equalise, Equalise::Everything);
    let states: Vec<_> = group.config.members.iter().map(|m| m.state).collect();
    use MemberState::{LastServing, Offline};
    assert_eq!(states, [LastServing, LastServing, Offline]);
    // One comes back under another run, with the epochs of then or later; the other was emptied.
    let past = DataDirPast {
        runs: vec![run(1).incarnation],
        intact: 1,
        accept_rollback: false,
    };
    register(&after, 1, past.clone(), 7);
    assert_eq!(placed(&after).groups[&GROUP].lost, []);
    register(&after, 2, past, 0);
    assert_eq!(placed(&after).groups[&GROUP].lost, [ServerId(2)]);
}

#[test]
fn a_damaged_backup_or_one_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let before = cluster(dir.path());
    let whole = backup(&before);
    assert!(check(&whole[..]).is_ok());
    let refuses = |bytes: &[u8]| {
        let store = Store::open(&dir.path().join("refused")).unwrap();
        let refused = import(bytes, &store, 2, NOW).unwrap_err().to_string();
        let kept = store.read().unwrap();
        assert!(namespace::read::format(&kept).unwrap().is_none());
        refused
    };
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        assert!(check(&damaged[..]).is_err(), "byte {at}");
    }
    let mut damaged = whole.clone();
    let last = damaged.len() - 40;
    damaged[last] ^= 1;
    assert!(refuses(&damaged).contains("take another one"));
    assert!(refuses(&whole[..whole.len() - 1]).contains("ends too early"));
    let mut writer = before.write().unwrap();
    level::raise(&mut writer.tables().unwrap(), 9).unwrap();
    writer.commit().unwrap();
    assert!(refuses(&backup(&before)).contains("feature level 9"));
}
