//! The raft thread: opens the member's files, runs openraft, closes everything.

use super::batcher;
use super::candidacy::Candidacy;
use super::election::{Contacts, Election, VOTER_PATIENCE};
use super::hand_over::{HandOver, Proposing};
use super::handle::{Inner, Live, RaftHandle, StoreSlot};
use super::log_store::LogStore;
use super::network::Peers;
use super::reader::{self, Confirmer};
use super::state_machine::StateMachine;
use super::status::RaftStatus;
use super::types::{Raft, log_id};
use super::{RaftOptions, StartError, desk, hand_over, keeper, membership};
use crate::state::level;
use crate::storage::identity::Stage;
use crate::storage::log::{Log, Vote};
use crate::storage::{DataDir, Store};
use dfs_proto::ids::MemberId;
use openraft::error::Fatal;
use openraft::{BasicNode, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// openraft also uses it as the deadline of an append to another member: a flush there may take
/// most of it.
const HEARTBEAT_MS: u64 = 100;
/// A leader that a majority has not answered for so long probably has a successor: the others
/// elect one after 0.7 to 1.2 s of silence. More than that, since an answer may wait for slow disks;
/// less than the successor takes to give file servers up that stay with the old leader.
const OUT_OF_TOUCH_MS: u64 = 1_500;
/// Deadline of one piece of a snapshot at its receiver; the last one is installed within it.
const SNAPSHOT_PIECE_MS: u64 = 30_000;
const SNAPSHOT_PIECE_BYTES: u64 = 1 << 20;
/// Entries kept behind a snapshot, for members that are a little late.
const LATE_ENTRIES: u64 = 1000;

/// What a handle keeps of the thread. When the last handle goes, the member shuts down.
#[derive(Debug)]
pub(super) struct Core {
    stop: mpsc::Sender<()>,
    done: watch::Receiver<bool>,
}

impl Core {
    pub(super) async fn shutdown(&self) {
        // Full: somebody has asked already. Closed: it has stopped.
        let _ = self.stop.try_send(());
        let mut done = self.done.clone();
        // An error means that the thread is gone.
        let _ = done.wait_for(|done| *done).await;
    }
}

pub(super) async fn start(options: RaftOptions) -> Result<RaftHandle, StartError> {
    let (started, handle) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("raft-files")
        .build()
        .map_err(StartError::Thread)?;
    thread::Builder::new()
        .name("raft".to_owned())
        .spawn(move || runtime.block_on(run(options, started)))
        .map_err(StartError::Thread)?;
    handle.await.unwrap_or_else(|_| {
        Err(StartError::Raft(
            "the raft thread ended at its start".to_owned(),
        ))
    })
}

async fn run(options: RaftOptions, started: oneshot::Sender<Result<RaftHandle, StartError>>) {
    let (stop, mut stopping) = mpsc::channel(1);
    let (done, is_done) = watch::channel(false);
    let member = match Member::open(options).await {
        Ok(member) => member,
        Err(e) => {
            let _ = started.send(Err(e));
            return;
        }
    };
    let core = Core {
        stop,
        done: is_done,
    };
    let (member, handle) = member.serve(core);
    if started.send(Ok(handle)).is_ok() {
        // `None`: the last handle is gone.
        let _ = stopping.recv().await;
    }
    member.close().await;
    let _ = done.send(true);
}

/// A member with its files open.
struct Member {
    raft: Raft,
    peers: Peers,
    log: LogStore,
    machine: StateMachine,
    store: StoreSlot,
    alone: Arc<AtomicBool>,
    contacts: Contacts,
    id: MemberId,
    log_bytes_max: u64,
    supports: u16,
    /// Unlocked at the very end.
    data: DataDir,
}

/// A member whose tasks run.
struct Serving {
    member: Member,
    tasks: JoinSet<()>,
}

impl Member {
    async fn open(options: RaftOptions) -> Result<Self, StartError> {
        let RaftOptions {
            mut data,
            address,
            identity,
            segment_bytes,
            log_bytes_max,
            supports,
        } = options;
        let id = data.identity().member;
        let (log, store) = open_files(&data, segment_bytes)?;
        let pristine = log.vote().is_none() && log.last().is_none();
        let purged = log.purged().map(log_id);
        let store = Arc::new(store);
        let machine = StateMachine::open(Arc::clone(&store), data.path(), id.0, purged, supports)?;
        let level = level::of_cluster(&store.read()?)?;
        if let Some(why) = level::refusal(level, supports) {
            return Err(StartError::Level(why));
        }
        check_together(&data, &log, &machine, pristine)?;

        let alone = Arc::new(AtomicBool::new(false));
        let log = LogStore::new(log, id.0, Arc::clone(&alone));
        let contacts = Contacts::begin();
        let peers = Peers::new(id.0, identity, contacts.clone());
        let raft = Raft::new(id.0, config()?, peers.clone(), log.clone(), machine.clone())
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        machine.set_running();
        let founds = pristine && data.identity().stage == Stage::Founding;
        if founds {
            let members = BTreeMap::from([(id.0, BasicNode::new(address))]);
            raft.initialize(members)
                .await
                .map_err(|e| StartError::Raft(e.to_string()))?;
        }
        // A joining member has no log before the others have called it.
        if data.identity().stage != Stage::Joining || !pristine {
            data.founded()?;
        }
        let only_voter = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            metrics
                .membership_config
                .membership()
                .voter_ids()
                .eq([id.0])
        };
        alone.store(only_voter, Ordering::SeqCst);
        if only_voter && !founds {
            // Nobody else can lead: there is nothing to wait for. (A founder is elected as it
            // founds.)
            let elected = raft.trigger().elect().await;
            elected.map_err(|e| StartError::Raft(e.to_string()))?;
        }
        Ok(Self {
            raft,
            peers,
            log,
            machine,
            store: Arc::new(RwLock::new(Some(store))),
            alone,
            contacts,
            id,
            log_bytes_max,
            supports,
            data,
        })
    }

    fn serve(self, core: Core) -> (Serving, RaftHandle) {
        let (status, statuses) = watch::channel(RaftStatus {
            member: self.id,
            ..RaftStatus::default()
        });
        let (proposals, batcher) = batcher::new(statuses.clone());
        let (confirmations, confirmer) = reader::new(
            Arc::clone(&self.alone),
            statuses.clone(),
            self.contacts.clone(),
        );
        let (calls, called) = desk::new();
        let (orders, ordered) = mpsc::channel(1);
        let proposing = Proposing::default();
        let election = Election {
            raft: self.raft.clone(),
            log: self.log.clone(),
            peers: self.peers.clone(),
            contacts: self.contacts.clone(),
            candidacy: Arc::new(Mutex::new(Candidacy::of(self.id.0))),
            abstains: Arc::default(),
        };
        let mut tasks = self.spawn_tasks(status, confirmer);
        tasks.spawn(batcher.run(self.raft.clone(), proposing.clone()));
        tasks.spawn(election.clone().run());
        tasks.spawn(desk::run(election.clone(), self.id, called));
        tasks.spawn(membership::run(
            self.raft.clone(),
            Arc::clone(&self.store),
            proposing.clone(),
            proposals.clone(),
        ));
        let hand_over = HandOver {
            raft: self.raft.clone(),
            peers: self.peers.clone(),
            proposing,
            status: statuses.clone(),
            abstains: election.abstains,
        };
        tasks.spawn(hand_over.run(ordered));
        let live = Live {
            raft: self.raft.clone(),
            calls,
            proposals,
            confirmations,
            store: Arc::clone(&self.store),
            progress: Arc::clone(&self.machine.progress),
            status: statuses,
            orders,
            supports: self.supports,
            core,
        };
        let serving = Serving {
            member: self,
            tasks,
        };
        (serving, RaftHandle(Inner::Live(Arc::new(live))))
    }

    fn spawn_tasks(&self, status: watch::Sender<RaftStatus>, confirmer: Confirmer) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(self.raft.clone(), status, self.contacts.clone()));
        tasks.spawn(confirmer.run(self.raft.clone()));
        tasks.spawn(keeper::run(
            self.raft.clone(),
            self.log.clone(),
            self.machine.clone(),
            self.log_bytes_max,
        ));
        tasks
    }
}

