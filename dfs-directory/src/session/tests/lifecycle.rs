use super::*;
use crate::state::level;
use crate::state::tables::{Read, Table};
use std::ops::ControlFlow;

fn end(tables: &mut MemoryTables, session: SessionId) {
    run(tables, SessionCommand::BeginEnd { session }).unwrap();
    run(tables, SessionCommand::FinishEnd { session }).unwrap();
}

#[test]
fn an_incarnation_has_one_session() {
    let mut tables = MemoryTables::default();
    let first = open(&mut tables, 11);
    assert_eq!(first, (SessionId(1), true));
    assert_eq!(open(&mut tables, 11), (SessionId(1), false));
    assert_eq!(open(&mut tables, 12), (SessionId(2), true));
    let info = read::session(&tables, SessionId(1)).unwrap().unwrap();
    assert_eq!(
        info,
        SessionInfo {
            session: SessionId(1),
            phase: SessionPhase::Alive,
            incarnation: Incarnation(11),
            host: "host".into(),
            pid: 7,
            mount_point: "/mnt".into(),
            began: None,
        }
    );
}

#[test]
fn a_beginning_is_stored_when_all_members_know_of_it() {
    let mut tables = MemoryTables::default();
    let (before, _) = open(&mut tables, 11);
    level::raise(&mut tables, level::SESSION_TIMES).unwrap();
    let (after, _) = open(&mut tables, 12);
    let began = |tables: &MemoryTables, session| {
        let info = read::session(tables, session).unwrap().unwrap();
        (info.phase, info.began)
    };
    assert_eq!(began(&tables, before), (SessionPhase::Alive, None));
    assert_eq!(began(&tables, after), (SessionPhase::Alive, Some(5)));
    for session in [before, after] {
        run(&mut tables, SessionCommand::BeginEnd { session }).unwrap();
    }
    assert_eq!(began(&tables, before), (SessionPhase::Ending, None));
    assert_eq!(began(&tables, after), (SessionPhase::Ending, Some(5)));
}

#[test]
fn a_session_ends_in_steps() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 11);
    let file = create(&mut tables, session, (1, 1), "f").unwrap();
    let inode = file.attr.unwrap().inode;
    let begin = SessionCommand::BeginEnd { session };
    let finish = SessionCommand::FinishEnd { session };
    let forget = SessionCommand::ForgetFence { session };
    assert_eq!(run(&mut tables, finish.clone()), Err(ErrorCode::Busy));
    assert_eq!(run(&mut tables, forget.clone()), Err(ErrorCode::Busy));
    assert_eq!(read::fence_list(&tables).unwrap(), []);

    run(&mut tables, begin.clone()).unwrap();
    let phase = |tables: &MemoryTables| read::session(tables, session).unwrap().map(|i| i.phase);
    assert_eq!(phase(&tables), Some(SessionPhase::Ending));
    assert_eq!(read::fence_list(&tables).unwrap(), [session]);
    assert_eq!(read::interest_of(&tables, session).unwrap(), [inode]);
    assert_eq!(run(&mut tables, forget.clone()), Err(ErrorCode::Busy));

    run(&mut tables, finish.clone()).unwrap();
    assert_eq!(phase(&tables), Some(SessionPhase::Ended));
    assert_eq!(read::fence_list(&tables).unwrap(), [session]);
    assert_eq!(read::interest_of(&tables, session).unwrap(), []);
    assert_eq!(read::interested_in(&tables, inode).unwrap(), []);
    let mut left = 0;
    tables
        .scan(Table::Ledger, &[], &mut |_, _| {
            left += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(left, 0, "ledger records");

    for repeated in [begin.clone(), finish.clone()] {
        assert_eq!(run(&mut tables, repeated), Ok(SessionChanged::Done));
    }
    run(&mut tables, forget.clone()).unwrap();
    run(&mut tables, forget).unwrap();
    assert_eq!(phase(&tables), None);
    assert_eq!(read::fence_list(&tables).unwrap(), []);
    for late in [begin, finish] {
        assert_eq!(run(&mut tables, late), Err(ErrorCode::SessionEnded));
    }
}

#[test]
fn an_ended_session_is_never_given_again() {
    let mut tables = MemoryTables::default();
    let (first, _) = open(&mut tables, 11);
    end(&mut tables, first);
    run(&mut tables, SessionCommand::ForgetFence { session: first }).unwrap();
    assert_eq!(open(&mut tables, 11), (SessionId(2), true));
}

#[test]
fn commands_of_an_ending_session_are_refused() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 11);
    create(&mut tables, session, (1, 1), "f").unwrap();
    run(&mut tables, SessionCommand::BeginEnd { session }).unwrap();
    for (sequence, text) in [(1, "f"), (2, "g")] {
        let late = create(&mut tables, session, (sequence, 1), text);
        assert_eq!(late, Err(ErrorCode::SessionEnded));
    }
    for command in [
        SessionCommand::AddInterest {
            session,
            inodes: vec![ROOT],
        },
        SessionCommand::DropInterest {
            session,
            inodes: vec![ROOT],
        },
    ] {
        assert_eq!(run(&mut tables, command), Err(ErrorCode::SessionEnded));
    }
}

#[test]
fn what_a_session_says_of_itself_is_bounded() {
    let mut tables = MemoryTables::default();
    for (host, mount_point) in [(256, 1), (1, 4097)] {
        let command = SessionCommand::Open {
            incarnation: Incarnation(1),
            host: "h".repeat(host),
            pid: 1,
            mount_point: "m".repeat(mount_point),
        };
        let refused = run(&mut tables, command);
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
}
