//! The calls, and how they are drawn.

use super::{BASE, BLOCK, SPAN};
use crate::random::Random;

/// One call on one of the mounts. Offsets and lengths are within the window and its bytes; what does
/// not fit the file as it is then (a read behind its end) is cut to it when the call is made, so that
/// every selection of calls can be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Write {
        host: usize,
        at: u64,
        len: u64,
    },
    /// Through a descriptor with O_APPEND.
    Append {
        host: usize,
        len: u64,
    },
    /// Through a descriptor with O_DIRECT, in whole blocks.
    WriteDirect {
        host: usize,
        at: u64,
        len: u64,
    },
    Truncate {
        host: usize,
        size: u64,
    },
    Punch {
        host: usize,
        at: u64,
        len: u64,
    },
    Zero {
        host: usize,
        at: u64,
        len: u64,
        keep_size: bool,
    },
    Allocate {
        host: usize,
        at: u64,
        len: u64,
        keep_size: bool,
    },
    /// Stores into a map of the window.
    Store {
        host: usize,
        at: u64,
        len: u64,
        sync: bool,
    },
    /// msync of that map.
    SyncMap {
        host: usize,
    },
    Read {
        host: usize,
        at: u64,
        len: u64,
        way: usize,
    },
    Fsync {
        host: usize,
    },
    /// Descriptors are closed and opened again; the maps stay.
    Reopen {
        host: usize,
    },
    /// The maps are made anew.
    Remap {
        host: usize,
    },
}

impl Call {
    /// On which mount.
    pub fn host(&self) -> usize {
        match *self {
            Self::Write { host, .. }
            | Self::Append { host, .. }
            | Self::WriteDirect { host, .. }
            | Self::Truncate { host, .. }
            | Self::Punch { host, .. }
            | Self::Zero { host, .. }
            | Self::Allocate { host, .. }
            | Self::Store { host, .. }
            | Self::SyncMap { host }
            | Self::Read { host, .. }
            | Self::Fsync { host }
            | Self::Reopen { host }
            | Self::Remap { host } => host,
        }
    }
}

/// Calls made of a seed: the same for ever.
pub fn generate(seed: u64, count: usize) -> Vec<Call> {
    let mut random = Random::new(seed);
    (0..count).map(|_| draw(&mut random)).collect()
}

fn draw(random: &mut Random) -> Call {
    let host = random.index(2);
    let (at, len) = range(random);
    let keep_size = random.chance(500);
    match random.below(100) {
        0..18 => Call::Write { host, at, len },
        18..24 => Call::Append { host, len },
        24..30 => {
            let at = at / BLOCK * BLOCK;
            let len = len.next_multiple_of(BLOCK).min(BASE + SPAN - at);
            Call::WriteDirect { host, at, len }
        }
        30..38 => {
            let size = match random.below(8) {
                0 => 0,
                1 => BASE + random.below(SPAN / BLOCK) * BLOCK,
                _ => BASE + random.below(SPAN),
            };
            Call::Truncate { host, size }
        }
        38..44 => Call::Punch { host, at, len },
        44..50 => Call::Zero {
            host,
            at,
            len,
            keep_size,
        },
        50..55 => Call::Allocate {
            host,
            at,
            len,
            keep_size,
        },
        55..70 => {
            let sync = random.chance(500);
            Call::Store {
                host,
                at,
                len,
                sync,
            }
        }
        70..73 => Call::SyncMap { host },
        73..93 => {
            let way = random.index(4);
            Call::Read { host, at, len, way }
        }
        93..95 => Call::Fsync { host },
        95..98 => Call::Reopen { host },
        _ => Call::Remap { host },
    }
}

/// A range of the window: small ones, large ones, and some that begin or end with a block.
fn range(random: &mut Random) -> (u64, u64) {
    let longest = match random.below(10) {
        0..5 => 5_000,
        5..9 => 70_000,
        _ => SPAN,
    };
    let mut at = random.below(SPAN);
    let mut end = (at + 1 + random.below(longest)).min(SPAN);
    if random.chance(250) {
        at = at / BLOCK * BLOCK;
    }
    if random.chance(250) {
        end = end.next_multiple_of(BLOCK);
    }
    (BASE + at, end - at)
}
