//! One program on a mount: it reads, writes, syncs and truncates, one operation after the other.
//!
//! As in the real client, every operation has its lease while it runs, a chunk has one write in
//! flight, own reads wait for own writes of the chunk, and a change of the size for everything.

use super::part::{Part, Progress};
use super::plan::{Plan, Work};
use super::resize::Resizing;
use super::{BLOCK, BLOCKS, CHUNKS, Client, Unsynced, blocks_of, byte_of};
use crate::sim::directory::FILES;
use crate::sim::message::Timer;
use crate::sim::oracle::{Block, Syncing, Value, change_of, value_of};
use crate::sim::schedule::Schedule;
use dfs_mount::client::lease::Enter;
use dfs_proto::ids::{ChunkIndex, GroupId};
use dfs_proto::msg::session::LeaseKind;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) enum State {
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
        /// A write makes the file longer: its chunks go one after the other.
        extends: bool,
        /// Losses of power when it began.
        losses: u64,
    },
    Resizing {
        plan: Plan,
        resizing: Resizing,
    },
}

#[derive(Debug, Default)]
pub(super) struct Task {
    pub(super) state: State,
    wake: Option<Duration>,
}

impl Task {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    pub(super) fn parts(&mut self) -> &mut [Part] {
        match &mut self.state {
            State::Running { parts, .. } => parts,
            State::Idle | State::Wanting(_) | State::Resizing { .. } => &mut [],
        }
    }

    pub(super) fn file(&self) -> usize {
        match &self.state {
            State::Wanting(plan) | State::Running { plan, .. } | State::Resizing { plan, .. } => {
                plan.file
            }
            State::Idle => 0,
        }
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
        match self.tasks[task].state {
            State::Resizing { .. } => self.run_resize(s, task),
            _ => self.run(s, task),
        }
    }

    fn pick(&mut self, s: &mut Schedule, task: usize) -> Option<Plan> {
        if self.closing {
            // The first program reads everything once more.
            let chunk = self.read_out;
            let file = (chunk / CHUNKS) as usize;
            return (task == 0 && file < FILES).then(|| Plan {
                work: Work::Read,
                file,
                inode: s.files[file].0,
                first: chunk % CHUNKS * BLOCKS,
                count: BLOCKS,
            });
        }
        let work = match s.random.below(20) {
            0..=6 => Work::Read,
            7..=15 => Work::Write,
            16..=17 => Work::Sync,
            _ => Work::Resize,
        };
        let first = s.random.below(CHUNKS * BLOCKS);
        let count = 1 + s.random.below((CHUNKS * BLOCKS - first).min(BLOCKS + 1));
        let file = s.random.index(FILES);
        Some(Plan {
            work,
            file,
            inode: s.files[file].0,
            first,
            count,
        })
    }

    fn is_blocked(&self, plan: &Plan) -> bool {
        let user = |key| self.users.get(&key).copied().unwrap_or_default();
        let mut chunks = plan.chunks().map(user);
        self.files[plan.file].resizing
            || match plan.work {
                Work::Read => chunks.any(|users| users.writing),
                Work::Write => chunks.any(|users| users.writing || users.reading > 0),
                Work::Sync => false,
                Work::Resize => {
                    let of_file = self.users.iter().filter(|(key, _)| key.inode == plan.inode);
                    let mut of_file = of_file.map(|(_, users)| users);
                    of_file.any(|users| users.writing || users.reading > 0)
                }
            }
    }

