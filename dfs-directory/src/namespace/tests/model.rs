//! A small reference model of the namespace: a map of nodes, nothing stored that can be counted
//! or searched for. Written from POSIX, not from the operations.

use super::model_xattrs::ModelAcl;
use dfs_proto::attr::{FileKind, SetAttr, SetTime, SizeTimes, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::msg::namespace::{Creator, RenameFlags};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Id = u64;
pub(super) const ROOT: Id = 1;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) generation: u64,
    pub(super) target: Vec<u8>,
    pub(super) accessed: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) changed: Timestamp,
    pub(super) names: BTreeMap<String, Id>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) acl: Option<ModelAcl>,
    pub(super) default_acl: Option<ModelAcl>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<Id, Node>,
    /// (inode, generation, from), in the order in which they came up.
    pub(super) cuts: Vec<(Id, u64, u64)>,
    pub(super) freed: BTreeSet<Id>,
    pub(super) now: Timestamp,
    made: u64,
}

pub(super) type Answer = Result<Option<Id>, ErrorCode>;

fn holds(condition: bool, otherwise: ErrorCode) -> Result<(), ErrorCode> {
    condition.then_some(()).ok_or(otherwise)
}

impl Model {
    pub(super) fn new(now: Timestamp) -> Self {
        let mut model = Self {
            now,
            ..Self::default()
        };
        let root = Creator {
            uid: 0,
            gid: 0,
            umask: 0,
        };
        model.node(FileKind::Dir, 0o755, root);
        model
    }

    fn node(&mut self, kind: FileKind, mode: u16, creator: Creator) -> Id {
        self.made += 1;
        let node = Node {
            kind,
            mode,
            uid: creator.uid,
            gid: creator.gid,
            size: if kind == FileKind::Dir { 4096 } else { 0 },
            generation: 0,
            target: Vec::new(),
            accessed: self.now,
            modified: self.now,
            changed: self.now,
            names: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            acl: None,
            default_acl: None,
        };
        self.nodes.insert(self.made, node);
        self.made
    }

    fn all_names(&self) -> impl Iterator<Item = (Id, &String, Id)> {
        self.nodes
            .iter()
            .flat_map(|(dir, node)| node.names.iter().map(move |(name, to)| (*dir, name, *to)))
    }

    fn has_path(&self, id: Id) -> bool {
        id == ROOT || self.all_names().any(|(_, _, to)| to == id)
    }

    pub(super) fn links(&self, id: Id) -> u32 {
        let node = &self.nodes[&id];
        if node.kind != FileKind::Dir {
            return self.all_names().filter(|(_, _, to)| *to == id).count() as u32;
        }
        if !self.has_path(id) {
            return 0;
        }
        let is_dir = |id: &&Id| self.nodes[*id].kind == FileKind::Dir;
        2 + node.names.values().filter(is_dir).count() as u32
    }

    pub(super) fn parent(&self, dir: Id) -> Id {
        let above = self.all_names().find(|(_, _, to)| *to == dir);
        above.map_or(ROOT, |(parent, _, _)| parent)
    }

    pub(super) fn orphans(&self) -> Vec<Id> {
        let ids = self.nodes.keys().copied();
        ids.filter(|id| !self.has_path(*id)).collect()
    }

    fn below_or_same(&self, top: Id, id: Id) -> bool {
        let mut names = self.nodes[&top].names.values();
        top == id || names.any(|child| self.below_or_same(*child, id))
    }

