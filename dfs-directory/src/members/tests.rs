//! Members come, move, are replaced and go.

use super::*;
use crate::state::memory::MemoryTables;

fn admit(tables: &mut MemoryTables, node: u128, address: &str) -> Result<u64, ErrorCode> {
    admit_knowing(tables, node, address, level::FIRST_LEVEL)
}

fn admit_knowing(
    tables: &mut MemoryTables,
    node: u128,
    address: &str,
    supports: u16,
) -> Result<u64, ErrorCode> {
    let command = MembersCommand::Admit {
        node: NodeId(node),
        address: address.to_owned(),
        supports,
    };
    let member = apply(tables, &command).expect("tables").0?;
    Ok(member.expect("a member").0)
}

fn raise_to(tables: &mut MemoryTables, level: u16) -> Result<(), ErrorCode> {
    let before = tables.clone();
    let outcome = apply(tables, &MembersCommand::Raise { level })
        .expect("tables")
        .0;
    if outcome.is_err() {
        assert_eq!(*tables, before, "refused, but changed something");
    }
    outcome.map(|member| assert_eq!(member, None))
}

fn remove(tables: &mut MemoryTables, member: u64) -> Result<u64, ErrorCode> {
    let member = MemberId(member);
    let command = MembersCommand::Remove { member };
    let member = apply(tables, &command).expect("tables").0?;
    Ok(member.expect("a member").0)
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

#[test]
fn the_level_rises_when_all_members_know_it_and_never_falls() {
    let mut tables = MemoryTables::default();
    let levels = |tables: &MemoryTables| {
        let raisable = raisable(tables).expect("tables");
        (level::of_cluster(tables).expect("tables"), raisable)
    };
    assert_eq!(raise_to(&mut tables, 2), Err(ErrorCode::InvalidArgument));
    admit_knowing(&mut tables, 10, "a:1", 3).expect("admitted");
    admit_knowing(&mut tables, 20, "b:1", 1).expect("admitted");
    assert_eq!(levels(&tables), (1, None));
    assert_eq!(raise_to(&mut tables, 2), Err(ErrorCode::InvalidArgument));
    // It is started anew with a newer program.
    admit_knowing(&mut tables, 20, "b:1", 2).expect("admitted");
    assert_eq!(levels(&tables), (1, Some(2)));
    assert_eq!(raise_to(&mut tables, 3), Err(ErrorCode::InvalidArgument));
    assert_eq!(raise_to(&mut tables, 2), Ok(()));
    assert_eq!(levels(&tables), (2, None));
    assert_eq!(raise_to(&mut tables, 2), Err(ErrorCode::InvalidArgument));
    let older = admit_knowing(&mut tables, 30, "c:1", 1);
    assert_eq!(older, Err(ErrorCode::Unsupported));
    let older = admit_knowing(&mut tables, 20, "b:1", 1);
    assert_eq!(older, Err(ErrorCode::Unsupported));
    admit_knowing(&mut tables, 30, "c:1", 2).expect("admitted");
    // Who holds the level back is taken out.
    assert_eq!(remove(&mut tables, 2), Ok(2));
    assert_eq!(levels(&tables), (2, None));
    assert_eq!(remove(&mut tables, 3), Ok(3));
    assert_eq!(levels(&tables), (2, Some(3)));
}
