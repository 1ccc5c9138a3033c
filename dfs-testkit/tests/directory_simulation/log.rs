//! The replicated log: a correct one, as openraft promises to be one, and no better.
//!
//! Three members. A term has one leader. A change is committed when a second member has it while
//! that is in no later term; then every later leader has it. A leader that has been deposed does not know it
//! until somebody tells it, and goes on believing; what it proposes then comes to nobody, and it can
//! prove its lead to nobody. What was on its way when the lead was lost may be committed or not:
//! its caller hears `Disconnected`. A member that leads serves when it has applied everything that was committed before.
//! Members lag, fall back to a checkpoint when they are killed, and get the state as a
//! snapshot when they are far behind.

use super::check::names::Commits;
use super::world::{Node, Planted, World, locked};
use dfs_directory::raft::{Pending, RaftStatus, SimulatedMember};
use dfs_directory::state::memory::MemoryTables;
use dfs_directory::state::tables::{Read, Table, Write};
use dfs_directory::state::{self, Change, Command, Outcome};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::MemberId;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) const MEMBERS: usize = 3;

/// Heartbeats of a leader.
const BEAT: Duration = Duration::from_millis(100);

/// A voter that has heard of a leader less than this ago elects no other.
const VOTER_PATIENCE: Duration = Duration::from_millis(600);

/// A leader that no majority has answered for this long says so itself, in most runs.
const LEADER_PATIENCE: Duration = Duration::from_millis(1_500);

/// A proof of the lead that nobody helps with is given up after this.
const PROOF_DEADLINE: Duration = Duration::from_millis(1_000);

/// A member that lacks more than this gets a snapshot.
const SNAPSHOT_LAG: usize = 40;

/// A checkpoint of the tables is made when so much was applied since the last.
const CHECKPOINT: usize = 25;

const TABLES: [Table; 14] = [
    Table::Meta,
    Table::Inodes,
    Table::Entries,
    Table::Cookies,
    Table::Orphans,
    Table::Intents,
    Table::Targets,
    Table::Xattrs,
    Table::Sessions,
    Table::Interest,
    Table::Ledger,
    Table::Servers,
    Table::Groups,
    Table::Members,
];

/// A change that is on its way to the log.
struct Proposal {
    number: u64,
    command: Command,
    done: oneshot::Sender<Result<Outcome>>,
}

struct Member {
    up: bool,
    /// Counts its runs.
    life: u64,
    tables: Arc<Mutex<MemoryTables>>,
    applied: usize,
    /// What a kill leaves of the tables.
    checkpoint: (usize, MemoryTables),
    /// How much of the committed log is on its disk.
    held: usize,
    /// The latest that it knows of.
    term: u64,
    /// The term that it leads, as it believes.
    leads: Option<u64>,
    heard_of_leader: Duration,
    /// Per member, when it answered last.
    answered: [Duration; MEMBERS],
    proposals: Vec<Proposal>,
    /// Committed, and to be answered when applied: by index.
    answers: Vec<(usize, oneshot::Sender<Result<Outcome>>)>,
    status: watch::Sender<RaftStatus>,
}

struct State {
    committed: Vec<Command>,
    members: Vec<Member>,
    proposals: u64,
    elections: u64,
}

/// The group of members.
pub(crate) struct Group {
    world: Arc<World>,
    /// What the log says, as a reference model reads it.
    pub(crate) commits: Mutex<Commits>,
    /// A leader without a majority gives up by itself.
    gives_up: bool,
    state: Mutex<State>,
}

