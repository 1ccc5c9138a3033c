//! The fewest calls that still fail, and those that have failed once.

use super::call::Call;
use crate::cluster::project;
use std::path::Path;

/// At most so many runs for one failure.
const RUNS_MAX: usize = 600;

/// Leaves calls out as long as it goes wrong without them: half of all at a time first, single ones
/// at last. `fails` runs calls on a fresh tree.
pub fn shrink(calls: &[Call], mut fails: impl FnMut(&[Call]) -> bool) -> Vec<Call> {
    let mut left = calls.to_vec();
    let mut runs = 0;
    let mut part = left.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut fewer = false;
        while at < left.len() && runs < RUNS_MAX {
            let mut without = left.clone();
            without.drain(at..(at + part).min(left.len()));
            runs += 1;
            if !without.is_empty() && fails(&without) {
                left = without;
                fewer = true;
            } else {
                at += part;
            }
        }
        if !fewer || part > 1 {
            part /= 2;
        }
    }
    left
}

/// Calls as text, one a line.
pub fn lines(calls: &[Call]) -> String {
    let lines = calls.iter().map(|call| format!("{call}\n"));
    lines.collect()
}

/// The orders of calls that have found something, with the names of their files:
/// `dfs-testkit/regressions/namespace/NAME.calls`. Lines with a `#` say what it was.
pub fn kept() -> Vec<(String, Vec<Call>)> {
    let dir = project().join("dfs-testkit/regressions/namespace");
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut kept: Vec<_> = files
        .map(|file| read(&file.expect("an entry").path()))
        .collect();
    kept.sort_by(|one, other| one.0.cmp(&other.0));
    kept
}

fn read(file: &Path) -> (String, Vec<Call>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let name = file.file_stem().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let calls = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect();
    (name, calls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::generate::{Kinds, next};
    use crate::random::Random;

    #[test]
    fn what_matters_is_left() {
        let kinds = Kinds {
            mounts: 2,
            users: 1,
            whiteouts: false,
        };
        let mut random = Random::new(7);
        let calls: Vec<Call> = (0..200).map(|_| next(&mut random, kinds)).collect();
        let (first, second) = (&calls[17], &calls[150]);
        let fails = |some: &[Call]| {
            let at = |call| some.iter().position(|c| c == call);
            matches!((at(first), at(second)), (Some(one), Some(other)) if one < other)
        };
        assert_eq!(shrink(&calls, fails), [first.clone(), second.clone()]);
    }
}
