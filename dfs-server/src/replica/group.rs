//! One replica group as this server sees it: its epoch, its own part in it, and what may
//! differ from the other members.

use super::equalise::Equaliser;
use super::join::Join;
use dfs_proto::cluster::{GroupConfig, MemberState};
use dfs_proto::ids::{ChunkKey, Epoch, Incarnation, ServerId, ServerRun, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How far the present epoch has come on this server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Stage {
    /// Known, older ones are refused already, but not durable yet.
    Adopting,
    Adopted,
    /// Logged by the directory: its members serve.
    Effective,
}

/// This run's part in the present epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Role {
    Primary,
    Backup,
    Joining,
    /// Not a member: its only part is to refuse.
    Stranger,
}

/// More chunks than this in doubt, and the member says that it cannot tell.
const MARKS_MAX: usize = 20_000;

/// Chunks that may differ between members since the last epoch that served (R3).
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Marks {
    /// Writes applied here that may not be on all in-sync members.
    uncommitted: BTreeMap<Version, ChunkKey>,
    /// Chunks replaced in an epoch that has not become effective since.
    touched: BTreeSet<ChunkKey>,
    /// False from the start of the process, and while joining, until an epoch that made this
    /// member equal was effective.
    pub(super) known: bool,
}

impl Marks {
    pub(super) fn wrote(&mut self, version: Version, key: ChunkKey) {
        self.uncommitted.insert(version, key);
    }

    pub(super) fn installed(&mut self, key: ChunkKey) {
        if self.known {
            self.touched.insert(key);
        }
    }

    /// Every write of the epoch up to the counter is on all in-sync members.
    pub(super) fn committed(&mut self, epoch: Epoch, counter: u64) {
        let bound = Version { epoch, counter };
        while let Some(entry) = self.uncommitted.first_entry() {
            // Older epochs' writes stay until an epoch is effective.
            if entry.key().epoch < epoch {
                self.forget_range(epoch, counter);
                return;
            }
            if *entry.key() > bound {
                return;
            }
            entry.remove();
        }
    }

    fn forget_range(&mut self, epoch: Epoch, counter: u64) {
        let low = Version { epoch, counter: 0 };
        let high = Version { epoch, counter };
        let gone: Vec<Version> = self
            .uncommitted
            .range(low..=high)
            .map(|(v, _)| *v)
            .collect();
        for version in gone {
            self.uncommitted.remove(&version);
        }
    }

    /// All members were made equal in this epoch before anything of it was written.
    pub(super) fn equalised(&mut self, epoch: Epoch) {
        self.uncommitted.retain(|version, _| version.epoch >= epoch);
        self.touched.clear();
        self.known = true;
    }

    /// Forgets the writes of older epochs than this one.
    pub(super) fn forget_before(&mut self, epoch: Epoch) {
        self.uncommitted.retain(|version, _| version.epoch >= epoch);
        self.touched.clear();
    }

    /// A joining member was brought up to date: what it received is what the others hold.
    pub(super) fn caught_up(&mut self) {
        self.touched.clear();
        self.known = true;
    }

    pub(super) fn too_many(&self) -> bool {
        self.uncommitted.len() + self.touched.len() > MARKS_MAX
    }

    pub(super) fn chunks(&self) -> BTreeSet<ChunkKey> {
        self.uncommitted
            .values()
            .chain(self.touched.iter())
            .copied()
            .collect()
    }
}

/// A replica group on this server.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) config: GroupConfig,
    pub(super) stage: Stage,
    /// The latest epoch that is on disk.
    pub(super) durable: Epoch,
    pub(super) role: Role,
    /// Changes of chunks that the disk is busy with: an adoption waits for them.
    pub(super) busy: u32,
    pub(super) marks: Marks,

    /// Primary: the counter of the last version given out, and those not on all members yet.
    pub(super) counter: u64,
    pub(super) outstanding: BTreeSet<u64>,
    /// Primary: the watermark that the members were told last, and when.
    pub(super) told: u64,
    pub(super) told_at: Duration,
    /// Primary: this epoch has been equalised.
    pub(super) equalised: bool,
    pub(super) equaliser: Option<Box<Equaliser>>,
    pub(super) joins: BTreeMap<ServerId, Join>,
    /// When a member was reported last in this epoch.
    pub(super) suspected: BTreeMap<ServerId, Duration>,
    /// Until when a member counts as full.
    pub(super) low_until: BTreeMap<ServerId, Duration>,
}

impl Group {
    /// A group of which only the durable config of an earlier run is known.
    pub(super) fn remembered(config: GroupConfig) -> Self {
        let epoch = config.epoch;
        Self {
            config,
            stage: Stage::Adopted,
            durable: epoch,
            role: Role::Stranger,
            busy: 0,
            marks: Marks::default(),
            counter: 0,
            outstanding: BTreeSet::new(),
            told: 0,
            told_at: Duration::ZERO,
            equalised: false,
            equaliser: None,
            joins: BTreeMap::new(),
            suspected: BTreeMap::new(),
            low_until: BTreeMap::new(),
        }
    }

    /// Enters a later epoch: everything of the present one is over, except what may differ.
    pub(super) fn enter(&mut self, config: GroupConfig, me: Incarnation) {
        self.role = role_in(&config, me);
        self.config = config;
        self.stage = Stage::Adopting;
        self.counter = 0;
        self.told = 0;
        self.equalised = false;
        self.outstanding.clear();
        self.equaliser = None;
        self.joins.clear();
        self.suspected.clear();
        self.low_until.clear();
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.config.epoch
    }

    pub(super) fn primary(&self) -> Option<ServerRun> {
        let primary = self.config.primary?;
        self.config.member(primary).map(|m| m.run)
    }

    /// In-sync members other than this run.
    pub(super) fn others(&self, me: Incarnation) -> Vec<ServerRun> {
        self.config
            .in_sync()
            .filter(|run| run.incarnation != me)
            .collect()
    }

    pub(super) fn is_in_sync(&self) -> bool {
        matches!(self.role, Role::Primary | Role::Backup)
    }

    /// Every write up to this counter is on all in-sync members (primary).
    pub(super) fn committed(&self) -> u64 {
        match self.outstanding.first() {
            Some(first) => first - 1,
            None => self.counter,
        }
    }
}

pub(super) fn role_in(config: &GroupConfig, me: Incarnation) -> Role {
    let Some(member) = config.members.iter().find(|m| m.run.incarnation == me) else {
        return Role::Stranger;
    };
    match member.state {
        MemberState::InSync if config.primary == Some(member.run.server) => Role::Primary,
        MemberState::InSync => Role::Backup,
        MemberState::Joining => Role::Joining,
        MemberState::Offline | MemberState::LastServing => Role::Stranger,
    }
}
