//! One program on a mount: it reads, writes and syncs blocks, one operation after the other.
//!
//! As in the real client, every operation has its lease while it runs, a chunk has one write in
//! flight, and own reads wait for own writes of the chunk.

use super::part::{Part, Progress};
use super::{BLOCK, BLOCKS, CHUNKS, Client, INODES, blocks_of, layout};
use crate::sim::message::Timer;
use crate::sim::oracle::{Block, Syncing, Value, change_of, value_of};
use crate::sim::schedule::Schedule;
use dfs_mount::client::chunk_op::OpKind;
use dfs_mount::client::lease::Enter;
use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId, Version};
use dfs_proto::msg::session::LeaseKind;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is to be done: blocks of one file, from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) kind: OpKind,
    pub(super) file: usize,
    first: u64,
    count: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// Waits for its lease, or for another operation of this mount.
    Wanting(Plan),
    Running {
        plan: Plan,
        era: u64,
        value: Value,
        parts: Vec<Part>,
        sync: Option<Syncing>,
        /// Losses of power when it began.
        losses: u64,
    },
}

#[derive(Debug, Default)]
pub(super) struct Task {
    state: State,
    wake: Option<Duration>,
}

impl Task {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    pub(super) fn parts(&mut self) -> &mut [Part] {
        match &mut self.state {
            State::Running { parts, .. } => parts,
            State::Idle | State::Wanting(_) => &mut [],
        }
    }
}

impl Plan {
    fn inode(&self) -> InodeId {
        InodeId(self.file as u64 + 1)
    }

    fn chunks(&self) -> impl Iterator<Item = ChunkKey> + use<> {
        let inode = self.inode();
        let last = (self.first + self.count - 1) / BLOCKS;
        (self.first / BLOCKS..=last).map(move |index| ChunkKey {
            inode,
            index: ChunkIndex(index),
        })
    }

    fn blocks(&self) -> impl Iterator<Item = u64> + use<> {
        self.first..self.first + self.count
    }

    fn blocks_in(&self, key: ChunkKey) -> impl Iterator<Item = Block> + use<> {
        let blocks = self.blocks().filter(move |b| b / BLOCKS == key.index.0);
        blocks.map(move |block| (key.inode, block))
    }

    /// The part in one chunk: offset and length in bytes.
    fn within(&self, key: ChunkKey) -> (u32, u32) {
        let start = self.first.max(key.index.0 * BLOCKS);
        let end = (self.first + self.count).min((key.index.0 + 1) * BLOCKS);
        let offset = (start - key.index.0 * BLOCKS) * BLOCK as u64;
        (offset as u32, ((end - start) * BLOCK as u64) as u32)
    }
}

impl Client {
    /// Lets a task go on after a while.
    pub(super) fn wake(&mut self, s: &mut Schedule, task: usize, delay: Duration) {
        let Some(process) = self.process else { return };
        let at = s.now + delay;
        let wake = &mut self.tasks[task].wake;
        if wake.is_none_or(|earlier| earlier > at || earlier < s.now) {
            *wake = Some(at);
            s.timer(process, delay, Timer::Task(task));
        }
    }

    pub(super) fn woken_task(&mut self, s: &mut Schedule, task: usize) {
        if self.tasks[task].wake.is_some_and(|at| at <= s.now) {
            self.tasks[task].wake = None;
        }
        self.go_on(s, task);
    }

    /// Takes the task as far as it gets now.
    pub(super) fn go_on(&mut self, s: &mut Schedule, task: usize) {
        if self.session.is_none() {
            return self.wake(s, task, Duration::from_millis(5));
        }
        if self.tasks[task].is_idle() {
            let Some(plan) = self.pick(s, task) else {
                return self.wake(s, task, Duration::from_millis(20));
            };
            self.tasks[task].state = State::Wanting(plan);
        }
        if let State::Wanting(plan) = self.tasks[task].state {
            self.begin(s, task, plan);
        }
        self.run(s, task);
    }

