//! Leaving calls out of a run that fails.

use super::{Call, Failure, Ground, run};
use std::time::{Duration, Instant};

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The fewest calls that were found to fail, and how. `None`: the run did not fail once more.
pub(super) fn shrink(ground: &Ground, calls: &[Call]) -> Option<(Vec<Call>, Failure)> {
    let begun = Instant::now();
    let mut tries = 0;
    let mut fails = |calls: &[Call]| {
        tries += 1;
        run(ground, &format!("shrunk-{tries}"), calls).err()
    };
    let mut failure = fails(calls)?;
    let mut kept = calls[..calls.len().min(failure.at + 1)].to_vec();
    let mut step = kept.len().div_ceil(2);
    while step > 0 && begun.elapsed() < PATIENCE {
        let mut at = 0;
        while at < kept.len() && begun.elapsed() < PATIENCE {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + step).min(kept.len()));
            match fails(&fewer) {
                Some(other) => {
                    fewer.truncate(other.at + 1);
                    (kept, failure) = (fewer, other);
                }
                None => at += step,
            }
        }
        step /= 2;
    }
    Some((kept, failure))
}
