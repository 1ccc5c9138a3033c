use super::*;
use dfs_proto::attr::{FileKind, SetAttr};
use dfs_proto::ids::Generation;
use dfs_proto::limits::FILE_BYTES_MAX;

fn pushed(size: u64) -> SizeTimes {
    SizeTimes {
        size,
        ..SizeTimes::default()
    }
}

#[test]
fn growing_is_a_number() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let grown = cluster.set_size(file, 5000).unwrap();
    let now = cluster.now();
    assert_eq!(grown.cut, None);
    let attr = grown.attr.unwrap();
    assert_eq!((attr.size, attr.generation), (5000, Generation(0)));
    assert_eq!((attr.modified, attr.changed), (now, now));
    let same = cluster.set_size(file, 5000).unwrap();
    assert_eq!(
        (same.cut, same.attr.unwrap().changed),
        (None, cluster.now())
    );
    assert_eq!(read::intent_count(&cluster.tables).unwrap(), 0);
}

#[test]
fn shrinking_is_a_cut() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.set_size(file, 5000).unwrap();
    let cut = cluster.set_size(file, 100).unwrap();
    assert_eq!(cut.cut, Some(Generation(1)));
    assert_eq!(cut.attr.unwrap().generation, Generation(1));
    let intents = read::intents(&cluster.tables, None, 9).unwrap();
    assert_eq!(intents.len(), 1);
    let intent = intents[0];
    assert_eq!((intent.inode, intent.generation), (file, Generation(1)));
    assert_eq!((intent.from, intent.extent), (100, Some(5000)));
    assert_eq!(intent.layout, cluster.attr(file).layout);
}

#[test]
fn a_hole_is_a_cut_in_the_middle() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.set_size(file, 5000).unwrap();
    let made = cluster.now();
    let punch = |from, to| Mutation::Punch {
        inode: file,
        from,
        to,
    };
    let hole = cluster.mutate(punch(100, 300)).unwrap();
    let attr = hole.attr.unwrap();
    assert_eq!(hole.cut, Some(Generation(1)));
    assert_eq!((attr.size, attr.generation), (5000, Generation(1)));
    let now = cluster.now();
    assert!(now > made);
    assert_eq!((attr.modified, attr.changed), (now, now));
    let intent = read::intents(&cluster.tables, None, 9).unwrap()[0];
    assert_eq!((intent.from, intent.to), (100, 300));
    assert_eq!(intent.extent, Some(5000));
    // There is nothing behind the size, and nothing in nothing.
    let behind = cluster.mutate(punch(5000, 6000)).unwrap();
    assert_eq!((behind.cut, behind.attr.unwrap().modified), (None, now));
    for (from, to) in [(7, 7), (9, 7)] {
        let refused = cluster.mutate(punch(from, to));
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let refused = cluster.mutate(Mutation::Punch {
        inode: dir,
        from: 0,
        to: 1,
    });
    assert_eq!(refused, Err(ErrorCode::IsADir));
    // A size that was pushed under the generation before does not count any more.
    cluster.push(file, pushed(9000)).unwrap();
    assert_eq!(cluster.attr(file).size, 5000);
}

#[test]
fn a_file_is_sparse_from_its_first_hole_until_it_is_empty() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.push(file, pushed(5000)).unwrap();
    let hole = |size| SizeTimes {
        sparse: true,
        generation: Generation(99),
        ..pushed(size)
    };
    assert!(!cluster.attr(file).sparse, "written from its start on");
    // Up to the end of its last block nothing is missing.
    cluster.set_size(file, 8192).unwrap();
    assert!(!cluster.attr(file).sparse);
    cluster.set_size(file, 100).unwrap();
    cluster.set_size(file, 200).unwrap();
    assert!(!cluster.attr(file).sparse);
    cluster.set_size(file, 4097).unwrap();
    assert!(cluster.attr(file).sparse);
    cluster.set_size(file, 10).unwrap();
    assert!(cluster.attr(file).sparse, "nobody has looked");
    cluster.set_size(file, 0).unwrap();
    assert!(!cluster.attr(file).sparse);
    cluster.push(file, hole(9000)).unwrap();
    assert!(cluster.attr(file).sparse, "its holder says so");
    cluster.set_size(file, 0).unwrap();
    let generation = cluster.attr(file).generation;
    let written = SizeTimes {
        generation,
        ..pushed(9000)
    };
    cluster.push(file, written).unwrap();
    assert!(!cluster.attr(file).sparse);
    cluster
        .mutate(Mutation::Punch {
            inode: file,
            from: 0,
            to: 4096,
        })
        .unwrap();
    assert!(cluster.attr(file).sparse);
}

#[test]
fn the_mtime_stays_when_it_shall() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let made = cluster.now();
    let set = Mutation::SetSize {
        inode: file,
        size: 10,
        modified: false,
    };
    let attr = cluster.mutate(set).unwrap().attr.unwrap();
    assert_eq!((attr.modified, attr.changed), (made, cluster.now()));
}

#[test]
fn what_has_no_size_to_set() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let link = cluster
        .symlink(ROOT, "s", b"t")
        .unwrap()
        .attr
        .unwrap()
        .inode;
    let fifo = cluster
        .mutate(Mutation::MakeNode {
            parent: ROOT,
            name: name("p"),
            kind: FileKind::Fifo,
            mode: 0o600,
            device: 0,
            creator: ALICE,
        })
        .unwrap();
    let fifo = fifo.attr.unwrap().inode;
    for (inode, size, code) in [
        (dir, 1, ErrorCode::IsADir),
        (link, 1, ErrorCode::InvalidArgument),
        (fifo, 1, ErrorCode::InvalidArgument),
        (file, FILE_BYTES_MAX + 1, ErrorCode::FileTooLarge),
        (InodeId(99), 1, ErrorCode::Stale),
    ] {
        assert_eq!(cluster.set_size(inode, size), Err(code), "{inode}");
    }
    cluster.set_size(file, FILE_BYTES_MAX).unwrap();
    let too_much = cluster.push(file, pushed(FILE_BYTES_MAX + 1));
    assert_eq!(too_much, Err(ErrorCode::FileTooLarge));
}