    fn pick(&mut self, s: &mut Schedule, task: usize) -> Option<Plan> {
        if self.closing {
            // The first program reads everything once more.
            let chunk = self.read_out;
            return (task == 0 && chunk < INODES * CHUNKS).then_some(Plan {
                kind: OpKind::Read,
                file: (chunk / CHUNKS) as usize,
                first: chunk % CHUNKS * BLOCKS,
                count: BLOCKS,
            });
        }
        let kind = match s.random.below(10) {
            0..=3 => OpKind::Read,
            4..=8 => OpKind::Write,
            _ => OpKind::Sync,
        };
        let first = s.random.below(CHUNKS * BLOCKS);
        let count = 1 + s.random.below((CHUNKS * BLOCKS - first).min(BLOCKS + 1));
        Some(Plan {
            kind,
            file: s.random.index(INODES as usize),
            first,
            count,
        })
    }

    fn begin(&mut self, s: &mut Schedule, task: usize, plan: Plan) {
        if plan.kind == OpKind::Sync {
            let parts = self.sync_parts(&plan);
            return self.launch(s, task, plan, 0, 0, parts);
        }
        let write = plan.kind == OpKind::Write;
        let blocked = plan.chunks().any(|key| {
            let users = self.users.get(&key).copied().unwrap_or_default();
            users.writing || (write && users.reading > 0)
        });
        if blocked || (!write && self.now(s) >= self.right) {
            return self.wake(s, task, Duration::from_millis(1));
        }
        let kind = match write {
            true => LeaseKind::Exclusive,
            false => LeaseKind::Shared,
        };
        self.drop_lapsed(self.now(s));
        match self.files[plan.file].lease.enter(kind, false) {
            Enter::Ready { era, .. } => {
                for key in plan.chunks() {
                    let users = self.users.entry(key).or_default();
                    users.writing |= write;
                    users.reading += u32::from(!write);
                }
                self.values += 1;
                let value = value_of(self.place, self.values, &mut s.random);
                let parts = self.chunk_parts(&plan, value);
                if let Some(session) = self.session.filter(|_| write) {
                    for part in &parts {
                        let blocks = plan.blocks_in(part.key).collect();
                        s.oracle.write_begins(part.change, value, session, blocks);
                    }
                }
                self.launch(s, task, plan, era, value, parts);
            }
            Enter::Ask(ask) => {
                self.ask_lease(s, plan.file, ask, kind);
                self.wake(s, task, Duration::from_millis(2));
            }
            Enter::Wait(_) => {
                self.nudge(s, plan.file);
                self.wake(s, task, Duration::from_millis(2));
            }
        }
    }

    fn launch(
        &mut self,
        s: &mut Schedule,
        task: usize,
        plan: Plan,
        era: u64,
        value: Value,
        parts: Vec<Part>,
    ) {
        s.trace(|| format!("client {} task {task} begins {plan:?} {value}", self.place));
        let sync = (plan.kind == OpKind::Sync).then(|| {
            let groups: Vec<GroupId> = parts.iter().map(|part| part.group).collect();
            let blocks = groups.into_iter().flat_map(|g| blocks_of(g, self.groups));
            let of_file = blocks.filter(|(inode, _)| *inode == plan.inode());
            s.oracle.sync_begins(of_file)
        });
        self.tasks[task].state = State::Running {
            plan,
            era,
            value,
            parts,
            sync,
            losses: s.oracle.losses,
        };
    }

    fn chunk_parts(&mut self, plan: &Plan, value: Value) -> Vec<Part> {
        let layout = layout(plan.inode(), self.groups);
        let chunks: Vec<ChunkKey> = plan.chunks().collect();
        chunks
            .into_iter()
            .map(|key| {
                let (offset, len) = plan.within(key);
                let group = layout.group_of(key.index);
                if plan.kind == OpKind::Read {
                    let spread = key.index.0 ^ key.inode.0 ^ value;
                    return Part::read(key, group, spread, offset, len);
                }
                self.sequence += 1;
                self.changes += 1;
                let mut part = Part::write(key, group, self.sequence, offset, len, value);
                part.change = change_of(self.place, self.changes);
                part
            })
            .collect()
    }

