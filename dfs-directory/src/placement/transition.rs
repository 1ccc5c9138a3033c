//! Which epoch a replica group gets next: a pure function of what it has, what happened, and
//! which servers are there. `docs/replication.md` holds its table; a test reads it.
//!
//! The rules, in the order in which they are applied:
//!
//! 1. The new in-sync set is a non-empty part of that of the last epoch that served, plus a
//!    joining member that the primary proposes. It names runs, so a restarted server is not in it.
//! 2. A suspicion takes a member out only while `min_in_sync` members remain or another joining
//!    member stands ready; a run that is gone for certain is out in any case.
//! 3. When none is left, nobody is promoted: the members that served last are *last serving*.
//!    Their servers alone bring the group back: one that has everything for certain after a short
//!    wait for the others, else all of them, or what is there after a long one.
//! 4. Every other wanted server that is there is joining, the rest are offline.
//! 5. An in-sync member that is not wanted any more (the group moves) counts like any other, and
//!    leaves when all wanted servers are in-sync. If it is out before, it does not come back,
//!    unless it is last serving.

use super::record::GroupRecord;
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::ids::{Epoch, Incarnation, ServerId, ServerRun};
use std::collections::BTreeMap;

/// A file server, as far as a decision needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerView {
    /// Its present run, or the last one.
    pub incarnation: Incarnation,
    pub alive: bool,
    /// Earlier runs of which the present one has everything: each run since stopped orderly.
    pub intact_since: Vec<Incarnation>,
    /// May be taken (back) as joining. Withheld for a while from a server that is alive but did
    /// not answer.
    pub may_join: bool,
}

/// All servers that ever registered.
pub type Servers = BTreeMap<ServerId, ServerView>;

/// How many groups each server is the primary of: a dead primary's groups are shared out by it.
pub type Primaries = BTreeMap<ServerId, u32>;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Servers came or went.
    Review,
    /// A run does not answer, or answers with errors, but gives signs of life.
    Suspect(ServerRun),
    /// A run must not be part of the group any longer, even below `min_in_sync` (writes then
    /// wait): it did not acknowledge a fence.
    Expel(ServerRun),
    /// The primary of the last epoch has brought a joining member up to date.
    Propose {
        from: ServerRun,
        epoch: Epoch,
        joined: ServerRun,
    },
    /// The members that served last had `RETURN_WAIT` to come back since the first of them did:
    /// one that has everything for certain is enough.
    ReturnWaitOver,
    /// They had long enough, or a person does not wait any more: what is there is to do.
    GoOn,
    /// All has been quiet for a while: the preferred primary may lead again.
    Rebalance,
}

/// The group's next epoch, or `None` if it stays as it is.
pub fn next(
    record: &GroupRecord,
    event: Event,
    servers: &Servers,
    primaries: &Primaries,
) -> Option<GroupConfig> {
    let group = Group { record, servers };
    let mut in_sync = group.kept();
    let mut equalise = group.inherited_equalise();
    match event {
        Event::Suspect(run) => group.vote_out(&mut in_sync, run, false),
        Event::Expel(run) => group.vote_out(&mut in_sync, run, true),
        Event::Propose {
            from,
            epoch,
            joined,
        } => {
            if group.may_promote(from, epoch, joined) && !in_sync.contains(&joined) {
                in_sync.push(joined);
            }
        }
        Event::Review | Event::ReturnWaitOver | Event::GoOn | Event::Rebalance => {}
    }
    if record.config.primary.is_none() {
        (in_sync, equalise) = group.returned(event, equalise)?;
    } else if in_sync.is_empty() {
        // The last epoch never served, so those of the one before it that are still there hold
        // every acknowledged write, also when they were voted out wrongly since.
        in_sync = group.survivors();
    } else if equalise == Equalise::Everything && record.effective.is_some() {
        in_sync = group.with_latecomers(in_sync);
        if event != Event::GoOn && group.is_bereft(&in_sync) {
            in_sync.clear();
        }
    }
    in_sync = group.without_leaving(in_sync);
    let primary = match event {
        Event::Rebalance => group.preferred(&in_sync),
        _ => None,
    };
    let primary = primary.or_else(|| group.primary(&in_sync, primaries));
    let members = group.members(&in_sync);
    let present = &record.config;
    if primary == present.primary && members == present.members {
        return None;
    }
    Some(GroupConfig {
        group: present.group,
        epoch: present.epoch.next(),
        primary,
        members,
        min_in_sync: present.min_in_sync,
        equalise,
    })
}

/// The servers whose return a group without a primary waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Awaited {
    /// Those that are back.
    pub back: Vec<ServerId>,
    pub missing: Vec<ServerId>,
    /// One of those that are back has everything for certain.
    pub complete: bool,
}

