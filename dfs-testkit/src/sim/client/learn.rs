//! A part of an operation learns the generation of its inode: a cut was made that this mount had
//! not heard of.

use super::Client;
use crate::sim::message::{Answer, Ask, Node, Then, Told};
use crate::sim::schedule::{Schedule, error};
use dfs_proto::error::ErrorCode;
use std::time::Duration;

const ATTR_DEADLINE: Duration = Duration::from_millis(300);

impl Client {
    /// Asks the directory for the inode's attributes: its generation.
    pub(super) fn learn(&mut self, s: &mut Schedule, task: usize, part: usize) {
        let (Some(process), Some(directory)) = (self.process, s.process(Node::Directory)) else {
            return;
        };
        self.attempts += 1;
        let attempt = self.attempts;
        let Some(this) = self.tasks[task].parts().get_mut(part) else {
            return;
        };
        let met = this.learning.take().and_then(|(_, met)| met);
        this.learning = Some((attempt, met));
        let ask = Ask::GetAttr(this.key.inode);
        let then = Then::Learnt(task, part, attempt);
        s.call(process, directory, ask, ATTR_DEADLINE, then);
    }

    pub(super) fn learnt(
        &mut self,
        s: &mut Schedule,
        task: usize,
        part: usize,
        attempt: u64,
        answer: Answer,
    ) {
        let file = self.tasks[task].file();
        let Some(this) = self.tasks[task].parts().get_mut(part) else {
            return;
        };
        let waits = this.learning.as_ref().is_some_and(|(at, _)| *at == attempt);
        if !waits {
            return;
        }
        let Ok(Told::Attr(attr)) = answer else {
            return self.learn(s, task, part);
        };
        let met = this.learning.take().and_then(|(_, met)| met);
        match met {
            Some((server, generation, lost)) => {
                let cut = attr.generation > generation;
                let stale = error(ErrorCode::StaleGeneration).with_detail(attr.generation.0);
                this.op.failed(server, if cut { stale } else { lost });
            }
            None => this.op.generation_learnt(),
        }
        let state = &mut self.files[file];
        state.generation = state.generation.max(attr.generation);
        if let Some(data) = &mut state.data {
            data.raise_generation(attr.generation);
        }
        self.go_on(s, task);
    }
}