impl Group {
    /// A group whose members have applied these commands.
    pub(crate) fn new(world: &Arc<World>, commands: Vec<Change>) -> Arc<Self> {
        let member = |number: usize| Member {
            up: false,
            life: 0,
            tables: Arc::default(),
            applied: 0,
            checkpoint: (0, MemoryTables::default()),
            held: 0,
            term: 0,
            leads: None,
            heard_of_leader: Duration::ZERO,
            answered: [Duration::ZERO; MEMBERS],
            proposals: Vec::new(),
            answers: Vec::new(),
            status: watch::Sender::new(RaftStatus {
                member: MemberId(number as u64 + 1),
                ..RaftStatus::default()
            }),
        };
        let now = Timestamp::default();
        let commands = commands.into_iter();
        let group = Arc::new(Self {
            world: world.clone(),
            commits: Mutex::default(),
            gives_up: world.random(|random| random.chance(700))
                && !world.planted(Planted::DeposedGrants),
            state: Mutex::new(State {
                committed: commands.map(|change| Command { now, change }).collect(),
                members: (0..MEMBERS).map(member).collect(),
                proposals: 0,
                elections: 0,
            }),
        });
        {
            let mut state = locked(&group.state);
            let all = state.committed.len();
            for member in 0..MEMBERS {
                state.members[member].held = all;
                group.apply(&mut state, member);
            }
        }
        tokio::spawn(group.clone().beat_for_ever());
        group
    }

    /// A run of a member begins.
    pub(crate) fn start(self: &Arc<Self>, member: usize) -> Arc<Run> {
        let now = self.world.now();
        let mut state = locked(&self.state);
        let this = &mut state.members[member];
        this.up = true;
        this.life += 1;
        this.heard_of_leader = now;
        this.status = watch::Sender::new(RaftStatus {
            member: MemberId(member as u64 + 1),
            term: this.term,
            ..RaftStatus::default()
        });
        // Killed tasks of the last run must not see what this one applies.
        let tables = locked(&this.tables).clone();
        this.tables = Arc::new(Mutex::new(tables));
        Arc::new(Run {
            group: self.clone(),
            member,
            life: this.life,
            tables: this.tables.clone(),
            status: this.status.subscribe(),
        })
    }

    /// The process of a member dies. Its log is on its disk, its tables are not all.
    pub(crate) fn kill(&self, member: usize) {
        let mut state = locked(&self.state);
        self.step_down(&mut state, member);
        let this = &mut state.members[member];
        this.up = false;
        let (applied, tables) = this.checkpoint.clone();
        this.applied = applied;
        this.tables = Arc::new(Mutex::new(tables));
    }

    pub(crate) fn is_up(&self, member: usize) -> bool {
        locked(&self.state).members[member].up
    }

    /// Who leads, as somebody believes.
    pub(crate) fn leader(&self) -> Option<usize> {
        let state = locked(&self.state);
        (0..MEMBERS)
            .filter(|member| state.members[*member].leads.is_some())
            .max_by_key(|member| state.members[*member].term)
    }

