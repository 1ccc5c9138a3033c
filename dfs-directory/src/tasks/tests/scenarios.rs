//! What happens to the groups of a small cluster.

use super::cluster::{Directory, Server, create_file, until};
use crate::namespace::NamespaceCommand;
use crate::state::Outcome;
use dfs_proto::cluster::{Equalise, MemberState};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Epoch, Generation, GroupId, ServerId};
use dfs_proto::msg::Request;
use dfs_proto::msg::control::{AdoptEpochs, CutInode, FenceSessions};
use dfs_proto::timing::RETURN_WAIT;
use std::collections::BTreeSet;
use std::time::Duration;

const GROUPS: u32 = 6;
const G: GroupId = GroupId(0);

async fn three() -> (Directory, Vec<Server>) {
    let directory = Directory::format(3, GROUPS).await;
    let mut servers = Vec::new();
    for node in 1..=3 {
        servers.push(Server::start(&directory, node, 1).await);
    }
    directory.serving_with(&[1, 2, 3]).await;
    (directory, servers)
}

#[tokio::test]
async fn groups_are_placed_when_enough_servers_are_there_and_shared_evenly() {
    let directory = Directory::format(3, GROUPS).await;
    let first = Server::start(&directory, 1, 1).await;
    assert_eq!(first.registered.groups, GROUPS);
    let _second = Server::start(&directory, 2, 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        directory
            .placement
            .map()
            .groups
            .iter()
            .all(|g| g.primary.is_none())
    );
    let _third = Server::start(&directory, 3, 1).await;
    let map = directory.serving_with(&[1, 2, 3]).await;
    for server in 1..=3 {
        let led = map
            .groups
            .iter()
            .filter(|g| g.primary == Some(ServerId(server)))
            .count();
        assert_eq!(led, GROUPS as usize / 3);
    }
    let config = first.told(G, Epoch(0)).await;
    assert_eq!(config.in_sync().count(), 3);
    assert_eq!(directory.placement.statfs().total_bytes, 3_000);
    assert_eq!(directory.placement.statfs().free_bytes, 1_500);
}

