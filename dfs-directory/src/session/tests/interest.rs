use super::*;

#[test]
fn interest_is_seen_from_both_sides() {
    let mut tables = formatted();
    let (one, _) = open(&mut tables, 1);
    let (two, _) = open(&mut tables, 2);
    let inode = |made: Result<namespace::Changed, ErrorCode>| made.unwrap().attr.unwrap().inode;
    let f = inode(create(&mut tables, one, (1, 1), "f"));
    let g = inode(create(&mut tables, two, (1, 1), "g"));
    let add = SessionCommand::AddInterest {
        session: two,
        inodes: vec![f, g, ROOT],
    };
    run(&mut tables, add.clone()).unwrap();
    run(&mut tables, add).unwrap();
    assert_eq!(read::interest_of(&tables, two).unwrap(), [ROOT, f, g]);
    assert_eq!(read::interested_in(&tables, f).unwrap(), [one, two]);
    assert!(read::has_interest(&tables, one, f).unwrap());
    let drop = SessionCommand::DropInterest {
        session: one,
        inodes: vec![f, g],
    };
    run(&mut tables, drop.clone()).unwrap();
    run(&mut tables, drop).unwrap();
    assert_eq!(read::interested_in(&tables, f).unwrap(), [two]);
    assert_eq!(read::interested_in(&tables, g).unwrap(), [two]);
    assert!(!read::has_interest(&tables, one, f).unwrap());
}

#[test]
fn interest_in_what_is_gone_is_refused_as_a_whole() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 1);
    let add = SessionCommand::AddInterest {
        session,
        inodes: vec![ROOT, InodeId(99)],
    };
    assert_eq!(run(&mut tables, add), Err(ErrorCode::Stale));
    assert_eq!(read::interest_of(&tables, session).unwrap(), []);
}

#[test]
fn one_command_holds_only_so_many() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 1);
    let inodes = vec![ROOT; INTEREST_BATCH_MAX + 1];
    for command in [
        SessionCommand::AddInterest {
            session,
            inodes: inodes.clone(),
        },
        SessionCommand::DropInterest { session, inodes },
    ] {
        let refused = run(&mut tables, command);
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
}
