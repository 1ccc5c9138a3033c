//! What differs between the members' copies, and whose copy wins: for whoever makes them equal.

use super::holdings::{identity, same};
use super::lane::{CopyOp, Purpose};
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, ServerRun, Version};
use dfs_proto::msg::peer::{ChunkState, HeldChunk};
use std::collections::{BTreeMap, BTreeSet};

/// Compares two pages of inventories that start at the same place: the chunks that differ, and
/// where to go on (`None`: both have ended).
pub(super) fn compare_pages(
    ours: &[ChunkState],
    our_end: bool,
    theirs: &[ChunkState],
    their_end: bool,
) -> (BTreeSet<ChunkKey>, Option<ChunkKey>) {
    // What lies beyond the shorter page is compared with the next one.
    let last = |page: &[ChunkState], end: bool| match end {
        true => None,
        false => page.last().map(|state| state.key),
    };
    let bound = match (last(ours, our_end), last(theirs, their_end)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let within = |key: &ChunkKey| bound.is_none_or(|bound| *key <= bound);
    let mut pairs: BTreeMap<ChunkKey, [Option<&ChunkState>; 2]> = BTreeMap::new();
    for state in ours.iter().filter(|state| within(&state.key)) {
        pairs.entry(state.key).or_default()[0] = Some(state);
    }
    for state in theirs.iter().filter(|state| within(&state.key)) {
        pairs.entry(state.key).or_default()[1] = Some(state);
    }
    let differing = pairs
        .into_iter()
        .filter(|(_, [ours, theirs])| !same(*ours, *theirs))
        .map(|(key, _)| key)
        .collect();
    (differing, bound)
}

/// What is to be copied so that all hold the same; `None` if they do.
pub(super) fn plan(
    group: GroupId,
    epoch: Epoch,
    own: HeldChunk,
    theirs: &[(ServerRun, HeldChunk)],
    highest: bool,
) -> Option<CopyOp> {
    let damaged = |held: &HeldChunk| held.state.is_some_and(|state| state.damaged);
    let equal = theirs
        .iter()
        .all(|(_, held)| same(own.state.as_ref(), held.state.as_ref()));
    if equal && !damaged(&own) {
        return None;
    }
    // Of equals the first wins, the primary's.
    let rank = |held: &HeldChunk| {
        let (generation, version) = identity(held.state.as_ref());
        match highest {
            true => (!damaged(held), generation, version),
            false => (!damaged(held), held.floor, Version::HOLE),
        }
    };
    let mut winner: Option<ServerRun> = None;
    let mut best = rank(&own);
    for (run, held) in theirs {
        if rank(held) > best {
            best = rank(held);
            winner = Some(*run);
        }
    }
    if !best.0 {
        winner = None;
    }
    let push = theirs
        .iter()
        .map(|(run, _)| *run)
        .filter(|run| Some(*run) != winner)
        .collect();
    Some(CopyOp {
        group,
        epoch,
        purpose: Purpose::Equalise,
        pull: winner,
        expect: None,
        adopt_torn: !best.0,
        push,
        running: 0,
        failed: Vec::new(),
    })
}
