//! What is explored, how far, and which rule is broken on purpose.

use dfs_server::replica::ReplicaCore;

/// A rule that is kept outside of the replica core, and can be left out. Those inside of it are
/// `dfs_server::replica::Planted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rule {
    /// All are kept.
    #[default]
    None,
    /// A read names the epoch of its lease's grant, though its mount has heard of a later one.
    ReadsNameTheGrantsEpoch,
    /// A mount reads while its own write is under way.
    ReadsOverlapOwnWrites,
    /// The caller's time is over, and the lease goes back with the write unresolved.
    LeaseBackUnresolved,
    /// An adoption is answered without being on disk.
    AdoptionNotDurable,
    /// Epochs name servers: a restarted one adopts what was meant for its former run.
    EpochsNameServers,
    /// A member that was restarted stays in-sync in the next epoch.
    RestartedStaysInSync,
    /// Whoever is alive is in-sync in the next epoch.
    NewSetFromAnybody,
    /// The next set is a part of that of the last effective epoch, whatever came between.
    NewSetFromLastEffective,
    /// After every change the highest version counts instead of the primary's.
    HighestVersionWins,
    /// Write records stay when their chunk is replaced.
    RecordsNotCopied,
    /// No write records at all.
    NoRecords,
    /// One write record a chunk instead of one for each session.
    RecordPerChunk,
    /// A session ends without being fenced.
    NoFence,
    /// An adoption does not carry the ended sessions.
    AdoptionWithoutFences,
    /// A disk makes every cut that it is asked for, whatever it holds by then.
    LateCuts,
    /// Nothing remembers up to which generation an inode was cut.
    NoFloors,
    /// A mount that has cut does not hear in which epochs that was made.
    CutsHideTheirEpoch,
    /// A cut has ended when every member has made it in some epoch.
    CutsOfAnyEpoch,
}

/// What may happen at most, beside losing, doubling and delaying every message.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub replicas: u8,
    /// The third member begins as joining, without the write that the others have.
    pub stale_joiner: bool,
    /// Epochs, the first one included.
    pub epochs: u8,
    /// Writes, by two mounts; that of a stale joiner's past included.
    pub writes: u8,
    /// Cuts by the holder of the lease: all that was written goes.
    pub cuts: u8,
    /// Servers that stop at once.
    pub crashes: u8,
    /// Of these, those that lose what was not synced.
    pub power_losses: u8,
    /// Sessions that the directory ends.
    pub session_ends: u8,
    /// Only what clients see counts, as if nothing else were known.
    pub clients_only: bool,
    pub rule: Rule,
    /// Called with each new replica core.
    pub plant: fn(&mut ReplicaCore),
    /// Messages to runs that are gone, or of epochs that are over, count: needed where a rule
    /// is left out that refuses them.
    pub old_messages_count: bool,
    /// What happened before, as traces say it: the beginning of each line is enough. Everything
    /// that can happen after it is explored, and counts.
    pub begin: &'static [&'static [&'static str]],
    /// Give up after so many states.
    pub states_max: usize,
    /// Print each depth.
    pub talks: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            replicas: 3,
            stale_joiner: false,
            epochs: 2,
            writes: 2,
            cuts: 0,
            crashes: 0,
            power_losses: 0,
            session_ends: 0,
            clients_only: false,
            rule: Rule::None,
            plant: |_| {},
            old_messages_count: false,
            begin: &[],
            states_max: 100_000_000,
            talks: false,
        }
    }
}