    /// Changes of the log, and elections that were won.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let state = locked(&self.state);
        (state.committed.len(), state.elections)
    }

    /// In the end all members have the same tables.
    pub(crate) fn compare(&self) {
        let mut state = locked(&self.state);
        let all = state.committed.len();
        for member in 0..MEMBERS {
            state.members[member].held = all;
            self.apply(&mut state, member);
        }
        let first = locked(&state.members[0].tables).clone();
        for member in 1..MEMBERS {
            if *locked(&state.members[member].tables) != first {
                let what = format!("members 0 and {member} have applied the same and differ");
                self.world.violate(what);
            }
        }
        self.world.check(locked(&self.commits).compare(&first));
    }

    /// Applies what is on the member's disk.
    fn apply(&self, state: &mut State, member: usize) {
        let State {
            committed, members, ..
        } = state;
        let this = &mut members[member];
        let tables = this.tables.clone();
        let mut tables = locked(&tables);
        while this.applied < this.held {
            let index = this.applied;
            match state::apply(&mut *tables, &committed[index]) {
                Ok(outcome) => {
                    let now = self.world.now();
                    let noted = locked(&self.commits).applied(
                        index,
                        now,
                        &committed[index].change,
                        &outcome,
                    );
                    self.world.check(noted);
                    this.applied += 1;
                    while let Some(at) = this.answers.iter().position(|(i, _)| *i == index) {
                        let (_, done) = this.answers.swap_remove(at);
                        // A caller that has given up does not care.
                        let _ = done.send(Ok(outcome.clone()));
                    }
                }
                Err(failed) => {
                    self.world.violate(format!("the tables failed: {failed}"));
                    return;
                }
            }
        }
        if this.applied >= this.checkpoint.0 + CHECKPOINT {
            this.checkpoint = (this.applied, tables.clone());
        }
    }

    /// A member does not believe to lead any more.
    fn step_down(&self, state: &mut State, member: usize) {
        let this = &mut state.members[member];
        if this.leads.take().is_some() {
            self.world
                .trace(|| format!("member {member} does not lead any more"));
        }
        // What it had proposed may be in the log of the next leader.
        let lost = || Err(Error::new(ErrorCode::Disconnected, "the lead was lost"));
        for proposal in this.proposals.drain(..) {
            let _ = proposal.done.send(lost());
        }
        for (_, done) in this.answers.drain(..) {
            let _ = done.send(lost());
        }
        this.status.send_modify(|status| {
            status.leading = false;
            status.life = 0;
            status.leader = None;
        });
    }

    /// A member hears of a term; false if it knows a later one.
    fn hears(&self, state: &mut State, member: usize, term: u64) -> bool {
        let this = &mut state.members[member];
        if term < this.term || !this.up {
            return false;
        }
        if term > this.term {
            this.term = term;
            self.step_down(state, member);
        }
        true
    }

    async fn beat_for_ever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(BEAT).await;
            for member in 0..MEMBERS {
                if self.world.is_paused(Node::Member(member)) {
                    continue;
                }
                let leads = {
                    let state = locked(&self.state);
                    let this = &state.members[member];
                    (this.up).then_some(this.leads)
                };
                match leads {
                    None => {}
                    Some(Some(term)) => self.beat(member, term),
                    Some(None) => self.stand(member),
                }
            }
        }
    }

    /// A leader calls the others.
    fn beat(self: &Arc<Self>, member: usize, term: u64) {
        let now = self.world.now();
        {
            let mut state = locked(&self.state);
            let this = &state.members[member];
            let silent = |at: &Duration| now.saturating_sub(*at) > LEADER_PATIENCE;
            if self.gives_up && this.answered.iter().filter(|at| !silent(at)).count() == 0 {
                return self.step_down(&mut state, member);
            }
        }
        for peer in (0..MEMBERS).filter(|peer| *peer != member) {
            let (group, patience) = (self.clone(), PROOF_DEADLINE);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(patience, group.call(member, peer, term, None)).await;
            });
        }
    }

    /// A leader's call of another member: a heartbeat, with everything that is committed, and with
    /// what is proposed up to a number. True if the other has accepted it.
    async fn call(&self, member: usize, peer: usize, term: u64, proposed: Option<u64>) -> bool {
        let (here, there) = (Node::Member(member), Node::Member(peer));
        let sent = locked(&self.state).members[member].held;
        if !self.world.travel(here, there).await {
            return false;
        }
        let accepted = {
            let mut state = locked(&self.state);
            if !self.hears(&mut state, peer, term) {
                // It is down, or tells of the later term.
                state.members[peer].up.then_some(false)
            } else {
                self.receive(&mut state, member, peer, sent);
                if let Some(number) = proposed {
                    self.accept(&mut state, member, peer, term, number);
                }
                Some(true)
            }
        };
        let Some(accepted) = accepted else {
            return false;
        };
        let later = locked(&self.state).members[peer].term;
        if !self.world.travel(there, here).await {
            return false;
        }
        let mut state = locked(&self.state);
        self.hears(&mut state, member, later);
        if state.members[member].leads != Some(term) {
            return false;
        }
        state.members[member].answered[peer] = self.world.now();
        // What another has committed for it is known to be committed now.
        self.apply(&mut state, member);
        accepted
    }

    /// A follower takes what a leader has sent it.
    fn receive(&self, state: &mut State, member: usize, peer: usize, sent: usize) {
        let now = self.world.now();
        let snapshot = {
            let (leader, this) = (&state.members[member], &state.members[peer]);
            let behind = leader.applied > this.applied + SNAPSHOT_LAG;
            behind.then(|| (leader.applied, copy(&locked(&leader.tables))))
        };
        let this = &mut state.members[peer];
        this.heard_of_leader = now;
        this.held = this.held.max(sent);
        let leader = MemberId(member as u64 + 1);
        if this.status.borrow().leader != Some(leader) {
            this.status
                .send_modify(|status| status.leader = Some(leader));
        }
        if let Some((applied, tables)) = snapshot {
            self.world
                .trace(|| format!("member {peer} gets a snapshot up to {applied}"));
            this.applied = applied;
            this.held = this.held.max(applied);
            this.checkpoint = (applied, tables.clone());
            *locked(&this.tables) = tables;
        }
        self.apply(state, peer);
    }

    /// A second member has a proposal, and with it all that came before: they are committed.
    fn accept(&self, state: &mut State, member: usize, peer: usize, term: u64, number: u64) {
        let leads = state.members[member].leads == Some(term);
        if !leads {
            return;
        }
        while let Some(first) = state.members[member].proposals.first()
            && first.number <= number
        {
            let proposal = state.members[member].proposals.remove(0);
            state.committed.push(proposal.command);
            let index = state.committed.len() - 1;
            state.members[member].answers.push((index, proposal.done));
            state.members[member].held = index + 1;
            state.members[peer].held = index + 1;
            locked(&self.commits).committed(index, self.world.now());
            self.world
                .trace(|| format!("log {index}: {:?}", state.committed[index].change));
        }
    }

    /// A follower that has heard of no leader for a while stands for election.
    fn stand(self: &Arc<Self>, member: usize) {
        let now = self.world.now();
        let patience = self.world.millis(300, 600);
        let mut state = locked(&self.state);
        if now.saturating_sub(state.members[member].heard_of_leader) < patience {
            return;
        }
        let reach = |a: usize, b: usize| {
            let (a, b) = (Node::Member(a), Node::Member(b));
            !self.world.is_cut(a, b) && !self.world.is_cut(b, a) && !self.world.is_paused(b)
        };
        let voter = (0..MEMBERS).filter(|v| *v != member).find(|voter| {
            let (this, that) = (&state.members[member], &state.members[*voter]);
            that.up
                && reach(member, *voter)
                && that.leads.is_none_or(|term| term < this.term)
                && now.saturating_sub(that.heard_of_leader) >= VOTER_PATIENCE
                && this.held >= that.held
        });
        let Some(voter) = voter else { return };
        let term = 1 + state.members[member].term.max(state.members[voter].term);
        self.hears(&mut state, voter, term);
        self.hears(&mut state, member, term);
        // A vote is a promise of patience, too.
        state.members[voter].heard_of_leader = now;
        state.elections += 1;
        self.world
            .trace(|| format!("member {member} is elected for term {term}, by {voter}"));
        let held = state.members[member].held;
        if held < state.committed.len() {
            self.world
                .violate("the simulated log has elected who lacks a part".into());
        }
        state.members[member].leads = Some(term);
        state.members[member].answered = [now; MEMBERS];
        self.apply(&mut state, member);
        self.plant(&mut state, member);
        let group = self.clone();
        tokio::spawn(async move {
            group.world.sleep(2, 60).await;
            group.world.awake(Node::Member(member)).await;
            let mut state = locked(&group.state);
            if state.members[member].leads == Some(term) {
                group.apply(&mut state, member);
                let id = MemberId(member as u64 + 1);
                state.members[member].status.send_modify(|status| {
                    status.term = term;
                    status.leader = Some(id);
                    status.leading = true;
                    status.life = RaftStatus::life_in(term, id);
                });
            }
        });
    }

    /// Breaks a rule of the change of leaders, if the run is one of those.
    fn plant(&self, state: &mut State, leader: usize) {
        let table = match self.world.options.planted {
            Planted::LedgerLost => Table::Ledger,
            Planted::GrantDuringGrace => Table::Interest,
            _ => return,
        };
        // All at the same entry: the members are to stay equal.
        let all = state.committed.len();
        let mut tables = copy(&locked(&state.members[leader].tables));
        empty(&mut tables, table);
        for member in &mut state.members {
            (member.applied, member.held) = (all, all);
            member.checkpoint = (all, tables.clone());
            *locked(&member.tables) = tables.clone();
        }
    }
}