/// Whose return a group waits for; `None` if it has a primary.
pub fn awaited(record: &GroupRecord, servers: &Servers) -> Option<Awaited> {
    if record.config.primary.is_some() {
        return None;
    }
    let group = Group { record, servers };
    let base = group.last_served_by();
    let (back, missing): (Vec<ServerId>, Vec<ServerId>) = base
        .iter()
        .map(|run| run.server)
        .partition(|server| group.present(*server).is_some());
    let mut present = back.iter().filter_map(|server| group.present(*server));
    let complete = present.any(|run| group.is_complete(run));
    Some(Awaited {
        back,
        missing,
        complete,
    })
}

struct Group<'a> {
    record: &'a GroupRecord,
    servers: &'a Servers,
}

impl Group<'_> {
    /// The runs that hold every acknowledged write: the in-sync set of the last epoch that
    /// served, without servers whose data dir is not the one of then. Before the first one
    /// nothing was written, so every member counts.
    fn last_served_by(&self) -> Vec<ServerRun> {
        match &self.record.effective {
            Some(effective) => effective
                .in_sync()
                .filter(|run| !self.record.lost.contains(&run.server))
                .collect(),
            None => self.record.config.members.iter().map(|m| m.run).collect(),
        }
    }

    /// A server's present run, if it is alive.
    fn present(&self, server: ServerId) -> Option<ServerRun> {
        let view = self.servers.get(&server).filter(|view| view.alive)?;
        Some(ServerRun {
            server,
            incarnation: view.incarnation,
        })
    }

    fn is_alive(&self, run: ServerRun) -> bool {
        self.present(run.server) == Some(run)
    }

    /// In-sync members of the last epoch that are still there.
    fn kept(&self) -> Vec<ServerRun> {
        let config = &self.record.config;
        let kept = config.in_sync().filter(|run| self.is_alive(*run));
        self.vouched(kept.collect())
    }

    /// A member that was promoted into an epoch that did not serve yet stands on the word of its
    /// primary: without that run in the set it goes back to joining.
    fn vouched(&self, mut set: Vec<ServerRun>) -> Vec<ServerRun> {
        let primary_in = set
            .iter()
            .any(|run| Some(run.server) == self.record.config.primary);
        if !self.record.is_effective() && !primary_in {
            let base = self.last_served_by();
            set.retain(|run| base.iter().any(|b| b.server == run.server));
        }
        set
    }

    /// Members of the last epoch that served whose runs are still there.
    fn survivors(&self) -> Vec<ServerRun> {
        let mut base = self.last_served_by();
        base.retain(|run| self.is_alive(*run));
        base
    }

    /// A comparison of everything that did not come to its end is owed by the next epoch too.
    fn inherited_equalise(&self) -> Equalise {
        if self.record.is_effective() {
            Equalise::Marked
        } else {
            self.record.config.equalise
        }
    }

    fn vote_out(&self, in_sync: &mut Vec<ServerRun>, run: ServerRun, certain: bool) {
        let config = &self.record.config;
        // Who is compared after an end of all members may be the only one that lost nothing.
        if self.inherited_equalise() == Equalise::Everything {
            return;
        }
        let rest = in_sync.iter().copied().filter(|member| *member != run);
        let rest = self.vouched(rest.collect());
        let ready = |joining: ServerRun| joining != run && self.is_alive(joining);
        let enough = rest.len() >= usize::from(config.min_in_sync) || config.joining().any(ready);
        if !rest.is_empty() && (certain || enough) {
            *in_sync = rest;
        }
    }

    fn may_promote(&self, from: ServerRun, epoch: Epoch, joined: ServerRun) -> bool {
        let config = &self.record.config;
        epoch == config.epoch
            && self.record.is_effective()
            && config.primary == Some(from.server)
            && config.in_sync().any(|run| run == from)
            && self.is_alive(from)
            && config.joining().any(|run| run == joined)
            && self.is_alive(joined)
    }

    /// Nobody serves: the set with which the servers that served last begin anew.
    ///
    /// An acknowledged write is on all of them, so one that has everything is enough. One that
    /// was stopped without order may have lost what it had not synced: if there are only such
    /// ones, another one of which nothing was heard yet may be cut off and have it all.
    fn returned(&self, event: Event, owed: Equalise) -> Option<(Vec<ServerRun>, Equalise)> {
        let base = self.last_served_by();
        let back: Vec<_> = base
            .iter()
            .filter_map(|run| self.present(run.server))
            .collect();
        let enough = match event {
            Event::GoOn => true,
            Event::ReturnWaitOver => back.iter().any(|run| self.is_complete(*run)),
            _ => false,
        };
        if back.is_empty() || (back.len() < base.len() && !enough) {
            return None;
        }
        // Runs that never stopped lost nothing and know their marks; runs after a clean stop
        // lost nothing; if there is neither, the highest version of each chunk counts.
        let unbroken: Vec<_> = back
            .iter()
            .copied()
            .filter(|run| base.contains(run))
            .collect();
        if !unbroken.is_empty() {
            return Some((unbroken, owed));
        }
        let clean: Vec<_> = back
            .iter()
            .copied()
            .filter(|run| self.is_intact(*run))
            .collect();
        let set = if clean.is_empty() { back } else { clean };
        Some((set, Equalise::Everything))
    }

    /// A comparison of everything has begun and others that served last came back: they count
    /// too, since the epoch never served. As at its beginning, who may have lost something only
    /// where nobody has it all.
    fn with_latecomers(&self, mut in_sync: Vec<ServerRun>) -> Vec<ServerRun> {
        let all = in_sync.iter().any(|run| self.is_intact(*run));
        for base in self.last_served_by() {
            let Some(run) = self.present(base.server) else {
                continue;
            };
            if !in_sync.contains(&run) && (!all || run == base || self.is_intact(run)) {
                in_sync.push(run);
            }
        }
        in_sync
    }

    /// Members that are not wanted any more are kept until all that are wanted are in-sync in an
    /// epoch that serves.
    fn without_leaving(&self, mut in_sync: Vec<ServerRun>) -> Vec<ServerRun> {
        let home = &self.record.home;
        let counts = |server: &ServerId| {
            let served = self.record.config.in_sync();
            let mut stays = served.filter(|run| in_sync.contains(run));
            stays.any(|run| run.server == *server)
        };
        if self.record.is_effective() && home.iter().all(counts) {
            in_sync.retain(|run| home.contains(&run.server));
        }
        in_sync
    }

    /// A comparison of everything has begun, and then members went away: those that are left may
    /// all have lost something, and nobody knows what became of the others.
    fn is_bereft(&self, in_sync: &[ServerRun]) -> bool {
        let shrunk = self
            .record
            .config
            .in_sync()
            .any(|run| !in_sync.contains(&run));
        let complete = in_sync.iter().any(|run| self.is_complete(*run));
        let all = self
            .last_served_by()
            .iter()
            .all(|base| in_sync.iter().any(|run| run.server == base.server));
        shrunk && !complete && !all
    }

    /// Whether a run has every acknowledged write for certain. Before the first epoch has served
    /// there is none.
    fn is_complete(&self, run: ServerRun) -> bool {
        self.record.effective.is_none() || self.is_intact(run)
    }

    /// Whether a run has everything that its server had when the group served last.
    fn is_intact(&self, run: ServerRun) -> bool {
        let base = self
            .last_served_by()
            .into_iter()
            .find(|base| base.server == run.server);
        let (Some(base), Some(view)) = (base, self.servers.get(&run.server)) else {
            return false;
        };
        base == run || view.intact_since.contains(&base.incarnation)
    }

    /// The present primary while it is in-sync, else the member with the fewest other groups.
    fn primary(&self, in_sync: &[ServerRun], primaries: &Primaries) -> Option<ServerId> {
        let config = &self.record.config;
        let present = config
            .primary
            .filter(|p| in_sync.iter().any(|run| run.server == *p));
        if present.is_some() {
            return present;
        }
        let rank = |server: ServerId| self.record.home.iter().position(|s| *s == server);
        in_sync
            .iter()
            .map(|run| run.server)
            .min_by_key(|s| (primaries.get(s).copied().unwrap_or(0), rank(*s)))
    }

    /// The first wanted member, if the group serves with all of them.
    fn preferred(&self, in_sync: &[ServerRun]) -> Option<ServerId> {
        let home = &self.record.home;
        let there = |server: &ServerId| in_sync.iter().any(|run| run.server == *server);
        let whole = self.record.is_effective() && home.iter().all(there);
        home.first().copied().filter(|_| whole)
    }

    fn members(&self, in_sync: &[ServerRun]) -> Vec<GroupMember> {
        let base = self.last_served_by();
        let state_of = |server: ServerId| {
            if let Some(run) = in_sync.iter().find(|run| run.server == server) {
                return (*run, MemberState::InSync);
            }
            let last = self.record.config.member(server).map(|m| m.run);
            let may_join = self.servers.get(&server).is_some_and(|view| view.may_join);
            let present = self
                .present(server)
                .filter(|_| may_join && !in_sync.is_empty());
            match present {
                Some(run) => (run, MemberState::Joining),
                None => {
                    let serving = in_sync.is_empty() && base.iter().any(|b| b.server == server);
                    let state = if serving {
                        MemberState::LastServing
                    } else {
                        MemberState::Offline
                    };
                    let unknown = ServerRun {
                        server,
                        incarnation: Incarnation::default(),
                    };
                    (last.unwrap_or(unknown), state)
                }
            }
        };
        // Besides the wanted ones: who counts although it is not wanted any more.
        let counting = if in_sync.is_empty() {
            &base[..]
        } else {
            in_sync
        };
        let home = &self.record.home;
        let leaving = counting
            .iter()
            .map(|run| run.server)
            .filter(|server| !home.contains(server));
        home.iter()
            .copied()
            .chain(leaving)
            .map(|server| {
                let (run, state) = state_of(server);
                GroupMember { run, state }
            })
            .collect()
    }
}
