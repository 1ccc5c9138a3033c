//! All groups at once: the new epochs that a set of events asks for, as one command.

use super::record::Placed;
use super::transition::{self, Event, Primaries, Servers};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::ids::{Epoch, GroupId};

/// For each group that changes, the epoch that the change relies on and the new one. The events
/// of a group are applied in order, at most one new epoch a group; every group is reviewed.
pub fn plan(
    placed: &Placed,
    events: &[(GroupId, Event)],
    servers: &Servers,
) -> Vec<(Epoch, GroupConfig)> {
    let mut primaries = Primaries::new();
    for record in placed.groups.values() {
        let alive = |s| servers.get(&s).is_some_and(|view| view.alive);
        if let Some(primary) = record.config.primary.filter(|p| alive(*p)) {
            *primaries.entry(primary).or_default() += 1;
        }
    }
    let mut changes = Vec::new();
    for (group, record) in &placed.groups {
        let own = events
            .iter()
            .filter(|(g, _)| g == group)
            .map(|(_, event)| *event);
        let new = own
            .chain([Event::Review])
            .find_map(|event| transition::next(record, event, servers, &primaries));
        let Some(new) = new else { continue };
        if let Some(primary) = new.primary.filter(|p| record.config.primary != Some(*p)) {
            *primaries.entry(primary).or_default() += 1;
        }
        changes.push((record.config.epoch, new));
    }
    changes
}