#[tokio::test]
async fn a_server_that_dies_is_replaced_at_once_and_comes_back_as_joining() {
    let (directory, servers) = three().await;
    let before = directory.placement.map();
    let begun = std::time::Instant::now();
    servers[0].kill();
    let map = directory.serving_with(&[2, 3]).await;
    // Two round trips and no timer: a second would mean that silence was waited for.
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(map.version > before.version);
    assert!(
        map.groups
            .iter()
            .all(|g| g.writable && g.epoch > before.groups[0].epoch)
    );
    assert!(!map.server(ServerId(1)).unwrap().alive);

    let back = Server::start(&directory, 1, 2).await;
    assert_eq!(back.run.server, ServerId(1), "a node keeps its server id");
    let config = back.told(G, Epoch(2)).await;
    assert_eq!(
        config.member(ServerId(1)).unwrap().state,
        MemberState::Joining
    );
    for primary in &servers[1..] {
        until("the joining member is known everywhere", || {
            let own = primary.behaviour();
            own.configs
                .values()
                .all(|c| c.joining().any(|r| r == back.run))
                .then_some(())
        })
        .await;
    }
    for primary in &servers[1..] {
        primary.propose_all(back.run).await.unwrap();
    }
    directory.serving_with(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_run_that_comes_back_on_a_new_connection_at_once_was_never_away() {
    let (directory, mut servers) = three().await;
    let before = directory.placement.map();
    let server = servers.remove(0).reconnect(&directory).await;
    server.told(G, Epoch(0)).await;
    // Ordered after whatever the end of the old connection caused.
    let _other = Server::start(&directory, 9, 1).await;
    let map = directory
        .map("the other", |map| map.server(ServerId(4)).is_some())
        .await;
    assert_eq!(map.groups, before.groups);
}

#[tokio::test]
async fn a_server_that_two_have_seen_go_leaves_its_groups_in_one_epoch() {
    let (directory, servers) = three().await;
    let before = directory.placement.map();
    servers[0].kill();
    until("its connection has ended", || {
        let view = directory.placement.view();
        (!view.links.contains_key(&ServerId(1))).then_some(())
    })
    .await;
    servers[1].suspect(servers[0].run).await;
    let map = directory.serving_with(&[2, 3]).await;
    for (group, old) in map.groups.iter().zip(&before.groups) {
        assert_eq!(group.epoch.0, old.epoch.0 + 1, "{:?}", group.group);
    }
    let config = servers[2].told(G, Epoch(1)).await;
    assert_eq!(config.joining().count(), 0, "nobody is asked to join");
}

#[tokio::test]
async fn a_silent_server_is_voted_out_and_told_to_register_again() {
    let (directory, servers) = three().await;
    servers[2].fall_silent();
    directory.serving_with(&[1, 2]).await;
}

#[tokio::test]
async fn suspicion_votes_out_only_down_to_the_least_number() {
    let (directory, servers) = three().await;
    let told = servers[0].told(G, Epoch(0)).await;
    servers[0].suspect(servers[1].run).await;
    directory.serving_with(&[1, 3]).await;
    servers[0].told(G, told.epoch).await;
    until("all groups are told", || {
        let own = servers[0].behaviour();
        own.configs
            .values()
            .all(|c| c.in_sync().count() == 2)
            .then_some(())
    })
    .await;
    // Server 2 is joining again, so it stands ready.
    servers[1].kill();
    directory
        .map("server 2 gone", |map| {
            map.server(ServerId(2)).is_some_and(|s| !s.alive)
        })
        .await;
    until("server 2 is offline in all groups", || {
        let own = servers[0].behaviour();
        own.configs
            .values()
            .all(|c| c.joining().count() == 0)
            .then_some(())
    })
    .await;
    servers[0].suspect(servers[2].run).await;
    // Ordered after the suspicion: the registration of another node.
    let _other = Server::start(&directory, 9, 1).await;
    directory.serving_with(&[1, 3]).await;
}

#[tokio::test]
async fn a_member_that_does_not_adopt_is_left_behind() {
    let (directory, servers) = three().await;
    servers[1].behaviour().deaf.insert(AdoptEpochs::METHOD);
    servers[2].kill();
    // With the dead one and the deaf one gone there would be fewer than `min_in_sync`: the deaf
    // one is waited for, and when it hears again the groups serve.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    assert!(
        directory
            .placement
            .map()
            .groups
            .iter()
            .all(|g| g.epoch == Epoch(1))
    );
    servers[1].behaviour().deaf.clear();
    directory.serving_with(&[1, 2]).await;
    let back = Server::start(&directory, 3, 2).await;
    back.told(G, Epoch(0)).await;
    // Now with a joining member that stands ready it is voted out.
    servers[1].behaviour().deaf.insert(AdoptEpochs::METHOD);
    servers[0].suspect(servers[1].run).await;
    directory.serving_with(&[1]).await;
}

#[tokio::test]
async fn when_all_die_only_those_that_served_last_bring_the_group_back() {
    let (directory, servers) = three().await;
    servers[0].kill();
    directory.serving_with(&[2, 3]).await;
    servers[1].kill();
    servers[2].kill();
    directory
        .map("nobody serves", |map| {
            map.groups.iter().all(|g| g.primary.is_none())
        })
        .await;
    let _stale = Server::start(&directory, 1, 2).await;
    // Killed, so it may lack what the other one has: that one is waited for.
    let back = Server::start(&directory, 2, 2).await;
    tokio::time::sleep(RETURN_WAIT + Duration::from_millis(300)).await;
    let map = directory.placement.map();
    assert!(map.groups.iter().all(|g| g.primary.is_none()), "{map:?}");
    let _other = Server::start(&directory, 3, 2).await;
    let map = directory.serving_with(&[2, 3]).await;
    assert!(map.groups.iter().all(|g| g.writable), "{map:?}");
    let config = back.told(G, Epoch(0)).await;
    assert_eq!(config.equalise, Equalise::Everything);
}

#[tokio::test]
async fn a_restarted_directory_goes_on_where_it_was() {
    let (directory, mut servers) = three().await;
    let before = directory.placement.map();
    let raft = directory.kill().await;
    let directory = Directory::start(raft).await;
    // Two come back at once, the third a little later: nobody is voted out.
    let third = servers.pop().unwrap();
    for server in servers.drain(..) {
        let server = server.reconnect(&directory).await;
        server.told(G, Epoch(0)).await;
        std::mem::forget(server);
    }
    let third = third.reconnect(&directory).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(*directory.placement.map(), *before, "nothing has changed");
    third.kill();
    directory.serving_with(&[1, 2]).await;
}

#[tokio::test]
async fn a_half_made_epoch_is_driven_on_after_a_restart() {
    let (directory, servers) = three().await;
    for server in &servers {
        server.behaviour().deaf.insert(AdoptEpochs::METHOD);
    }
    servers[0].kill();
    until("the new epoch is logged", || {
        let placed = directory
            .raft
            .read_local(crate::placement::Placed::load)
            .unwrap();
        placed
            .groups
            .values()
            .all(|g| g.config.epoch == Epoch(2))
            .then_some(())
    })
    .await;
    let raft = directory.kill().await;
    let directory = Directory::start(raft).await;
    let mut kept = Vec::new();
    for server in servers.into_iter().skip(1) {
        server.behaviour().deaf.clear();
        kept.push(server.reconnect(&directory).await);
    }
    let map = directory.serving_with(&[2, 3]).await;
    assert!(
        map.groups.iter().all(|g| g.epoch == Epoch(2)),
        "no further epoch was needed"
    );
}

#[tokio::test]
async fn a_cut_ends_when_every_member_of_every_group_made_it() {
    let (directory, servers) = three().await;
    let (_, inode) = create_file(&directory).await;
    servers[2].behaviour().deaf.insert(CutInode::METHOD);
    let Outcome::Namespace(settled) = directory
        .commit(NamespaceCommand::Settle { inode, end: 0 })
        .await
    else {
        panic!("a strange outcome");
    };
    let generation = settled.0.unwrap().cut.unwrap();
    let done = directory.placement.cut_done(inode, generation);
    tokio::pin!(done);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut done).await;
    assert!(early.is_err(), "one server has not answered");
    // It dies: the groups go on without it, and the cut ends.
    servers[2].kill();
    tokio::time::timeout(Duration::from_secs(20), done)
        .await
        .unwrap()
        .unwrap();
    for server in &servers[..2] {
        let cut: BTreeSet<GroupId> = server
            .behaviour()
            .cuts
            .iter()
            .flat_map(|cut| cut.groups.iter().map(|(group, _)| *group))
            .collect();
        assert_eq!(
            cut.len(),
            GROUPS as usize,
            "where a dead session wrote is not known"
        );
    }
    let left = directory
        .raft
        .read(crate::namespace::read::intent_count)
        .await;
    assert_eq!(left, Ok(0));
    // What has ended is not waited for.
    directory
        .placement
        .cut_done(inode, Generation(1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_fence_ends_when_all_in_sync_members_of_one_epoch_acknowledged() {
    let (directory, servers) = three().await;
    let (session, _) = create_file(&directory).await;
    servers[1].behaviour().deaf.insert(FenceSessions::METHOD);
    let fenced = directory.placement.fence(session);
    tokio::pin!(fenced);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut fenced).await;
    assert!(early.is_err(), "one server has not answered");
    assert!(servers[0].behaviour().fenced.contains(&session));
    // It gives signs of life and does not answer: it leaves its groups.
    tokio::time::timeout(Duration::from_secs(20), fenced)
        .await
        .unwrap()
        .unwrap();
    directory.serving_with(&[1, 3]).await;
}

#[tokio::test]
async fn who_does_not_lead_says_so() {
    let directory = Directory::format(1, 1).await;
    let server = Server::start(&directory, 1, 1).await;
    directory.serving_with(&[1]).await;
    directory.raft.set_leading(false);
    let (session, inode) = (dfs_proto::ids::SessionId(9), dfs_proto::ids::InodeId(9));
    let refused = directory.placement.fence(session).await.map_err(|e| e.code);
    assert_eq!(refused, Err(ErrorCode::NotLeader));
    let refused = directory
        .placement
        .cut_done(inode, Generation(1))
        .await
        .map_err(|e| e.code);
    assert_eq!(refused, Err(ErrorCode::NotLeader));
    directory.raft.set_leading(true);
    let server = server.reconnect(&directory).await;
    tokio::time::timeout(Duration::from_secs(20), directory.placement.fence(session))
        .await
        .unwrap()
        .unwrap();
    assert!(server.behaviour().fenced.contains(&session));
}