#[test]
fn a_push_moves_the_size_up_only() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let before = cluster.attr(file);
    let after = cluster.push(file, pushed(700)).unwrap().attr.unwrap();
    assert_eq!(
        after,
        FileAttr {
            size: 700,
            ..before
        }
    );
    let late = cluster.push(file, pushed(300)).unwrap();
    assert_eq!((late.attr.unwrap().size, late.cut), (700, None));
}

#[test]
fn a_size_from_before_a_cut_is_void() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.push(file, pushed(700)).unwrap();
    let cut = cluster.set_size(file, 300).unwrap();
    let generation = cut.cut.unwrap();
    // Told by the holder while its own cut was on its way.
    let late = cluster.push(file, pushed(700)).unwrap();
    assert_eq!(late.attr.unwrap().size, 300);
    let after = SizeTimes {
        generation,
        ..pushed(500)
    };
    assert_eq!(cluster.push(file, after).unwrap().attr.unwrap().size, 500);
}

#[test]
fn a_push_of_writes_moves_the_times() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let wrote = SizeTimes {
        wrote: true,
        ..pushed(1)
    };
    let attr = cluster.push(file, wrote).unwrap().attr.unwrap();
    let now = cluster.now();
    assert_eq!((attr.modified, attr.changed), (now, now));
    let named = SizeTimes {
        modified: Some(at(77)),
        accessed: Some(at(78)),
        ..wrote
    };
    let attr = cluster.push(file, named).unwrap().attr.unwrap();
    assert_eq!((attr.modified, attr.accessed), (at(77), at(78)));
    assert_eq!(attr.changed, now, "no older than before");
    let told = at(now.seconds + 9);
    let later = SizeTimes {
        modified: Some(told),
        ..wrote
    };
    let attr = cluster.push(file, later).unwrap().attr.unwrap();
    assert_eq!(
        (attr.modified, attr.changed),
        (told, told),
        "as the writer has told"
    );
    let read_only = SizeTimes {
        accessed: Some(at(79)),
        ..pushed(1)
    };
    let changed = attr.changed;
    let attr = cluster.push(file, read_only).unwrap().attr.unwrap();
    assert_eq!((attr.accessed, attr.changed), (at(79), changed));
    let never = SizeTimes {
        modified: Some(Timestamp {
            seconds: 0,
            nanoseconds: u32::MAX,
        }),
        ..wrote
    };
    assert_eq!(cluster.push(file, never), Err(ErrorCode::InvalidArgument));
}

#[test]
fn a_late_push_does_not_undo_a_chmod() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let set = SetAttr {
        mode: Some(0o4755),
        ..SetAttr::default()
    };
    cluster
        .mutate(Mutation::SetAttr { inode: file, set })
        .unwrap();
    let wrote = SizeTimes {
        wrote: true,
        ..pushed(9)
    };
    assert_eq!(
        cluster.push(file, wrote).unwrap().attr.unwrap().mode,
        0o4755
    );
}

#[test]
fn an_answered_push_needs_a_living_session() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let answered = |session| NamespaceCommand::PushAnswered {
        session,
        inode: file,
        push: pushed(50),
    };
    let strange = answered(SessionId(99));
    assert_eq!(cluster.command(strange), Err(ErrorCode::SessionEnded));
    let session = cluster.session;
    let done = cluster.command(answered(session)).unwrap();
    assert_eq!(done.attr.unwrap().size, 50);
    cluster.apply(Change::Session(SessionCommand::BeginEnd { session }));
    let late = answered(session);
    assert_eq!(cluster.command(late), Err(ErrorCode::SessionEnded));
}

#[test]
fn settling_cuts_at_the_recorded_size_or_where_the_data_end() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.push(file, pushed(700)).unwrap();
    let before = cluster.attr(file);
    let settled = cluster
        .command(NamespaceCommand::Settle {
            inode: file,
            end: 699,
        })
        .unwrap();
    assert_eq!(settled.cut, Some(Generation(1)));
    let after = cluster.attr(file);
    assert_eq!(
        after,
        FileAttr {
            generation: Generation(1),
            ..before
        }
    );
    let intent = read::intents(&cluster.tables, None, 9).unwrap()[0];
    assert_eq!((intent.from, intent.extent), (700, None));
    // What was written beyond it was answered: it stays, and has been written before now.
    let settled = cluster
        .command(NamespaceCommand::Settle {
            inode: file,
            end: 900,
        })
        .unwrap();
    assert_eq!(settled.cut, Some(Generation(2)));
    let grown = cluster.attr(file);
    assert_eq!(grown.size, 900);
    assert!(grown.modified > after.modified && grown.changed == grown.modified);
    let intent = read::intents(&cluster.tables, None, 9).unwrap()[1];
    assert_eq!((intent.from, intent.extent), (900, None));
}

#[test]
fn there_is_nothing_to_settle_without_data() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    for inode in [dir, ROOT, InodeId(99)] {
        let settled = cluster.command(NamespaceCommand::Settle { inode, end: 9 });
        assert_eq!(settled.unwrap().cut, None);
    }
    assert_eq!(read::intent_count(&cluster.tables).unwrap(), 0);
}
