//! Starts the tasks whenever this member leads, and ends them when it does not any more.

use super::cuts;
use super::events::{EVENTS_MAX, Event, ServerEvents};
use super::fences;
use super::governor::{Driver, Outlets};
use super::handle::{CutWait, FenceWait, MeasureWait, Placement};
use super::measures;
use super::view::View;
use crate::governor::{Pace, Signs};
use crate::raft::RaftHandle;
use dfs_proto::attr::StatFs;
use dfs_proto::error::{Error, ErrorCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Waits that may be handed over before the tasks take them.
const WAITS_MAX: usize = 1024;

/// All tasks of placement, to be run by one owner.
#[derive(Debug)]
pub struct Tasks {
    raft: RaftHandle,
    pace: Pace,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    outlets: Outlets,
    view: watch::Receiver<Arc<View>>,
    intents: Arc<Notify>,
    cuts: mpsc::Receiver<CutWait>,
    fences: mpsc::Receiver<FenceWait>,
    measures: mpsc::Receiver<MeasureWait>,
}

impl Tasks {
    /// The tasks, the handle for those who use them, and the one for what servers say. Nothing
    /// happens before `run`.
    pub fn new(raft: RaftHandle) -> (Self, Placement, ServerEvents) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (cut_waits, cuts) = mpsc::channel(WAITS_MAX);
        let (fence_waits, fences) = mpsc::channel(WAITS_MAX);
        let (measure_waits, measures) = mpsc::channel(WAITS_MAX);
        let (map_out, map) = watch::channel(Arc::default());
        let (space_out, space) = watch::channel(StatFs::default());
        let (view_out, view) = watch::channel(Arc::new(View::default()));
        let (signs_out, signs) = watch::channel(Signs::new());
        let intents = Arc::new(Notify::new());
        let placement = Placement {
            map,
            space,
            view: view.clone(),
            signs,
            intents: intents.clone(),
            cuts: cut_waits,
            fences: fence_waits,
            measures: measure_waits,
            events: ServerEvents(sender.clone()),
        };
        let outlets = Outlets {
            map: map_out,
            space: space_out,
            view: view_out,
            signs: signs_out,
        };
        let tasks = Self {
            raft,
            pace: Pace::default(),
            sender: sender.clone(),
            events,
            outlets,
            view,
            intents,
            cuts,
            fences,
            measures,
        };
        (tasks, placement, ServerEvents(sender))
    }

    /// How long a group whose members were all gone waits for those that may have what the
    /// others lost.
    pub fn waits_for_returns(mut self, wait: Duration) -> Self {
        self.pace.return_wait = wait;
        self
    }

    /// Runs until the member has failed or stops; returns why.
    pub async fn run(mut self) -> Error {
        loop {
            if let Err(e) = self.wait_for_reign().await {
                return e;
            }
            let why = Box::pin(self.reign()).await;
            // What was known under this reign is worth nothing under another.
            self.outlets.view.send_replace(Arc::default());
            self.outlets.signs.send_replace(Signs::new());
            if matches!(why.code, ErrorCode::ShuttingDown | ErrorCode::StorageFailed) {
                return why;
            }
            log::info!("groups are not driven by this member any more: {why}");
        }
    }

    /// While somebody else leads, everybody is told so.
    async fn wait_for_reign(&mut self) -> Result<(), Error> {
        let raft = self.raft.clone();
        let leading = raft.leading();
        tokio::pin!(leading);
        loop {
            let leader = raft.status().leader.map_or(0, |member| member.0);
            let refusal = Error::bare(ErrorCode::NotLeader).with_detail(leader);
            tokio::select! {
                led = &mut leading => return led.map(|_| ()),
                Some(event) = self.events.recv() => event.refuse(refusal),
                Some(wait) = self.cuts.recv() => drop(wait.done.send(Err(refusal))),
                Some(wait) = self.fences.recv() => drop(wait.done.send(Err(refusal))),
                Some(wait) = self.measures.recv() => drop(wait.done.send(Err(refusal))),
            }
        }
    }

    async fn reign(&mut self) -> Error {
        let life = self.raft.status().life;
        let governor = match Driver::begin(self.raft.clone(), &self.outlets, self.pace).await {
            Ok(governor) => governor,
            Err(e) => return e,
        };
        let cuts = cuts::run(
            self.raft.clone(),
            &mut self.cuts,
            self.intents.clone(),
            self.view.clone(),
            self.sender.clone(),
        );
        let fences = fences::run(
            self.raft.clone(),
            &mut self.fences,
            self.view.clone(),
            self.sender.clone(),
        );
        let measures = measures::run(&mut self.measures, self.view.clone());
        let mut status = self.raft.watch();
        let deposed = async {
            match status
                .wait_for(|s| s.life != life || s.failed.is_some())
                .await
            {
                Ok(_) => Error::bare(ErrorCode::NotLeader),
                Err(_) => super::events::stopping(),
            }
        };
        tokio::select! {
            why = governor.run(&mut self.events) => why,
            why = cuts => why,
            why = fences => why,
            why = measures => why,
            why = deposed => why,
        }
    }
}