impl Serving {
    async fn close(self) {
        let Self { member, mut tasks } = self;
        // What openraft has taken in is finished; who still waits hears that it stopped.
        if let Err(e) = member.raft.shutdown().await {
            log::error!("raft did not end cleanly: {e}");
        }
        tasks.shutdown().await;
        if let Err(e) = member.machine.checkpoint().await {
            log::error!("the state tables can't be flushed: {e}; the log holds what they lack");
        }
        if let Err(e) = member.log.close() {
            log::error!("the log can't be closed cleanly: {e}");
        }
        member
            .store
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Member {
            raft,
            log,
            machine,
            data,
            ..
        } = member;
        drop((raft, log, machine));
        drop(data);
    }
}

fn config() -> Result<Arc<openraft::Config>, StartError> {
    let patience = u64::try_from(VOTER_PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: "dfs".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        // Of these the longer one is the voters' patience; who stands when is `election`'s.
        enable_elect: false,
        election_timeout_min: patience / 2,
        election_timeout_max: patience,
        install_snapshot_timeout: SNAPSHOT_PIECE_MS,
        snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
        // The keeper says when, by size.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: LATE_ENTRIES,
        // A member that the log can still serve is not sent a snapshot.
        replication_lag_threshold: u64::MAX,
        ..openraft::Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|e| StartError::Raft(e.to_string()))
}

