//! Which call comes next: at random, on few names, so that calls meet each other.

use super::call::{Act, Call, How, Open, SetTime, Special};
use crate::random::Random;

/// What is held open on one mount, at most.
pub const SLOTS: usize = 3;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const XATTRS: [&str; 3] = ["user.x", "user.y", "trusted.z"];
const MODES: [u32; 12] = [
    0o777, 0o777, 0o777, 0o755, 0o700, 0o644, 0o666, 0o600, 0o1777, 0o2775, 0o4755, 0o2644,
];
const IDS: [Option<u32>; 5] = [None, Some(0), Some(1000), Some(1001), Some(2000)];

/// What calls are made of.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    pub mounts: usize,
    /// So many users; the first is root.
    pub users: usize,
    /// RENAME_WHITEOUT too.
    pub whiteouts: bool,
}

/// A call on up to three levels of dirs.
pub fn next(random: &mut Random, kinds: Kinds) -> Call {
    let mount = random.index(kinds.mounts);
    // Root meets no refusal for want of rights: half of the calls are its.
    let user = match random.chance(500) {
        true => 0,
        false => random.index(kinds.users),
    };
    let act = act(random, kinds);
    Call { mount, user, act }
}

fn path(random: &mut Random) -> String {
    let mut path = String::new();
    let levels = [1, 1, 1, 2, 2, 2, 2, 3, 3][random.index(9)];
    for level in 0..levels {
        if level > 0 {
            path.push('/');
            if random.chance(20) {
                path.push_str("../");
            }
        }
        path.push_str(NAMES[random.index(NAMES.len())]);
    }
    path
}

fn mode(random: &mut Random) -> u32 {
    MODES[random.index(MODES.len())]
}

fn len(random: &mut Random) -> u64 {
    [0, 1, 100, 4096, 5000, 12_288, 70_000][random.index(7)]
}

fn time(random: &mut Random) -> SetTime {
    let seconds = [-1, 0, 1_000_000_000, 1_900_000_000, 4_000_000_000];
    match random.below(4) {
        0 => SetTime::Leave,
        1 => SetTime::Now,
        _ => SetTime::At(
            seconds[random.index(seconds.len())],
            random.below(1_000_000_000) as u32,
        ),
    }
}

fn open(random: &mut Random) -> Open {
    let (read, write) = [(true, false), (false, true), (true, true)][random.index(3)];
    let mut half = |in_thousand| random.chance(in_thousand);
    let create = half(600);
    Open {
        read,
        write,
        create,
        exclusive: create && half(300),
        truncate: write && half(300),
        append: write && half(200),
        no_follow: half(200),
        // Together with creation the kernel refuses it since Linux 6.3.
        dir: !create && !write && half(300),
    }
}

fn act(random: &mut Random, kinds: Kinds) -> Act {
    let slot = random.index(SLOTS);
    match random.below(100) {
        0..15 => {
            let (path, open) = (path(random), open(random));
            Act::Open(slot, path, open, mode(random))
        }
        15..19 => Act::Close(slot),
        19..25 => Act::Write(slot, len(random), 1 + random.below(9000)),
        25..27 => Act::SetLen(slot, len(random)),
        27..37 => Act::MakeDir(path(random), mode(random)),
        37..41 => {
            let kinds = [Special::Fifo, Special::Socket, Special::Device];
            let kind = kinds[random.index(kinds.len())];
            Act::MakeNode(path(random), kind, mode(random))
        }
        41..45 => Act::Symlink(path(random).replace("../", ""), path(random)),
        45..52 => Act::Link(path(random), path(random)),
        52..67 => {
            let hows = match kinds.whiteouts {
                true => &[How::Over, How::NoReplace, How::Exchange, How::Whiteout][..],
                false => &[How::Over, How::NoReplace, How::Exchange],
            };
            // Half of all replace.
            let how = match random.chance(400) {
                true => How::Over,
                false => hows[random.index(hows.len())],
            };
            Act::Rename(path(random), path(random), how)
        }
        67..73 => Act::Unlink(path(random)),
        73..77 => Act::RemoveDir(path(random)),
        77..81 => Act::Chmod(path(random), mode(random)),
        81..84 => {
            let (uid, gid) = (IDS[random.index(4)], IDS[random.index(5)]);
            Act::Chown(path(random), uid, gid, random.chance(500))
        }
        84..87 => Act::Times(path(random), time(random), time(random)),
        87..90 => Act::Truncate(path(random), len(random)),
        90..93 => {
            let there = [None, Some(true), Some(false)][random.index(3)];
            let name = XATTRS[random.index(XATTRS.len())].to_owned();
            Act::SetXattr(path(random), name, random.index(60), there)
        }
        93..94 => {
            let name = XATTRS[random.index(XATTRS.len())].to_owned();
            Act::RemoveXattr(path(random), name)
        }
        94..97 => Act::Read(path(random)),
        97..99 => Act::List(path(random)),
        _ => Act::ReadLink(path(random)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_they_are_written() {
        let kinds = Kinds {
            mounts: 2,
            users: 3,
            whiteouts: true,
        };
        let mut random = Random::new(1);
        for _ in 0..5000 {
            let call = next(&mut random, kinds);
            assert_eq!(call.to_string().parse(), Ok(call));
        }
        assert!("0 0 wizard a".parse::<Call>().is_err());
        assert!("0 0 open 1 a q 644".parse::<Call>().is_err());
    }
}