    fn is_dir(&self, id: Id) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.kind == FileKind::Dir)
    }

    /// A dir that can be changed.
    fn dir(&self, id: Id) -> Result<(), ErrorCode> {
        holds(self.nodes.contains_key(&id), ErrorCode::NotFound)?;
        holds(self.is_dir(id), ErrorCode::NotADir)?;
        holds(self.has_path(id), ErrorCode::NotFound)
    }

    fn at(&self, dir: Id, name: &str) -> Option<Id> {
        self.nodes.get(&dir)?.names.get(name).copied()
    }

    fn edit(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node that was looked up")
    }

    fn dir_changes(&mut self, dir: Id) {
        let now = self.now;
        let node = self.edit(dir);
        (node.modified, node.changed) = (now, now);
    }

    fn inode_changes(&mut self, id: Id) {
        let now = self.now;
        self.edit(id).changed = now;
    }

    pub(super) fn make(
        &mut self,
        (dir, name): (Id, &str),
        kind: FileKind,
        mode: u16,
        creator: Creator,
    ) -> Answer {
        self.dir(dir)?;
        holds(self.at(dir, name).is_none(), ErrorCode::Exists)?;
        let id = self.node(kind, mode, creator);
        let above = self.nodes[&dir].clone();
        if kind != FileKind::Symlink {
            self.edit(id).inherit(&above, creator.umask);
        }
        if above.mode & 0o2000 != 0 {
            self.edit(id).gid = above.gid;
            if kind == FileKind::Dir {
                self.edit(id).mode |= 0o2000;
            }
        }
        self.edit(dir).names.insert(name.to_owned(), id);
        self.dir_changes(dir);
        Ok(Some(id))
    }

    pub(super) fn open(&mut self, at: (Id, &str), mode: u16, creator: Creator) -> Answer {
        self.dir(at.0)?;
        match self.at(at.0, at.1) {
            None => self.make(at, FileKind::Regular, mode, creator),
            Some(id) => match self.nodes[&id].kind {
                FileKind::Regular => Ok(Some(id)),
                FileKind::Dir => Err(ErrorCode::IsADir),
                _ => Err(ErrorCode::Stale),
            },
        }
    }

    pub(super) fn symlink(&mut self, at: (Id, &str), to: &[u8], creator: Creator) -> Answer {
        let made = self.make(at, FileKind::Symlink, 0o777, creator)?;
        let node = self.edit(made.unwrap_or_default());
        node.target = to.to_vec();
        node.size = to.len() as u64;
        Ok(made)
    }

    pub(super) fn link(&mut self, id: Id, (dir, name): (Id, &str)) -> Answer {
        self.dir(dir)?;
        holds(self.at(dir, name).is_none(), ErrorCode::Exists)?;
        holds(self.nodes.contains_key(&id), ErrorCode::Stale)?;
        holds(!self.is_dir(id), ErrorCode::NotPermitted)?;
        holds(self.links(id) > 0, ErrorCode::NotFound)?;
        self.edit(dir).names.insert(name.to_owned(), id);
        self.dir_changes(dir);
        self.inode_changes(id);
        Ok(Some(id))
    }

    pub(super) fn unlink(&mut self, (dir, name): (Id, &str)) -> Answer {
        self.dir(dir)?;
        let id = self.at(dir, name).ok_or(ErrorCode::NotFound)?;
        holds(!self.is_dir(id), ErrorCode::IsADir)?;
        self.drop_name(dir, name, id);
        Ok(Some(id))
    }

    pub(super) fn rmdir(&mut self, (dir, name): (Id, &str)) -> Answer {
        self.dir(dir)?;
        let id = self.at(dir, name).ok_or(ErrorCode::NotFound)?;
        holds(self.is_dir(id), ErrorCode::NotADir)?;
        holds(self.nodes[&id].names.is_empty(), ErrorCode::NotEmpty)?;
        self.drop_name(dir, name, id);
        Ok(Some(id))
    }

    fn drop_name(&mut self, dir: Id, name: &str, id: Id) {
        self.edit(dir).names.remove(name);
        self.dir_changes(dir);
        self.inode_changes(id);
    }

    pub(super) fn rename(
        &mut self,
        from: (Id, &str),
        to: (Id, &str),
        flags: RenameFlags,
    ) -> Answer {
        let both = flags.no_replace && flags.exchange;
        holds(!both, ErrorCode::InvalidArgument)?;
        self.dir(from.0)?;
        self.dir(to.0)?;
        let source = self.at(from.0, from.1).ok_or(ErrorCode::NotFound)?;
        let target = self.at(to.0, to.1);
        holds(!(flags.no_replace && target.is_some()), ErrorCode::Exists)?;
        let inside_itself = self.is_dir(source) && self.below_or_same(source, to.0);
        holds(!inside_itself, ErrorCode::InvalidArgument)?;
        holds(!flags.exchange || target.is_some(), ErrorCode::NotFound)?;
        if let Some(target) = target {
            let swallows = self.is_dir(target) && self.below_or_same(target, from.0);
            let code = [ErrorCode::NotEmpty, ErrorCode::InvalidArgument];
            holds(!swallows, code[usize::from(flags.exchange)])?;
            if target == source {
                return Ok(Some(source));
            }
            if flags.exchange {
                self.edit(from.0).names.insert(from.1.to_owned(), target);
            } else {
                match (self.is_dir(source), self.is_dir(target)) {
                    (true, false) => return Err(ErrorCode::NotADir),
                    (false, true) => return Err(ErrorCode::IsADir),
                    _ => {}
                }
                let empty = self.nodes[&target].names.is_empty();
                holds(empty, ErrorCode::NotEmpty)?;
            }
            self.inode_changes(target);
        }
        if !flags.exchange {
            self.edit(from.0).names.remove(from.1);
        }
        self.edit(to.0).names.insert(to.1.to_owned(), source);
        self.inode_changes(source);
        self.dir_changes(from.0);
        self.dir_changes(to.0);
        Ok(Some(source))
    }

    pub(super) fn set_attr(&mut self, id: Id, set: &SetAttr) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        let is_file = node.kind != FileKind::Dir;
        if is_file && set.mode.is_none() && (set.uid.is_some() || set.gid.is_some()) {
            let group_runs = node.mode & 0o010 != 0;
            node.mode &= if group_runs { 0o1777 } else { 0o3777 };
        }
        let time = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        if let Some(mode) = set.mode {
            node.chmod(mode);
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        node.accessed = set.accessed.map_or(node.accessed, time);
        node.modified = set.modified.map_or(node.modified, time);
        node.changed = now;
        Ok(Some(id))
    }

    pub(super) fn set_size(&mut self, id: Id, size: u64, modified: bool) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        holds(node.kind != FileKind::Dir, ErrorCode::IsADir)?;
        let regular = node.kind == FileKind::Regular;
        holds(regular, ErrorCode::InvalidArgument)?;
        if size < node.size {
            node.generation += 1;
            self.cuts.push((id, node.generation, size));
        }
        node.size = size;
        node.changed = now;
        if modified {
            node.modified = now;
        }
        Ok(Some(id))
    }

    pub(super) fn punch(&mut self, id: Id, from: u64, to: u64) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        holds(node.kind != FileKind::Dir, ErrorCode::IsADir)?;
        let regular = node.kind == FileKind::Regular;
        holds(regular && from < to, ErrorCode::InvalidArgument)?;
        if from < node.size {
            node.generation += 1;
            self.cuts.push((id, node.generation, from));
            node.modified = now;
            node.changed = now;
        }
        Ok(Some(id))
    }

    pub(super) fn push(&mut self, id: Id, push: &SizeTimes) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        let present = push.generation.0 >= node.generation;
        if node.kind == FileKind::Regular && present && push.size > node.size {
            node.size = push.size;
        }
        if push.wrote || push.modified.is_some() {
            node.modified = push.modified.unwrap_or(now);
            node.changed = node.changed.max(node.modified);
        }
        node.accessed = push.accessed.unwrap_or(node.accessed);
        Ok(Some(id))
    }

    pub(super) fn settle(&mut self, id: Id, end: u64) -> Answer {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(None);
        };
        if node.kind == FileKind::Regular {
            if end > node.size {
                node.size = end;
                node.modified = now;
                node.changed = now;
            }
            node.generation += 1;
            self.cuts.push((id, node.generation, node.size));
        }
        Ok(Some(id))
    }

    pub(super) fn free(&mut self, id: Id) -> Answer {
        if !self.nodes.contains_key(&id) {
            return Ok(None);
        }
        holds(!self.has_path(id), ErrorCode::Busy)?;
        let node = self.nodes.remove(&id);
        self.cuts.retain(|(inode, _, _)| *inode != id);
        if node.is_some_and(|node| node.kind == FileKind::Regular) {
            self.freed.insert(id);
        }
        Ok(None)
    }
}
