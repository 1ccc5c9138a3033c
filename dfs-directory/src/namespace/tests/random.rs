//! Random operations: the real tables and the model answer alike and look alike after each.

use super::model::{self, Model};
use super::operations::{Op, Place, op};
use super::*;
use dfs_proto::attr::FileKind;
use dfs_proto::ids::Generation;
use dfs_proto::msg::namespace::DirPageEntry;
use dfs_proto::xattr::SetXattrIf;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;

struct Pair {
    real: Cluster,
    model: Model,
    /// The highest inode number there was.
    highest: u64,
}

impl Pair {
    fn new() -> Self {
        let real = Cluster::new();
        let made = real.attr(ROOT).changed;
        Self {
            real,
            model: Model::new(made),
            highest: 1,
        }
    }

    /// One inode of all that ever were, and one that never was.
    fn pick(&self, index: Index) -> InodeId {
        InodeId(1 + index.index(self.highest as usize + 1) as u64)
    }

    fn step(&mut self, op: &Op) -> (Result<Changed, ErrorCode>, model::Answer) {
        self.model.now = at(self.real.seconds + 1);
        let pick = |index: &Index| self.pick(*index);
        let spot = |place: &Place| (self.pick(place.0), place.1);
        match op {
            Op::Make(place, kind, mode, creator) => {
                let (parent, text) = spot(place);
                let mutation = match kind {
                    FileKind::Dir => Mutation::MakeDir {
                        parent,
                        name: name(text),
                        mode: *mode,
                        creator: *creator,
                    },
                    kind => Mutation::MakeNode {
                        parent,
                        name: name(text),
                        kind: *kind,
                        mode: *mode,
                        device: 0,
                        creator: *creator,
                    },
                };
                let real = self.real.mutate(mutation);
                let model = self.model.make((parent.0, text), *kind, *mode, *creator);
                (real, model)
            }
            Op::Open(place, mode) => {
                let (parent, text) = spot(place);
                let real = self.real.mutate(Mutation::Create {
                    parent,
                    name: name(text),
                    mode: *mode,
                    creator: ALICE,
                    exclusive: false,
                });
                (real, self.model.open((parent.0, text), *mode, ALICE))
            }
            Op::Symlink(place, to) => {
                let (parent, text) = spot(place);
                let real = self.real.symlink(parent, text, to);
                (real, self.model.symlink((parent.0, text), to, ALICE))
            }
            Op::Link(index, place) => {
                let (inode, (parent, text)) = (pick(index), spot(place));
                let real = self.real.link(inode, parent, text);
                (real, self.model.link(inode.0, (parent.0, text)))
            }
            Op::Unlink(place) => {
                let (parent, text) = spot(place);
                let real = self.real.unlink(parent, text);
                (real, self.model.unlink((parent.0, text)))
            }
            Op::Rmdir(place) => {
                let (parent, text) = spot(place);
                let real = self.real.rmdir(parent, text);
                (real, self.model.rmdir((parent.0, text)))
            }
            Op::Rename(from, to, flags) => {
                let (from, to) = (spot(from), spot(to));
                let real = self.real.rename_with(from, to, *flags);
                let (from, to) = ((from.0.0, from.1), (to.0.0, to.1));
                (real, self.model.rename(from, to, *flags))
            }
            Op::SetAttr(index, set) => {
                let inode = pick(index);
                let real = self.real.mutate(Mutation::SetAttr { inode, set: *set });
                (real, self.model.set_attr(inode.0, set))
            }
            Op::SetSize(index, size, modified) => {
                let inode = pick(index);
                let real = self.real.mutate(Mutation::SetSize {
                    inode,
                    size: *size,
                    modified: *modified,
                });
                (real, self.model.set_size(inode.0, *size, *modified))
            }
            Op::Punch(index, from, to) => {
                let (inode, from, to) = (pick(index), *from, *to);
                let real = self.real.mutate(Mutation::Punch { inode, from, to });
                (real, self.model.punch(inode.0, from, to))
            }
            Op::SetXattr(index, text, value, only) => {
                let inode = pick(index);
                let real = self.real.set_xattr(inode, text, value, *only);
                (real, self.model.set_xattr(inode.0, text, value, *only))
            }
            Op::SetAcl(index, default, acl) => {
                let inode = pick(index);
                let which = ["access", "default"][usize::from(*default)];
                let text = format!("system.posix_acl_{which}");
                let always = SetXattrIf::Always;
                let real = self.real.set_xattr(inode, &text, &acl.bytes(), always);
                (real, self.model.set_acl(inode.0, *default, *acl))
            }
            Op::RemoveXattr(index, text) => {
                let inode = pick(index);
                let real = self.real.remove_xattr(inode, text);
                (real, self.model.remove_xattr(inode.0, text))
            }
            Op::Push(index, push) => {
                let inode = pick(index);
                let real = self.real.push(inode, *push);
                (real, self.model.push(inode.0, push))
            }
            Op::Settle(index, end) => {
                let (inode, end) = (pick(index), *end);
                let real = self.real.command(NamespaceCommand::Settle { inode, end });
                (real, self.model.settle(inode.0, end))
            }
            Op::Free(index) => {
                let inode = pick(index);
                let real = self.real.command(NamespaceCommand::FreeOrphan { inode });
                (real, self.model.free(inode.0))
            }
            Op::CutDone(index) => self.end_cut(*index),
        }
    }

