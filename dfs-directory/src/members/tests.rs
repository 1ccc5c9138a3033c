//! Members come, move, are replaced and go.

use super::*;
use crate::state::memory::MemoryTables;

fn admit(tables: &mut MemoryTables, node: u128, address: &str) -> Result<u64, ErrorCode> {
    let command = MembersCommand::Admit {
        node: NodeId(node),
        address: address.to_owned(),
    };
    apply(tables, &command).expect("tables").0.map(|m| m.0)
}

fn remove(tables: &mut MemoryTables, member: u64) -> Result<u64, ErrorCode> {
    let member = MemberId(member);
    let command = MembersCommand::Remove { member };
    apply(tables, &command).expect("tables").0.map(|m| m.0)
}

fn all(tables: &MemoryTables) -> Vec<(u64, String)> {
    let list = list(tables).expect("tables");
    list.into_iter().map(|m| (m.member.0, m.address)).collect()
}

#[test]
fn a_node_keeps_its_number() {
    let mut tables = MemoryTables::default();
    assert_eq!(admit(&mut tables, 10, "a:1"), Ok(1));
    assert_eq!(admit(&mut tables, 20, "b:1"), Ok(2));
    assert_eq!(admit(&mut tables, 10, "a:1"), Ok(1));
    assert_eq!(admit(&mut tables, 10, "c:9"), Ok(1));
    assert_eq!(all(&tables), [(1, "c:9".to_owned()), (2, "b:1".to_owned())]);
}

#[test]
fn an_emptied_disk_comes_back_under_a_new_number_in_the_old_place() {
    let mut tables = MemoryTables::default();
    assert_eq!(admit(&mut tables, 10, "a:1"), Ok(1));
    assert_eq!(admit(&mut tables, 20, "b:1"), Ok(2));
    assert_eq!(admit(&mut tables, 21, "b:1"), Ok(3));
    assert_eq!(all(&tables), [(1, "a:1".to_owned()), (3, "b:1".to_owned())]);
}

#[test]
fn a_number_is_never_given_again() {
    let mut tables = MemoryTables::default();
    for n in 1..=3 {
        assert_eq!(admit(&mut tables, n.into(), &format!("h:{n}")), Ok(n));
    }
    assert_eq!(remove(&mut tables, 3), Ok(3));
    assert_eq!(remove(&mut tables, 3), Err(ErrorCode::NotFound));
    assert_eq!(admit(&mut tables, 3, "h:3"), Ok(4));
}

#[test]
fn the_last_one_stays_and_there_are_not_too_many() {
    let mut tables = MemoryTables::default();
    assert_eq!(admit(&mut tables, 1, "h:1"), Ok(1));
    assert_eq!(remove(&mut tables, 1), Err(ErrorCode::Busy));
    for n in 2..=MEMBERS_MAX as u64 {
        assert_eq!(admit(&mut tables, n.into(), &format!("h:{n}")), Ok(n));
    }
    assert_eq!(admit(&mut tables, 99, "h:99"), Err(ErrorCode::NoSpace));
    // One that takes the place of another one is no more.
    assert_eq!(admit(&mut tables, 99, "h:2"), Ok(MEMBERS_MAX as u64 + 1));
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    let mut tables = MemoryTables::default();
    for bad in ["", "h", ":1", "h:0", "h:70000", "h h:1", "h\n:1"] {
        assert_eq!(
            admit(&mut tables, 1, bad),
            Err(ErrorCode::InvalidArgument),
            "{bad:?}"
        );
    }
    assert_eq!(admit(&mut tables, 1, "[::1]:7000"), Ok(1));
}
