//! Random operations on a namespace.

use super::model_xattrs::ModelAcl;
use super::*;
use dfs_proto::attr::{FileKind, SetAttr, SetTime};
use dfs_proto::ids::Generation;
use dfs_proto::xattr::SetXattrIf;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Make(Place, FileKind, u16, Creator),
    Open(Place, u16),
    Symlink(Place, Vec<u8>),
    Link(Index, Place),
    Unlink(Place),
    Rmdir(Place),
    Rename(Place, Place, RenameFlags),
    SetAttr(Index, SetAttr),
    SetSize(Index, u64, bool),
    Punch(Index, u64, u64),
    SetXattr(Index, &'static str, Vec<u8>, SetXattrIf),
    SetAcl(Index, bool, ModelAcl),
    RemoveXattr(Index, &'static str),
    Push(Index, SizeTimes),
    Settle(Index, u64),
    Free(Index),
    CutDone(Index),
}

/// Any inode that ever was (so files as dirs, removed dirs and freed inodes come up too), and
/// one of few names, so that they meet.
pub(super) type Place = (Index, &'static str);

fn place() -> impl Strategy<Value = Place> {
    (any::<Index>(), prop::sample::select(vec!["a", "b", "c"]))
}

fn creator() -> impl Strategy<Value = Creator> {
    (0u32..3, 0u32..3, 0u16..0o1000).prop_map(|(uid, gid, umask)| Creator { uid, gid, umask })
}

fn time() -> impl Strategy<Value = Timestamp> {
    (-9i64..9, 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Timestamp {
        seconds,
        nanoseconds,
    })
}

fn set_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![Just(SetTime::Now), time().prop_map(SetTime::At)]
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    let option = |some: std::ops::Range<u32>| prop::option::of(some);
    (
        prop::option::of(0u16..0o10000),
        option(0..3),
        option(0..3),
        prop::option::of(set_time()),
        prop::option::of(set_time()),
    )
        .prop_map(|(mode, uid, gid, accessed, modified)| SetAttr {
            mode,
            uid,
            gid,
            accessed,
            modified,
        })
}

fn push() -> impl Strategy<Value = SizeTimes> {
    (
        0u64..100,
        0u64..4,
        prop::option::of(time()),
        prop::option::of(time()),
        any::<bool>(),
    )
        .prop_map(|(size, generation, modified, accessed, wrote)| SizeTimes {
            size,
            sparse: wrote,
            generation: Generation(generation),
            modified,
            accessed,
            wrote,
        })
}

fn flags() -> impl Strategy<Value = RenameFlags> {
    let flags = |no_replace, exchange| RenameFlags {
        no_replace,
        exchange,
    };
    prop_oneof![
        6 => Just(flags(false, false)),
        2 => Just(flags(false, true)),
        1 => Just(flags(true, false)),
        1 => Just(flags(true, true)),
    ]
}

fn xattr_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["user.a", "user.b", "trusted.a", "security.capability"])
}

fn any_xattr_name() -> impl Strategy<Value = &'static str> {
    let acls = vec!["system.posix_acl_access", "system.posix_acl_default"];
    prop_oneof![xattr_name(), prop::sample::select(acls)]
}

fn only() -> impl Strategy<Value = SetXattrIf> {
    let all = [SetXattrIf::Always, SetXattrIf::Absent, SetXattrIf::Present];
    prop::sample::select(all.to_vec())
}

fn model_acl() -> impl Strategy<Value = ModelAcl> {
    let some = || prop::option::of(0u16..8);
    (0u16..8, some(), 0u16..8, some(), 0u16..8).prop_map(|(owner, named, group, mask, others)| {
        ModelAcl {
            owner,
            named,
            group,
            mask,
            others,
        }
    })
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let file = prop::sample::select(vec![FileKind::Regular, FileKind::Fifo]);
    let index = any::<Index>;
    prop_oneof![
        5 => (place(), 0u16..0o10000, creator())
            .prop_map(|(at, mode, by)| Op::Make(at, FileKind::Dir, mode, by)),
        3 => (place(), file, 0u16..0o10000, creator())
            .prop_map(|(at, kind, mode, by)| Op::Make(at, kind, mode, by)),
        4 => (place(), 0u16..0o1000).prop_map(|(at, mode)| Op::Open(at, mode)),
        2 => (place(), prop::collection::vec(1u8..255, 1..9))
            .prop_map(|(at, to)| Op::Symlink(at, to)),
        4 => (index(), place()).prop_map(|(i, at)| Op::Link(i, at)),
        4 => place().prop_map(Op::Unlink),
        4 => place().prop_map(Op::Rmdir),
        9 => (place(), place(), flags()).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        2 => (index(), set_attr()).prop_map(|(i, set)| Op::SetAttr(i, set)),
        3 => (index(), 0u64..100, any::<bool>()).prop_map(|(i, s, m)| Op::SetSize(i, s, m)),
        2 => (index(), 0u64..120, 0u64..120).prop_map(|(i, from, to)| Op::Punch(i, from, to)),
        2 => (index(), xattr_name(), prop::collection::vec(any::<u8>(), 0..9), only())
            .prop_map(|(i, name, value, only)| Op::SetXattr(i, name, value, only)),
        4 => (index(), any::<bool>(), model_acl()).prop_map(|(i, d, acl)| Op::SetAcl(i, d, acl)),
        2 => (index(), any_xattr_name()).prop_map(|(i, name)| Op::RemoveXattr(i, name)),
        2 => (index(), push()).prop_map(|(i, push)| Op::Push(i, push)),
        1 => (index(), 0u64..150).prop_map(|(i, end)| Op::Settle(i, end)),
        2 => index().prop_map(Op::Free),
        1 => index().prop_map(Op::CutDone),
    ]
}
