//! Slow members: out while others suffice, back after a growing pause, never missed.

use super::world::World;
use crate::governor::Event;
use dfs_proto::ids::ServerId;
use dfs_proto::msg::registry::ReportSlow;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// Every primary finds server 2 slow, also itself.
    fn all_find_slow(&mut self) {
        let slow = self.servers[&ServerId(2)].run;
        let all: Vec<_> = self.servers.values().map(|s| s.run).collect();
        for from in all {
            self.event(Event::Slow(ReportSlow {
                from,
                slow,
                mean_millis: 400,
                others_millis: 2,
            }));
        }
    }

    /// Whether server 2 takes part in any group, in-sync or joining.
    fn has_slow_one(&self) -> bool {
        let slow = self.servers[&ServerId(2)].run;
        self.placed().groups.values().any(|record| {
            let config = &record.config;
            config
                .in_sync()
                .chain(config.joining())
                .any(|run| run == slow)
        })
    }
}

#[test]
fn a_slow_member_leaves_and_its_pauses_grow() {
    let mut world = World::started(3, 8, 3);
    for pause in [30, 60, 120] {
        world.all_find_slow();
        world.run_until("it has left", |w| {
            !w.has_slow_one() && w.serves_with(&[1, 3])
        });
        // Said again by whoever comes late: the same pause.
        world.all_find_slow();
        world.run_for(SECOND * (pause - 2));
        assert!(!world.has_slow_one(), "taken back within {pause} s");
        world.run_until("it is taken back", |w| w.serves_with(&[1, 2, 3]));
    }
    // Long forgiven.
    world.run_for(SECOND * 2_000);
    world.all_find_slow();
    world.run_until("it has left", |w| w.serves_with(&[1, 3]));
    world.run_for(SECOND * 40);
    world.run_until("it is taken back", |w| w.serves_with(&[1, 2, 3]));
}

#[test]
fn who_cannot_be_spared_stays() {
    let mut world = World::started(3, 8, 3);
    world.kill(3);
    world.run_until("one is dead", |w| w.serves_with(&[1, 2]));
    world.all_find_slow();
    world.run_for(SECOND * 5);
    assert!(world.serves_with(&[1, 2]), "writes would wait");
}

#[test]
fn a_slow_member_is_better_than_none() {
    let mut world = World::started(3, 8, 3);
    world.all_find_slow();
    world.run_until("it has left", |w| w.serves_with(&[1, 3]));
    world.kill(3);
    world.run_until("it is back at once", |w| w.serves_with(&[1, 2]));
}
