//! What a data dir remembers of the runs that used it.
//!
//! The directory's log names runs, so a dir that knows the run in which it served last is the
//! one that served; one that does not was emptied, or is an older copy that was put back.
//! The list is kept in the index, and changes before a run says anything to anybody.

use crate::chunk::{ChunkStore, Result, StoreError};
use dfs_proto::ids::Incarnation;
use dfs_proto::msg::registry::DataDirPast;

const NOTE: &str = "runs";

/// Runs that are remembered: more restarts than this without once being in-sync in a group, and
/// the dir is not recognised there any more.
const RUNS_MAX: usize = 256;

/// Begins a run: returns what earlier ones left, and writes this one down. `intact` says that the
/// last one took nothing with it: it stopped orderly, or it was killed and nothing is missing.
pub fn begin(store: &ChunkStore, me: Incarnation, intact: bool) -> Result<DataDirPast> {
    let kept = match store.note(NOTE) {
        Some(note) => decode(&note).ok_or_else(|| {
            let text = "the data dir's list of runs cannot be read: use the newer program";
            StoreError::Refused(text.into())
        })?,
        None => DataDirPast::default(),
    };
    let (told, next) = told_and_kept(kept, me, intact);
    store.put_note(NOTE, &encode(&next))?;
    store.watch()?;
    Ok(told)
}

/// What a run tells of the earlier ones, and what is kept for the next one; pure. `kept` is what the
/// run before it kept, `intact` whether that one took nothing with it.
pub fn told_and_kept(
    kept: DataDirPast,
    me: Incarnation,
    intact: bool,
) -> (DataDirPast, DataDirPast) {
    let mut told = kept;
    if !intact {
        told.intact = 0;
    }
    let mut next = told.clone();
    next.runs.push(me);
    next.runs.drain(..next.runs.len().saturating_sub(RUNS_MAX));
    // Counts if this run takes nothing with it, too: else the next one begins with `intact` false.
    next.intact = (told.intact + 1).min(RUNS_MAX as u32);
    (told, next)
}

/// `intact`, then the runs: little-endian.
fn encode(past: &DataDirPast) -> Vec<u8> {
    let mut bytes = past.intact.to_le_bytes().to_vec();
    for run in &past.runs {
        bytes.extend(run.0.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<DataDirPast> {
    let (intact, runs) = bytes.split_first_chunk()?;
    let (runs, rest) = runs.as_chunks();
    rest.is_empty().then(|| DataDirPast {
        runs: runs
            .iter()
            .map(|run| Incarnation(u64::from_le_bytes(*run)))
            .collect(),
        intact: u32::from_le_bytes(*intact),
        accept_rollback: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::OpenOptions;
    use std::path::Path;

    fn run(dir: &Path, me: u64, stop: bool) -> (Vec<u64>, Vec<u64>) {
        let (store, opened) = ChunkStore::open(dir, OpenOptions::default()).expect("opens");
        let past = begin(&store, Incarnation(me), opened.intact).expect("begins");
        if stop {
            store.close_clean().expect("closes");
        }
        let numbers = |runs: &[Incarnation]| runs.iter().map(|run| run.0).collect();
        (numbers(&past.runs), numbers(past.intact_since()))
    }

    #[test]
    fn orderly_stops_count_from_the_last_that_was_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(run(dir.path(), 1, true), (vec![], vec![]));
        assert_eq!(run(dir.path(), 2, true), (vec![1], vec![1]));
        assert_eq!(run(dir.path(), 3, false), (vec![1, 2], vec![1, 2]));
        assert_eq!(run(dir.path(), 4, true), (vec![1, 2, 3], vec![]));
        assert_eq!(run(dir.path(), 5, true), (vec![1, 2, 3, 4], vec![4]));
        assert_eq!(run(dir.path(), 6, true), (vec![1, 2, 3, 4, 5], vec![4, 5]));
    }

    #[test]
    fn chunk_files_that_were_taken_away_are_no_orderly_stop() {
        let dir = tempfile::tempdir().expect("temp dir");
        run(dir.path(), 1, true);
        std::fs::remove_dir_all(dir.path().join("data")).expect("removes");
        // Nothing was in it.
        assert_eq!(run(dir.path(), 2, true), (vec![1], vec![1]));
    }

    #[test]
    fn the_list_is_bounded_and_refused_when_it_makes_no_sense() {
        let long = DataDirPast {
            runs: (0..256).map(Incarnation).collect(),
            intact: 3,
            accept_rollback: false,
        };
        assert_eq!(decode(&encode(&long)), Some(long));
        assert_eq!(decode(&[1, 2, 3]), None);
        assert_eq!(decode(&[0; 11]), None);
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = ChunkStore::open(dir.path(), OpenOptions::default()).expect("opens");
        for me in 0..300 {
            begin(&store, Incarnation(me), true).expect("begins");
        }
        let past = begin(&store, Incarnation(300), true).expect("begins");
        assert_eq!((past.runs.len(), past.intact), (256, 256));
        assert_eq!(past.runs.last(), Some(&Incarnation(299)));
    }
}
