//! Which groups move to which servers: away from servers that are lost or to be emptied, and,
//! when all is well, from those that hold much to those that hold little.
//!
//! Pure. The answer is a new wanted list (`NewHome`), which is logged; what follows is the
//! transition's: the new member joins, and who is not wanted any more leaves when all that are
//! wanted are in-sync. So a move never costs a copy, and one that is interrupted at any point
//! goes on with what the log says.

use super::command::NewHome;
use super::record::{GroupRecord, Placed};
use dfs_proto::cluster::ServerLife;
use dfs_proto::ids::{GroupId, ServerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a server is, as far as a move needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition {
    pub life: ServerLife,
    pub alive: bool,
    /// How long it has been gone, in whole seconds.
    pub gone_for: Duration,
    /// Gone for so long that nobody waits for it any more.
    pub lost: bool,
    /// Its disk has room for more groups.
    pub roomy: bool,
}

impl Condition {
    /// Groups are to leave it.
    fn is_left(&self) -> bool {
        self.life != ServerLife::Active || self.lost
    }

    /// Groups may come to it.
    fn takes_groups(&self) -> bool {
        self.life == ServerLife::Active && self.alive
    }
}

pub type Conditions = BTreeMap<ServerId, Condition>;

/// Whether groups are to leave a server.
pub fn is_left(conditions: &Conditions, server: ServerId) -> bool {
    conditions.get(&server).is_some_and(Condition::is_left)
}

/// The moves to begin now, such that at most `moving_max` groups are on the move, those with the
/// fewest copies first. Groups that may take no writes do not count against it.
pub fn moves(placed: &Placed, conditions: &Conditions, moving_max: usize) -> Vec<NewHome> {
    let mut loads = loads(placed, conditions);
    let moving = placed.groups.values().filter(|r| is_moving(r)).count();
    let mut room = moving_max.saturating_sub(moving);
    let mut waiting: Vec<(&GroupId, &GroupRecord)> = placed
        .groups
        .iter()
        .filter(|(_, record)| left_by(record, conditions).is_some())
        .collect();
    waiting.sort_by_key(|(group, record)| (record.config.in_sync().count(), **group));
    let mut moves = Vec::new();
    for (group, record) in waiting {
        let urgent = !record.config.is_writable();
        let Some(from) = left_by(record, conditions).filter(|from| may_move(record, *from)) else {
            continue;
        };
        if room == 0 && !urgent {
            continue;
        }
        let Some(to) = successor(*group, record, conditions, &loads) else {
            continue;
        };
        *loads.entry(to).or_default() += 1;
        room = room.saturating_sub(1);
        moves.push(replaced(*group, record, from, to));
    }
    moves
}

/// Why a group cannot get all of its replicas, for a person. `None`: it has them, or is on the
/// way, or a server that is gone is still waited for.
pub fn stuck(group: GroupId, record: &GroupRecord, conditions: &Conditions) -> Option<String> {
    if record.config.primary.is_none() {
        let served = record.effective.iter().flat_map(|e| e.in_sync());
        let served: Vec<ServerId> = served.map(|run| run.server).collect();
        let back = |server: &ServerId| conditions.get(server).is_some_and(|c| c.alive);
        let names: Vec<String> = served.iter().map(ToString::to_string).collect();
        return (!served.iter().any(back)).then(|| {
            format!(
                "nobody is left of those that served it last: one of {} must come back",
                names.join(", ")
            )
        });
    }
    let from = left_by(record, conditions)?;
    let nobody = successor(group, record, conditions, &BTreeMap::new()).is_none();
    nobody.then(|| format!("no other server can take the place of {from}"))
}

/// Whether every group has all of its copies where they are wanted, and nothing else.
pub fn is_settled(placed: &Placed, conditions: &Conditions) -> bool {
    placed.groups.values().all(|record| {
        record.is_effective()
            && record.config.members.len() == record.home.len()
            && record.config.in_sync().count() == record.home.len()
            && left_by(record, conditions).is_none()
    })
}

/// When all is well: one group that moves from the server with the most groups to the one with
/// the fewest, or whose preferred primary changes from the server with the most to one with few.
pub fn rebalance(placed: &Placed, conditions: &Conditions) -> Option<NewHome> {
    let loads = loads(placed, conditions);
    let (least, few) = loads.iter().min_by_key(|(_, count)| **count)?;
    let (most, many) = loads.iter().max_by_key(|(_, count)| **count)?;
    if many - few >= 2 && conditions.get(least).is_some_and(|c| c.roomy) {
        let holds =
            |record: &&GroupRecord| record.home.contains(most) && !record.home.contains(least);
        let mut groups = placed.groups.iter();
        let (group, record) = groups.find(|(_, record)| holds(record))?;
        return Some(replaced(*group, record, *most, *least));
    }
    rebalance_primaries(placed, &loads)
}

fn rebalance_primaries(placed: &Placed, loads: &BTreeMap<ServerId, usize>) -> Option<NewHome> {
    let mut led: BTreeMap<ServerId, usize> = loads.keys().map(|server| (*server, 0)).collect();
    for record in placed.groups.values() {
        if let Some(count) = record.home.first().and_then(|first| led.get_mut(first)) {
            *count += 1;
        }
    }
    placed.groups.iter().find_map(|(group, record)| {
        let first = record.home.first()?;
        let own = *led.get(first)?;
        let better = |at: &usize| led.get(&record.home[*at]).is_some_and(|n| n + 2 <= own);
        let at = (1..record.home.len()).find(better)?;
        let mut home = record.home.clone();
        home.swap(0, at);
        Some(NewHome {
            group: *group,
            expect: record.home.clone(),
            home,
        })
    })
}

/// Groups wanted on each server that may hold some.
fn loads(placed: &Placed, conditions: &Conditions) -> BTreeMap<ServerId, usize> {
    let takes = |server: &ServerId| conditions.get(server).is_some_and(Condition::takes_groups);
    let mut loads: BTreeMap<ServerId, usize> = conditions
        .keys()
        .filter(|server| takes(server))
        .map(|server| (*server, 0))
        .collect();
    for server in placed.groups.values().flat_map(|record| &record.home) {
        if let Some(count) = loads.get_mut(server) {
            *count += 1;
        }
    }
    loads
}

/// Somebody is being brought up to date in it, or is on its leave.
fn is_moving(record: &GroupRecord) -> bool {
    record.config.joining().next().is_some() || record.config.members.len() > record.home.len()
}

/// A wanted server that the group is to leave: one that holds nothing of it first.
fn left_by(record: &GroupRecord, conditions: &Conditions) -> Option<ServerId> {
    let left = |server: &&ServerId| is_left(conditions, **server);
    let in_sync: BTreeSet<ServerId> = record.config.in_sync().map(|run| run.server).collect();
    let left = record.home.iter().filter(left);
    left.min_by_key(|server| in_sync.contains(server)).copied()
}

/// A wanted list changes only while its last epoch serves: whoever is not in-sync in it holds
/// nothing that counts. One that is in-sync is replaced when nobody else is on its leave.
fn may_move(record: &GroupRecord, from: ServerId) -> bool {
    let counts = record.config.in_sync().any(|run| run.server == from);
    let leaving = record.config.members.len() > record.home.len();
    record.is_effective() && record.config.primary.is_some() && !(counts && leaving)
}

/// The server that takes the place: one that has everything already, else one with room and few
/// groups; among equals the turn goes round with the group.
fn successor(
    group: GroupId,
    record: &GroupRecord,
    conditions: &Conditions,
    loads: &BTreeMap<ServerId, usize>,
) -> Option<ServerId> {
    let count = conditions.len().max(1) as u32;
    let in_sync: BTreeSet<ServerId> = record.config.in_sync().map(|run| run.server).collect();
    conditions
        .iter()
        .filter(|(server, condition)| condition.takes_groups() && !record.home.contains(server))
        .min_by_key(|(server, condition)| {
            (
                !in_sync.contains(server),
                !condition.roomy,
                loads.get(server).copied().unwrap_or(0),
                (server.0 + group.0) % count,
                **server,
            )
        })
        .map(|(server, _)| *server)
}

fn replaced(group: GroupId, record: &GroupRecord, from: ServerId, to: ServerId) -> NewHome {
    let put = |server: &ServerId| if *server == from { to } else { *server };
    NewHome {
        group,
        expect: record.home.clone(),
        home: record.home.iter().map(put).collect(),
    }
}