    fn begin(&mut self, s: &mut Schedule, task: usize, plan: Plan) {
        if plan.work == Work::Sync {
            let parts = self.sync_parts(s, &plan);
            return self.launch(s, task, plan, 0, 0, parts);
        }
        let write = plan.work != Work::Read;
        if self.is_blocked(&plan) || (!write && self.now(s) >= self.right) {
            return self.wake(s, task, Duration::from_millis(1));
        }
        let kind = match write {
            true => LeaseKind::Exclusive,
            false => LeaseKind::Shared,
        };
        self.drop_lapsed(self.now(s));
        match self.files[plan.file].lease.enter(kind, false) {
            Enter::Ready { .. } if plan.work == Work::Resize => self.begin_resize(s, task, plan),
            Enter::Ready { era, .. } => {
                for key in plan.chunks() {
                    let users = self.users.entry(key).or_default();
                    users.writing |= write;
                    users.reading += u32::from(!write);
                }
                self.values += 1;
                let value = value_of(self.place, self.values, &mut s.random);
                let parts = self.chunk_parts(s, &plan, value);
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
        let sync = (plan.work == Work::Sync).then(|| {
            let groups: Vec<GroupId> = parts.iter().map(|part| part.group).collect();
            let blocks = groups.into_iter().flat_map(|g| blocks_of(&s.files, g));
            let of_file: Vec<Block> = blocks.filter(|(i, _)| *i == plan.inode).collect();
            s.oracle.sync_begins(of_file.into_iter())
        });
        let size = self.files[plan.file].data.as_ref().map(|data| data.size());
        let end = byte_of(plan.first + plan.count - 1) + BLOCK as u64;
        self.tasks[task].state = State::Running {
            plan,
            era,
            value,
            parts,
            sync,
            extends: plan.work == Work::Write && size.is_none_or(|size| end > size),
            losses: s.oracle.losses,
        };
    }

    fn chunk_parts(&mut self, s: &Schedule, plan: &Plan, value: Value) -> Vec<Part> {
        let layout = s.files[plan.file].1;
        let chunks = plan.chunks();
        let parts = chunks.map(|key| {
            let (offset, len) = plan.within(key);
            let group = layout.group_of(key.index);
            if plan.work == Work::Read {
                let spread = key.index.0 ^ key.inode.0 ^ value;
                return Part::read(key, group, spread, offset, len);
            }
            self.sequence += 1;
            self.changes += 1;
            let mut part = Part::write(key, group, self.sequence, offset, len, value);
            part.change = change_of(self.place, self.changes);
            part
        });
        parts.collect()
    }

    fn sync_parts(&self, s: &Schedule, plan: &Plan) -> Vec<Part> {
        let layout = s.files[plan.file].1;
        let mut groups: BTreeMap<GroupId, Vec<(ChunkIndex, Unsynced)>> = BTreeMap::new();
        for (key, unsynced) in &self.unsynced {
            if key.inode == plan.inode {
                let group = groups.entry(layout.group_of(key.index)).or_default();
                group.push((key.index, *unsynced));
            }
        }
        let parts = groups.into_iter();
        parts
            .map(|(group, chunks)| Part::sync(plan.inode, group, chunks))
            .collect()
    }

    /// Drives the parts of a running operation; ends it with the last one.
    fn run(&mut self, s: &mut Schedule, task: usize) {
        let State::Running { extends, .. } = &self.tasks[task].state else {
            return;
        };
        let extends = *extends;
        for part in 0..parts_of(&self.tasks[task].state) {
            // Bytes behind a part that failed would lie past the end of the file.
            let before = self.tasks[task].parts()[..part].iter();
            if extends && before.clone().any(|p| !p.done) {
                break;
            }
            if extends && before.clone().any(|p| p.failed) {
                let this = &mut self.tasks[task].parts()[part];
                (this.done, this.failed) = (true, true);
                let checked = s.oracle.refused(this.change, false);
                s.check(checked);
                continue;
            }
            match self.advance(s, task, part) {
                Progress::GoesOn => {}
                Progress::Refused => return self.lose_session(s),
            }
        }
        if !self.tasks[task].parts().iter().all(|part| part.done) {
            return;
        }
        let file = self.tasks[task].file();
        let sync = matches!(
            &self.tasks[task].state,
            State::Running { sync: Some(_), .. }
        );
        if sync && !self.push(s, file) {
            return self.wake(s, task, Duration::from_millis(2));
        }
        self.end(s, task);
    }

    fn end(&mut self, s: &mut Schedule, task: usize) {
        let State::Running {
            plan,
            era,
            value,
            parts,
            sync,
            losses,
            ..
        } = std::mem::take(&mut self.tasks[task].state)
        else {
            return;
        };
        self.drop_lapsed(self.now(s));
        // An exclusive lease does not lapse, but its session may have been ended: without the
        // directory's word nothing is read under it either (self-fence).
        let valid = self.files[plan.file].lease.is_valid(era) && self.now(s) < self.right;
        let mut again = false;
        match plan.work {
            Work::Write => {
                s.trace(|| format!("client {} task {task} wrote {value}", self.place));
                s.note(value);
                let written = parts.iter().take_while(|part| !part.failed);
                if let Some(last) = written.last() {
                    self.grew(s, plan.file, plan.end_in(last.key));
                }
            }
            // One that lasted over a loss of power saw what was before and after it.
            Work::Read if losses != s.oracle.losses => again = true,
            // What came after the loss of the lease may be old.
            Work::Read if !valid || parts.iter().any(|part| part.failed) => again = true,
            Work::Read => self.saw(s, task, &plan, &parts),
            Work::Sync => {
                let lost = parts.iter().any(|part| part.failed);
                match sync {
                    Some(sync) if !lost => s.oracle.synced(&sync),
                    // A loss is told once.
                    _ if s.oracle.losses == 0 => {
                        s.violate(format!("a sync of client {} met a lost write", self.place));
                    }
                    _ => {}
                }
                for (key, unsynced) in parts.iter().flat_map(Part::synced) {
                    if self.unsynced.get(&key) == Some(&unsynced) {
                        self.unsynced.remove(&key);
                    }
                }
            }
            Work::Resize => {}
        }
        if plan.work != Work::Sync {
            self.files[plan.file].lease.leave();
            for key in plan.chunks() {
                let users = self.users.entry(key).or_default();
                match plan.work {
                    Work::Write => users.writing = false,
                    _ => users.reading -= 1,
                }
            }
        }
        if again {
            self.tasks[task].state = State::Wanting(plan);
            return self.wake(s, task, Duration::from_millis(1));
        }
        self.finished += 1;
        if self.closing && task == 0 && plan.work == Work::Read && plan.count == BLOCKS {
            let chunk = plan.file as u64 * CHUNKS + plan.first / BLOCKS;
            self.read_out += u64::from(chunk == self.read_out);
        }
        let think = s.random.micros(0, 20_000);
        self.wake(s, task, think);
    }

    fn saw(&mut self, s: &mut Schedule, task: usize, plan: &Plan, parts: &[Part]) {
        let bytes: Vec<u8> = parts.iter().flat_map(Part::content).collect();
        let size = self.files[plan.file].data.as_ref().map_or(0, |d| d.size());
        for (block, bytes) in plan.blocks().zip(bytes.chunks(BLOCK)) {
            // Nothing is read beyond the end of the file.
            let value = match byte_of(block) < size {
                true => bytes.try_into().map_or(0, u64::from_le_bytes),
                false => 0,
            };
            s.trace(|| format!("client {} task {task} saw {block} = {value}", self.place));
            s.note(value);
            let checked = s.oracle.read((plan.inode, block), value);
            s.check(checked);
        }
    }
}

fn parts_of(state: &State) -> usize {
    match state {
        State::Running { parts, .. } => parts.len(),
        _ => 0,
    }
}