    fn end_cut(&mut self, index: Index) -> (Result<Changed, ErrorCode>, model::Answer) {
        if self.model.cuts.is_empty() {
            return (Ok(Changed::default()), Ok(None));
        }
        let at = index.index(self.model.cuts.len());
        let (id, generation, _) = self.model.cuts.remove(at);
        let real = self.real.command(NamespaceCommand::CutDone {
            inode: InodeId(id),
            generation: Generation(generation),
        });
        (real, Ok(Some(id)))
    }

    /// Everything that can be seen is the same on both sides.
    fn compare(&self) {
        let tables = &self.real.tables;
        for id in 1..=self.highest + 1 {
            let real = read::attr(tables, InodeId(id)).unwrap();
            match (self.model.nodes.get(&id), real) {
                (None, real) => assert_eq!(real, Err(ErrorCode::Stale), "inode {id}"),
                (Some(node), real) => self.compare_inode(id, node, real.unwrap()),
            }
        }
        let orphans = read::orphans(tables, None, 1000).unwrap();
        let orphans: Vec<u64> = orphans.into_iter().map(|inode| inode.0).collect();
        assert_eq!(orphans, self.model.orphans());
        let mut cuts = self.model.cuts.clone();
        cuts.extend(self.model.freed.iter().map(|id| (*id, u64::MAX, 0)));
        cuts.sort_unstable();
        let intents = read::intents(tables, None, 10_000).unwrap();
        let intents = intents.iter().map(|i| (i.inode.0, i.generation.0, i.from));
        assert_eq!(intents.collect::<Vec<_>>(), cuts);
    }

    fn compare_inode(&self, id: u64, node: &model::Node, attr: FileAttr) {
        let tables = &self.real.tables;
        let inode = InodeId(id);
        assert_eq!(
            (attr.kind, attr.mode, attr.uid, attr.gid),
            (node.kind, node.mode, node.uid, node.gid),
            "inode {id}"
        );
        assert_eq!(
            (attr.size, attr.generation.0),
            (node.size, node.generation),
            "inode {id}"
        );
        assert_eq!(
            (attr.accessed, attr.modified, attr.changed),
            (node.accessed, node.modified, node.changed),
            "times of inode {id}"
        );
        assert_eq!(attr.links, self.model.links(id), "links of inode {id}");
        let xattrs = self.real.all_xattrs(inode);
        assert_eq!(xattrs, node.all_xattrs(), "attributes of inode {id}");
        match node.kind {
            FileKind::Symlink => {
                let target = read::readlink(tables, inode).unwrap();
                assert_eq!(target, Ok(node.target.clone()));
            }
            FileKind::Dir if attr.links > 0 => {
                let above = read::lookup(tables, inode, None).unwrap().unwrap();
                assert_eq!(above.inode.0, self.model.parent(id), "`..` of {id}");
                assert_eq!(self.listing(inode), node.names, "listing of {id}");
                for (text, to) in &node.names {
                    assert_eq!(self.real.lookup(inode, text), Ok(InodeId(*to)));
                }
            }
            _ => {}
        }
    }

    fn listing(&self, dir: InodeId) -> BTreeMap<String, u64> {
        let page = read::readdir(&self.real.tables, dir, 0, 1000, false);
        let page = page.unwrap().unwrap();
        assert!(page.end);
        let mut names = BTreeMap::new();
        for entry in page.entries {
            if let DirPageEntry::Entry(entry) = entry {
                let text = String::from_utf8(entry.name.as_bytes().to_vec()).unwrap();
                assert_eq!(names.insert(text, entry.inode.0), None, "listed twice");
            }
        }
        names
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_operations_match_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let mut pair = Pair::new();
        for op in &ops {
            let (real, model) = pair.step(op);
            let made = real.map(|changed| changed.attr.map(|attr| attr.inode.0));
            prop_assert_eq!(made, model, "{:?}", op);
            let highest = pair.model.nodes.keys().max().copied().unwrap_or(1);
            pair.highest = pair.highest.max(highest);
            pair.compare();
        }
        let mut again = MemoryTables::default();
        for command in &pair.real.log {
            state::apply(&mut again, command).unwrap();
        }
        prop_assert!(again == pair.real.tables, "the same log, other tables");
    }
}
