//! The state in which an exploration begins.

use super::GROUP;
use super::directory::Directory;
use super::host::Host;
use super::options::Options;
use super::oracle::Oracle;
use super::state::{Client, Spent, State};
use super::step::{self, Step};
use dfs_proto::ids::ServerId;
use std::rc::Rc;

/// All members serve in the first epoch, and mount 0 has the lease. With a stale joiner the
/// second epoch: two members have a write, the third one is back and has it not.
pub(super) fn first_state(options: &Options) -> State {
    let hosts = (1..=u32::from(options.replicas))
        .map(|server| {
            let mut host = Host::new(ServerId(server), options);
            host.refresh();
            Rc::new(host)
        })
        .collect();
    let mut state = State {
        directory: Rc::new(Directory::new(options)),
        hosts,
        clients: [Client::default(); 2],
        oracle: Oracle::default(),
        packets: Rc::default(),
        spent: Spent::default(),
        violation: None,
    };
    let in_sync: Vec<usize> = state
        .directory
        .config()
        .in_sync()
        .map(|run| State::at(run.server))
        .collect();
    for at in &in_sync {
        step::adopt(&mut state, *at, options);
    }
    step::equalise(&mut state, options);
    let record = &mut Rc::make_mut(&mut state.directory).record;
    record.effective = Some(record.config.clone());
    step::tell(&mut state, &in_sync, options);
    debug_assert!(
        state.hosts[0]
            .core
            .as_ref()
            .and_then(|c| c.view(GROUP))
            .is_some()
    );
    go(&mut state, options, &[Step::Lease(0)]);
    if options.stale_joiner {
        go(&mut state, options, &[Step::Write(0)]);
        // The write, the forwarded write, the answer.
        for _ in 0..3 {
            while_messages(&mut state, options);
        }
        go(&mut state, options, &[Step::Back(2)]);
        for step in [Step::Adopt(0), Step::Adopt(1), Step::Adopt(2)] {
            go(&mut state, options, &[step]);
        }
        go(
            &mut state,
            options,
            &[Step::Equalise, Step::Effective, Step::Refresh(0)],
        );
    }
    state
}

fn go(state: &mut State, options: &Options, steps: &[Step]) {
    // The bounds count from here on.
    let ample = Options {
        epochs: u8::MAX,
        writes: u8::MAX,
        ..*options
    };
    for step in steps {
        let found = step::successors(state, &ample);
        if let Some((_, next)) = found.into_iter().find(|(what, _)| what == step) {
            *state = next;
        } else {
            panic!("{step:?} cannot happen at the beginning");
        }
    }
}

fn while_messages(state: &mut State, options: &Options) {
    for at in 0..state.packets.len() {
        if at < state.packets.len() {
            go(state, options, &[Step::Deliver(at)]);
        }
    }
}