    fn sync_parts(&self, plan: &Plan) -> Vec<Part> {
        let layout = layout(plan.inode(), self.groups);
        let mut groups: BTreeMap<GroupId, Vec<(ChunkIndex, Version)>> = BTreeMap::new();
        for (key, version) in &self.unsynced {
            if key.inode == plan.inode() {
                let group = groups.entry(layout.group_of(key.index)).or_default();
                group.push((key.index, *version));
            }
        }
        let parts = groups.into_iter();
        parts
            .map(|(group, chunks)| Part::sync(plan.inode(), group, chunks))
            .collect()
    }

    /// Drives the parts of a running operation; ends it with the last one.
    fn run(&mut self, s: &mut Schedule, task: usize) {
        let State::Running { parts, .. } = &self.tasks[task].state else {
            return;
        };
        for part in 0..parts.len() {
            match self.advance(s, task, part) {
                Progress::GoesOn => {}
                Progress::Refused => return self.lose_session(s),
            }
        }
        if self.tasks[task].parts().iter().all(|part| part.done) {
            self.end(s, task);
        }
    }

    fn end(&mut self, s: &mut Schedule, task: usize) {
        let State::Running {
            plan,
            era,
            value,
            parts,
            sync,
            losses,
        } = std::mem::take(&mut self.tasks[task].state)
        else {
            return;
        };
        self.drop_lapsed(self.now(s));
        // An exclusive lease does not lapse, but its session may have been ended: without the
        // directory's word nothing is read under it either (self-fence).
        let valid = self.files[plan.file].lease.is_valid(era) && self.now(s) < self.right;
        let mut again = false;
        match plan.kind {
            OpKind::Write => {
                s.trace(|| format!("client {} task {task} wrote {value}", self.place));
                s.note(value);
            }
            // What came after the loss of the lease may be old.
            // One that lasted over a loss of power saw what was before and after it.
            OpKind::Read if losses != s.oracle.losses => again = true,
            OpKind::Read if !valid || parts.iter().any(|part| part.failed) => again = true,
            OpKind::Read => self.saw(s, task, &plan, &parts),
            OpKind::Sync => {
                let lost = parts.iter().any(|part| part.failed);
                match sync {
                    Some(sync) if !lost => s.oracle.synced(&sync),
                    // A loss is told once.
                    _ if s.oracle.losses == 0 => {
                        s.violate(format!("a sync of client {} met a lost write", self.place));
                    }
                    _ => {}
                }
                for (key, version) in parts.iter().flat_map(Part::synced) {
                    if self.unsynced.get(&key) == Some(&version) {
                        self.unsynced.remove(&key);
                    }
                }
            }
        }
        if plan.kind != OpKind::Sync {
            self.files[plan.file].lease.leave();
            for key in plan.chunks() {
                let users = self.users.entry(key).or_default();
                match plan.kind {
                    OpKind::Write => users.writing = false,
                    OpKind::Read | OpKind::Sync => users.reading -= 1,
                }
            }
        }
        if again {
            self.tasks[task].state = State::Wanting(plan);
            return self.wake(s, task, Duration::from_millis(1));
        }
        self.finished += 1;
        if self.closing && task == 0 && plan.kind == OpKind::Read && plan.count == BLOCKS {
            let chunk = plan.file as u64 * CHUNKS + plan.first / BLOCKS;
            self.read_out += u64::from(chunk == self.read_out);
        }
        let think = s.random.micros(0, 20_000);
        self.wake(s, task, think);
    }

    fn saw(&mut self, s: &mut Schedule, task: usize, plan: &Plan, parts: &[Part]) {
        let bytes: Vec<u8> = parts.iter().flat_map(Part::content).collect();
        for (block, bytes) in plan.blocks().zip(bytes.chunks(BLOCK)) {
            let value = bytes.try_into().map_or(0, u64::from_le_bytes);
            s.trace(|| format!("client {} task {task} saw {block} = {value}", self.place));
            s.note(value);
            let checked = s.oracle.read((plan.inode(), block), value);
            s.check(checked);
        }
    }
}