fn open_files(data: &DataDir, segment_bytes: u64) -> Result<(Log, Store), StartError> {
    let mut log = Log::open_with(&data.path().join("raft"), segment_bytes)?;
    // A leader that restarts begins a new reign, with a new term: what its last one kept in
    // memory is gone. Claiming less than was won is always safe.
    if let Some(vote) = log.vote()
        && vote.committed
        && vote.member == data.identity().member.0
    {
        log.save_vote(Vote {
            committed: false,
            ..vote
        })?;
    }
    let store = Store::open(&data.path().join(crate::storage::tables::FILE_NAME))?;
    Ok((log, store))
}

/// Refuses a data dir of which a part is missing or older than the rest.
fn check_together(
    data: &DataDir,
    log: &Log,
    machine: &StateMachine,
    pristine: bool,
) -> Result<(), StartError> {
    if pristine && data.identity().stage == Stage::Founded {
        return Err(StartError::Inconsistent("the log is gone".to_owned()));
    }
    let applied = machine.last_applied()?;
    if let Some(purged) = log.purged()
        && applied.is_none_or(|id| id.index < purged.index)
    {
        return Err(StartError::Inconsistent(format!(
            "the log begins behind entry {}, the state tables end before it",
            purged.index
        )));
    }
    let end = log.last().map(log_id);
    if data.identity().stage == Stage::Founded && applied > end {
        return Err(StartError::Inconsistent(
            "the state tables are ahead of the log".to_owned(),
        ));
    }
    Ok(())
}

/// Keeps the status up to date with what openraft reports.
///
/// openraft's leader does not notice by itself that nobody follows it any more. A leader that a
/// majority has not answered for as long as an election takes leads no more: whoever talks to it
/// is to look for another one. Should there be none, it begins a new reign when a majority is
/// back: what it kept in memory is gone.
async fn follow(raft: Raft, status: watch::Sender<RaftStatus>, contacts: Contacts) {
    let mut metrics = raft.metrics();
    let mut out_of_touch = None;
    loop {
        let (mut next, again) = {
            let metrics = metrics.borrow_and_update();
            let leads = metrics.state == ServerState::Leader;
            let silence = metrics.millis_since_quorum_ack.filter(|_| leads);
            let others = metrics.membership_config.membership().voter_ids().count() > 1;
            let silent = others && silence.is_some_and(|ms| ms > OUT_OF_TOUCH_MS);
            if silent {
                out_of_touch = Some(metrics.current_term);
            }
            let out_of_touch = leads && out_of_touch == Some(metrics.current_term);
            let again = (out_of_touch && !silent).then_some(metrics.current_term);
            let member = MemberId(metrics.id);
            let ended = metrics.running_state.as_ref().err();
            let failed = ended
                .filter(|e| !matches!(e, Fatal::Stopped))
                .map(ToString::to_string);
            // Its first entry of this term is applied, and so is everything before it.
            let caught_up = metrics.last_applied.is_some_and(|last| {
                last.leader_id.term == metrics.current_term && last.leader_id.node_id == metrics.id
            });
            let leading = ended.is_none()
                && leads
                && !out_of_touch
                && metrics.current_leader == Some(metrics.id)
                && caught_up;
            let next = RaftStatus {
                member,
                term: metrics.current_term,
                leader: metrics.current_leader.map(MemberId),
                leading,
                applied: 0,
                life: if leading {
                    RaftStatus::life_of(metrics.current_term, member)
                } else {
                    0
                },
                led_until: None,
                failed,
            };
            (next, again)
        };
        status.send_if_modified(|present| {
            // Once for each reign, before it can prove anything itself.
            next.led_until = match next.leading {
                true if present.life == next.life => present.led_until,
                true => Some(contacts.led_until(next.term)),
                false => None,
            };
            let changed = *present != next;
            if changed {
                report(present, &next);
                *present = next;
            }
            changed
        });
        if let Some(term) = again
            && let Err(e) = hand_over::reign_anew(&raft, term).await
        {
            log::info!("a new reign was not begun: {e}");
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn report(before: &RaftStatus, now: &RaftStatus) {
    if let Some(why) = &now.failed {
        if before.failed.is_none() {
            log::error!("{} has stopped: {why}", now.member);
        }
    } else if now.leading != before.leading {
        let verb = if now.leading {
            "leads"
        } else {
            "no longer leads"
        };
        log::info!("{} {verb}, term {}", now.member, now.term);
    } else if now.leader != before.leader && !now.leading {
        match now.leader {
            Some(leader) if leader != now.member => log::info!("{} follows {leader}", now.member),
            _ => log::info!("{} knows no leader, term {}", now.member, now.term),
        }
    }
}
