//! Power cuts: of what was not synced, any part may be on disk, in any order.

use super::super::slot::DATA_OFFSET;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Write {
        at: u64,
        offset: u32,
        len: u32,
    },
    Sync {
        at: u64,
    },
    /// Shortens chunk 0.
    Cut {
        len: u32,
    },
    /// Punches a hole into chunk 0.
    Punch {
        from: u32,
        len: u32,
    },
}

#[derive(Default)]
struct History {
    /// Content of each version.
    contents: BTreeMap<u64, Vec<u8>>,
    synced: Option<u64>,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0u64..2, 0u32..60_000, 1u32..20_000)
            .prop_map(|(at, offset, len)| Op::Write { at, offset, len }),
        2 => (0u64..2).prop_map(|at| Op::Sync { at }),
        1 => (1u32..60_000).prop_map(|len| Op::Cut { len }),
        1 => (0u32..60_000, 1u32..30_000).prop_map(|(from, len)| Op::Punch { from, len }),
    ];
    proptest::collection::vec(op, 1..14)
}

/// The header is on disk and the data are not.
const HEADER_ONLY: u8 = 4;

/// Each sector as it was synced or as it was last, by the bits of `chance`.
fn mixture(last: &[u8], synced: &[u8], chance: &mut u64, mode: u8) -> Vec<u8> {
    let mut mixed = Vec::with_capacity(last.len());
    for (at, sector) in last.chunks(SECTOR).enumerate() {
        *chance ^= *chance << 13;
        *chance ^= *chance >> 7;
        *chance ^= *chance << 17;
        let start = (at * SECTOR).min(synced.len());
        let old = &synced[start..(start + sector.len()).min(synced.len())];
        let keep_old = match mode {
            0 => true,
            1 => chance.is_multiple_of(2),
            2 => chance.is_multiple_of(8),
            HEADER_ONLY => at * SECTOR >= DATA_OFFSET as usize,
            5 => at * SECTOR < DATA_OFFSET as usize,
            _ => !chance.is_multiple_of(8),
        };
        if keep_old {
            mixed.extend_from_slice(old);
            mixed.resize(start.max(at * SECTOR) + sector.len(), 0);
        } else {
            mixed.extend_from_slice(sector);
        }
    }
    mixed
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn what_was_synced_is_there_or_told_torn(ops in ops(), seed in 1u64.., mode in 0u8..7) {
        let dir = scratch();
        let synced_files = scratch();
        let (store, _) = open(dir.path());
        store.disk.faults.keep_synced(synced_files.path());
        let mut histories: BTreeMap<u64, History> = BTreeMap::new();
        let (mut counter, mut generation) = (0, 0);
        for op in &ops {
            counter += 1;
            match *op {
                Op::Write { at, offset, len } => {
                    let data = bytes(counter, len as usize);
                    write_at(&store, key(1, at), generation, counter, offset, &data).expect("writes");
                    let content = content(&store, key(1, at)).expect("reads");
                    histories.entry(at).or_default().contents.insert(counter, content);
                }
                Op::Sync { at } => {
                    store.sync(&[key(1, at)]).expect("syncs");
                    if let Some(history) = histories.get_mut(&at) {
                        history.synced = history.contents.keys().last().copied();
                    }
                }
                Op::Cut { len } => {
                    generation += 1;
                    store
                        .cut(InodeId(1), Generation(generation), u64::from(len)..u64::MAX, LAYOUT, &[GroupId(1)])
                        .expect("cuts");
                    if let Some(history) = histories.get_mut(&0) {
                        // The version stays; its content is another one from here on.
                        let (last, content) = history.contents.pop_last().expect("written");
                        if content.len() > len as usize {
                            history.contents.clear();
                            history.synced = Some(last);
                        }
                        let content = content[..content.len().min(len as usize)].to_vec();
                        history.contents.insert(last, content);
                    }
                }
                Op::Punch { from, len } => {
                    generation += 1;
                    let range = u64::from(from)..u64::from(from + len);
                    store
                        .cut(InodeId(1), Generation(generation), range, LAYOUT, &[GroupId(1)])
                        .expect("punches");
                    if let Some(history) = histories.get_mut(&0) {
                        let (last, mut content) = history.contents.pop_last().expect("written");
                        let end = content.len().min((from + len) as usize);
                        if content.len() > from as usize {
                            history.contents.clear();
                            history.synced = Some(last);
                            content[from as usize..end].fill(0);
                        }
                        history.contents.insert(last, content);
                    }
                }
            }
        }
        drop(store);

        let mut chance = seed;
        for at in histories.keys() {
            let path = file_of(dir.path(), key(1, *at));
            let last = std::fs::read(&path).expect("reads");
            let name = path.file_name().expect("a name");
            let synced = std::fs::read(synced_files.path().join(name)).unwrap_or_default();
            std::fs::write(&path, mixture(&last, &synced, &mut chance, mode)).expect("writes");
        }

        let (store, opened) = open(dir.path());
        prop_assert!(!opened.clean);
        for (at, history) in &histories {
            let at = key(1, *at);
            let last = history.contents.keys().last().copied().expect("written");
            match store.state(at) {
                None => prop_assert_eq!(history.synced, None, "what was synced is a hole"),
                Some(state) if state.damaged => {
                    prop_assert_eq!(store.damage(at), Some(Damage::Torn), "told rot");
                    prop_assert_ne!(history.synced, Some(last), "all was synced");
                    let kept = mode == HEADER_ONLY && history.synced.is_some();
                    prop_assert!(!kept, "the synced data are all there");
                    store.adopt_torn(at, state.version).expect("adopts");
                    content(&store, at).expect("reads after the adoption");
                }
                Some(state) => {
                    let held = state.version.counter;
                    prop_assert!(Some(held) >= history.synced, "older than what was synced");
                    let expected = history.contents.get(&held).expect("a version of this chunk");
                    let read = content(&store, at);
                    prop_assert!(read.as_ref() == Ok(expected), "content of {} at {}: {:?}", at, held, read.map(|r| r.len()));
                }
            }
        }
        // It all can be synced and survives an orderly stop.
        store.close_clean().expect("closes");
    }
}