fn copy(from: &MemoryTables) -> MemoryTables {
    let mut to = MemoryTables::default();
    for table in TABLES {
        // Tables in memory do not fail.
        let _ = from.scan(table, &[], &mut |key, value| {
            let _ = to.put(table, key, value);
            ControlFlow::Continue(())
        });
    }
    to
}

fn empty(tables: &mut MemoryTables, table: Table) {
    let mut keys = Vec::new();
    let _ = tables.scan(table, &[], &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    });
    for key in keys {
        let _ = tables.delete(table, &key);
    }
}

/// One run of a member, for the service that runs there.
pub(crate) struct Run {
    group: Arc<Group>,
    member: usize,
    life: u64,
    tables: Arc<Mutex<MemoryTables>>,
    status: watch::Receiver<RaftStatus>,
}

impl Run {
    fn refusal(&self) -> Option<Error> {
        let status = self.status.borrow();
        let leader = status.leader.filter(|leader| *leader != status.member);
        let told = leader.map_or(0, |leader| leader.0);
        let refusal = Error::bare(ErrorCode::NotLeader).with_detail(told);
        (!status.leading || !self.lives()).then_some(refusal)
    }

    fn lives(&self) -> bool {
        let state = locked(&self.group.state);
        let member = &state.members[self.member];
        member.up && member.life == self.life
    }

