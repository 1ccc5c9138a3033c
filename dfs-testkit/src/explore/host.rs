//! A file server: the replica core of its present run, and its disk.

use super::digest::{Mix, digest};
use super::disk::Disk;
use super::options::{Options, Rule};
use dfs_proto::ids::{Incarnation, ServerId, ServerRun};
use dfs_server::replica::ReplicaCore;
use std::hash::Hasher;
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) server: ServerId,
    /// Runs so far.
    life: u8,
    /// `None`: it is down.
    pub(super) core: Option<ReplicaCore>,
    pub(super) disk: Disk,
    /// Its last stop lost what was not synced, and it has not been in-sync in an epoch that
    /// served since.
    pub(super) lost: bool,
    /// Goes on with every tick, far enough for everything that waits for one. Not a part of
    /// the digest.
    pub(super) clock: Duration,
    /// Of the fields above.
    pub(super) digest: u64,
}

impl Host {
    pub(super) fn new(server: ServerId, options: &Options) -> Self {
        let mut host = Self {
            server,
            life: 0,
            core: None,
            disk: Disk::default(),
            lost: false,
            clock: Duration::ZERO,
            digest: 0,
        };
        host.start(options);
        host
    }

    /// A process begins with what is on disk.
    pub(super) fn start(&mut self, options: &Options) {
        if self.life == 0 || options.rule != Rule::EpochsNameServers {
            self.life += 1;
        }
        let configs = self.disk.config.iter().cloned().collect();
        let fenced = self.disk.fenced.iter().copied().collect();
        let mut core = ReplicaCore::new(self.run().incarnation, configs, fenced);
        (options.plant)(&mut core);
        self.core = Some(core);
    }

    pub(super) fn run(&self) -> ServerRun {
        ServerRun {
            server: self.server,
            incarnation: Incarnation(u64::from(self.server.0) * 100 + u64::from(self.life)),
        }
    }

    pub(super) fn refresh(&mut self) {
        let mut mix = Mix::default();
        mix.write_u8(self.life);
        mix.write_u8(u8::from(self.lost));
        mix.write_u64(digest(&self.disk));
        match &self.core {
            Some(core) => core.fingerprint(&mut mix),
            None => mix.write_u8(0),
        }
        self.digest = mix.finish();
    }
}
