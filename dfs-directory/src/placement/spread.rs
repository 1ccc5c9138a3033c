//! Which servers a new group gets: members and primaries spread evenly.

use crate::namespace::Format;
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use std::collections::BTreeMap;

/// The first epoch of every group, over these servers; `None` while there are fewer than
/// `replicas` of them: the number is fixed at the format, and a group that began with less
/// would call data safe that are not.
pub fn first_epochs(format: &Format, servers: &[ServerRun]) -> Option<Vec<GroupConfig>> {
    let replicas = usize::from(format.replicas);
    if servers.len() < replicas || replicas == 0 {
        return None;
    }
    let mut memberships: BTreeMap<ServerId, u32> = BTreeMap::new();
    let mut primaries: BTreeMap<ServerId, u32> = BTreeMap::new();
    let count =
        |of: &BTreeMap<ServerId, u32>, run: &ServerRun| of.get(&run.server).copied().unwrap_or(0);
    let configs = (0..format.groups)
        .map(|group| {
            // Among equals the turn goes round with the group, so that not the same servers
            // always meet: then a dead one's work falls to all others.
            let mut order: Vec<ServerRun> = servers.to_vec();
            order.rotate_left(group as usize % servers.len());
            order.sort_by_key(|run| count(&memberships, run));
            order.truncate(replicas);
            order.sort_by_key(|run| count(&primaries, run));
            for run in &order {
                *memberships.entry(run.server).or_default() += 1;
            }
            let primary = order.first().map(|run| run.server);
            if let Some(primary) = primary {
                *primaries.entry(primary).or_default() += 1;
            }
            GroupConfig {
                group: GroupId(group),
                epoch: Epoch(0).next(),
                primary,
                members: order
                    .into_iter()
                    .map(|run| GroupMember {
                        run,
                        state: MemberState::InSync,
                    })
                    .collect(),
                min_in_sync: format.min_in_sync,
                equalise: Equalise::Marked,
            }
        })
        .collect();
    Some(configs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ClusterId, Incarnation};
    use proptest::prelude::*;

    fn runs(count: u32) -> Vec<ServerRun> {
        (1..=count)
            .map(|server| ServerRun {
                server: ServerId(server),
                incarnation: Incarnation(7),
            })
            .collect()
    }

    fn format(replicas: u8, groups: u32) -> Format {
        Format {
            replicas,
            groups,
            ..Format::defaults(ClusterId(1))
        }
    }

    #[test]
    fn too_few_servers_place_nothing() {
        assert_eq!(first_epochs(&format(3, 64), &runs(2)), None);
    }

    proptest! {
        #[test]
        fn members_and_primaries_differ_by_little(
            servers in 1u32..8, replicas in 1u8..5, groups in 1u32..200,
        ) {
            prop_assume!(u32::from(replicas) <= servers);
            let configs = first_epochs(&format(replicas, groups), &runs(servers)).expect("enough");
            prop_assert_eq!(configs.len(), groups as usize);
            let mut members = vec![0u32; servers as usize + 1];
            let mut primaries = vec![0u32; servers as usize + 1];
            for config in &configs {
                let mut of: Vec<_> = config.members.iter().map(|m| m.run.server).collect();
                prop_assert_eq!(config.primary, of.first().copied());
                primaries[of[0].0 as usize] += 1;
                of.iter().for_each(|s| members[s.0 as usize] += 1);
                of.sort_unstable();
                of.dedup();
                prop_assert_eq!(of.len(), usize::from(replicas), "distinct servers");
            }
            let spread = |counts: &[u32]| {
                counts[1..].iter().max().copied().unwrap_or(0)
                    - counts[1..].iter().min().copied().unwrap_or(0)
            };
            prop_assert!(spread(&members) <= 1, "{members:?}");
            prop_assert!(spread(&primaries) <= 2, "{primaries:?}");
        }
    }
}