    fn term(&self) -> u64 {
        self.status.borrow().term
    }
}

impl SimulatedMember for Run {
    fn commit(&self, change: Change) -> Pending<Result<Outcome>> {
        if let Some(refusal) = self.refusal() {
            return Box::pin(async { Err(refusal) });
        }
        let (group, member, term) = (self.group.clone(), self.member, self.term());
        let clock = group.world.clock(Node::Member(member));
        let now = Timestamp::from_duration_since_1970(clock);
        let (done, outcome) = oneshot::channel();
        let number = {
            let mut state = locked(&group.state);
            state.proposals += 1;
            let number = state.proposals;
            let proposal = Proposal {
                number,
                command: Command { now, change },
                done,
            };
            state.members[member].proposals.push(proposal);
            number
        };
        for peer in (0..MEMBERS).filter(|peer| *peer != member) {
            let group = group.clone();
            tokio::spawn(async move {
                // A follower is sent it until it has it.
                while !group.call(member, peer, term, Some(number)).await {
                    let leads = locked(&group.state).members[member].leads == Some(term);
                    if !leads {
                        return;
                    }
                    group.world.sleep(50, 150).await;
                }
            });
        }
        Box::pin(async move {
            outcome
                .await
                .unwrap_or_else(|_| Err(ErrorCode::Disconnected.into()))
        })
    }

    fn confirm(&self) -> Pending<Result<()>> {
        if let Some(refusal) = self.refusal() {
            return Box::pin(async { Err(refusal) });
        }
        let (group, member, term) = (self.group.clone(), self.member, self.term());
        if group.world.planted(Planted::DeposedGrants) {
            return Box::pin(async { Ok(()) });
        }
        let (accepted, mut first) = mpsc::unbounded_channel();
        for peer in (0..MEMBERS).filter(|peer| *peer != member) {
            let (group, accepted) = (group.clone(), accepted.clone());
            tokio::spawn(async move {
                while !accepted.is_closed() {
                    if group.call(member, peer, term, None).await {
                        let _ = accepted.send(());
                        return;
                    }
                    group.world.sleep(20, 60).await;
                }
            });
        }
        drop(accepted);
        Box::pin(async move {
            match tokio::time::timeout(PROOF_DEADLINE, first.recv()).await {
                Ok(Some(())) => Ok(()),
                _ => Err(Error::new(
                    ErrorCode::NotLeader,
                    "a majority does not answer",
                )),
            }
        })
    }

    fn tables(&self) -> Arc<Mutex<MemoryTables>> {
        self.tables.clone()
    }

    fn watch(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }
}
