//! Circles in "waits for".

use std::collections::{BTreeMap, BTreeSet};

/// A shortest circle through `start`: the nodes on it, beginning with `start`.
pub(super) fn circle<N: Copy + Ord>(
    start: N,
    waits_for: impl FnMut(N) -> Vec<N>,
) -> Option<Vec<N>> {
    way(start, start, waits_for)
}

/// A shortest way from `start` to `goal`: the nodes on it, beginning with `start` and without `goal`.
pub(super) fn way<N: Copy + Ord>(
    start: N,
    goal: N,
    mut waits_for: impl FnMut(N) -> Vec<N>,
) -> Option<Vec<N>> {
    let mut came_from: BTreeMap<N, N> = BTreeMap::new();
    let mut seen: BTreeSet<N> = BTreeSet::new();
    let mut front = vec![start];
    while !front.is_empty() {
        let mut next = Vec::new();
        for node in front {
            for target in waits_for(node) {
                if target == goal {
                    return Some(path(start, node, &came_from));
                }
                if seen.insert(target) {
                    came_from.insert(target, node);
                    next.push(target);
                }
            }
        }
        front = next;
    }
    None
}

fn path<N: Copy + Ord>(start: N, end: N, came_from: &BTreeMap<N, N>) -> Vec<N> {
    let mut nodes = vec![end];
    let mut at = end;
    while at != start {
        let Some(previous) = came_from.get(&at) else {
            break;
        };
        at = *previous;
        nodes.push(at);
    }
    nodes.reverse();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_circles_and_only_those_through_the_start() {
        let edges = |n: u32| match n {
            1 => vec![2, 3],
            2 => vec![4],
            3 => vec![1],
            4 => vec![2],
            _ => vec![],
        };
        assert_eq!(circle(1, edges), Some(vec![1, 3]));
        assert_eq!(circle(2, edges), Some(vec![2, 4]));
        assert_eq!(circle(5, edges), None);
        assert_eq!(
            circle(9, |n| if n == 9 { vec![9] } else { vec![] }),
            Some(vec![9])
        );
    }
}
