//! Breadth first through all states, so that the first violation found is a shortest one.

use super::digest::Same;
use super::options::Options;
use super::state::State;
use super::step::{self, Step};
use super::{Outcome, Violation, setup};
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

/// How a state was found: from which one, by which of its successors.
#[derive(Clone, Copy, Debug)]
struct Origin {
    parent: u32,
    choice: u16,
}

#[derive(Debug)]
struct Search {
    options: Options,
    first: State,
    /// What happened before.
    begin: Vec<String>,
    known: HashSet<u64, BuildHasherDefault<Same>>,
    origins: Vec<Origin>,
}

/// Explores everything within the bounds, or until a violation.
pub(super) fn run(options: &Options) -> Outcome {
    let (first, begin) = beginning(options);
    let mut search = Search {
        options: *options,
        first: first.clone(),
        begin,
        known: HashSet::default(),
        origins: Vec::new(),
    };
    search.add(
        &first,
        Origin {
            parent: 0,
            choice: 0,
        },
    );
    let mut layer = vec![(0_u32, first)];
    let mut depth = 0;
    while !layer.is_empty() {
        depth += 1;
        let mut next = Vec::new();
        for (id, state) in layer {
            for (choice, (step, after)) in step::successors(&state, options).into_iter().enumerate()
            {
                let choice = choice as u16;
                if let Some(what) = &after.violation {
                    let trace = search.trace(id, step, &state);
                    return search.outcome(depth, false, Some((what.clone(), trace)));
                }
                let origin = Origin { parent: id, choice };
                if let Some(new) = search.add(&after, origin) {
                    next.push((new, after));
                }
            }
            if search.origins.len() >= options.states_max {
                return search.outcome(depth, false, None);
            }
        }
        if options.talks {
            println!(
                "depth {depth}: {} states, {} new",
                search.origins.len(),
                next.len()
            );
        }
        layer = next;
    }
    search.outcome(depth, true, None)
}

/// The state in which the search begins, and what has happened up to there.
fn beginning(options: &Options) -> (State, Vec<String>) {
    let mut state = setup::first_state(options);
    let mut lines = Vec::new();
    for wanted in options.begin.iter().copied().flatten() {
        let described: Vec<(String, State)> = step::successors(&state, options)
            .into_iter()
            .map(|(step, after)| (describe(step, &state, &after), after))
            .collect();
        let fits = described
            .iter()
            .position(|(line, _)| line.starts_with(wanted));
        let Some(at) = fits else {
            let can: Vec<&String> = described.iter().map(|(line, _)| line).collect();
            panic!("after {lines:#?} {wanted:?} cannot happen, but {can:#?}");
        };
        if let Some((line, after)) = described.into_iter().nth(at) {
            lines.push(line);
            state = after;
        }
    }
    (state, lines)
}

impl Search {
    fn add(&mut self, state: &State, origin: Origin) -> Option<u32> {
        if !self.known.insert(state.digest()) {
            return None;
        }
        self.origins.push(origin);
        Some((self.origins.len() - 1) as u32)
    }

    fn outcome(
        &self,
        depth: usize,
        exhausted: bool,
        violation: Option<(String, Vec<String>)>,
    ) -> Outcome {
        Outcome {
            states: self.origins.len(),
            depth,
            exhausted,
            violation: violation.map(|(what, trace)| Violation { what, trace }),
        }
    }

    /// What happened on the way to a state and in the step after it: found by doing it again.
    fn trace(&self, id: u32, last: Step, at: &State) -> Vec<String> {
        let mut choices = Vec::new();
        let mut id = id;
        while id != 0 {
            let origin = self.origins[id as usize];
            choices.push(origin.choice);
            id = origin.parent;
        }
        let mut state = self.first.clone();
        let mut lines = self.begin.clone();
        for choice in choices.into_iter().rev() {
            let successors = step::successors(&state, &self.options);
            let Some((step, next)) = successors.into_iter().nth(usize::from(choice)) else {
                break;
            };
            lines.push(describe(step, &state, &next));
            state = next;
        }
        lines.push(describe(last, at, at));
        lines
    }
}

fn describe(step: Step, before: &State, after: &State) -> String {
    let place = |at: usize| (b'A' + at as u8) as char;
    let what = match step {
        Step::Deliver(at) => match before.packets.get(at) {
            Some(packet) => packet.describe(),
            None => "a message".into(),
        },
        Step::Read(c, at) => format!("mount {c} reads from {}", place(at)),
        Step::Write(c) => format!("mount {c} begins write {}", after.spent.writes),
        Step::Cut(c) => format!("mount {c} cuts all off"),
        Step::Refresh(c) => format!("mount {c} hears of the epoch that serves"),
        Step::Lease(c) => format!("mount {c} gets the lease"),
        Step::End(c) => format!("the session of mount {c} is ended"),
        Step::Adopt(at) => format!("{} adopts", place(at)),
        Step::Equalise => "the primary is asked to equalise".into(),
        Step::Effective => "the epoch is effective".into(),
        Step::Tell => "the members hear that it is".into(),
        Step::Fence(at) => format!("{} is asked to fence", place(at)),
        Step::Suspect(at) => format!("{} is suspected", place(at)),
        Step::Expel(at) => format!("{} is expelled", place(at)),
        Step::Gone(at) => format!("{} is held for gone", place(at)),
        Step::Back(at) => format!("{} registers", place(at)),
        Step::WaitOver => "the wait for the others is over".into(),
        Step::Crash(at, false) => format!("{} crashes", place(at)),
        Step::Crash(at, true) => format!("{} loses its power and what was not synced", place(at)),
        Step::Tick(at) => format!("time passes on {}", place(at)),
    };
    let (old, new) = (before.directory.config(), after.directory.config());
    if old.epoch == new.epoch {
        return what;
    }
    let members: Vec<String> = new
        .members
        .iter()
        .map(|member| {
            let leads = if new.primary == Some(member.run.server) {
                "*"
            } else {
                ""
            };
            let at = place(State::at(member.run.server));
            format!("{at}{leads} {:?}", member.state)
        })
        .collect();
    format!("{what} -> {}: {}", new.epoch, members.join(", "))
}
