//! Random changes of one dir's subtree, next to a model of what must be there.
//!
//! One thread owns a subtree, so every answer is known beforehand: also the refusals. What a call
//! answers is compared with the model's answer at once, and the whole tree at the end, on any mount.

use crate::random::Random;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names of a dir are chosen among so many, so that they collide.
const NAMES: u64 = 12;
/// Dirs are at most so deep.
const DEPTH_MAX: usize = 4;

/// Something with a name. Files are by number, since they can have several.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    Dir(BTreeMap<String, Node>),
    File(u64),
    Link(String),
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct File {
    len: u64,
    mode: u32,
    links: u64,
}

/// A subtree that one thread changes.
#[derive(Debug)]
pub struct Subtree {
    root: PathBuf,
    random: Random,
    tree: BTreeMap<String, Node>,
    files: BTreeMap<u64, File>,
    made: u64,
    /// Calls so far, and the longest of them.
    pub calls: u64,
    pub longest: Duration,
    pub longest_what: String,
}

type Answer = Result<(), ErrorKind>;

fn not_empty(e: &io::Error) -> bool {
    e.kind() == ErrorKind::DirectoryNotEmpty
}

impl Subtree {
    /// Makes the dir `root`, which must not be there.
    pub fn new(root: PathBuf, seed: u64) -> Self {
        fs::create_dir(&root).expect("a dir of its own");
        Self {
            root,
            random: Random::new(seed),
            tree: BTreeMap::new(),
            files: BTreeMap::new(),
            made: 0,
            calls: 0,
            longest: Duration::ZERO,
            longest_what: String::new(),
        }
    }

    fn name(&mut self) -> String {
        format!("n{}", self.random.below(NAMES))
    }

    /// A dir that is there, as the names that lead to it.
    fn some_dir(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        let mut names = &self.tree;
        while path.len() < DEPTH_MAX && !self.random.chance(300) {
            let dirs: Vec<&String> = names
                .iter()
                .filter(|(_, node)| matches!(node, Node::Dir(_)))
                .map(|(name, _)| name)
                .collect();
            if dirs.is_empty() {
                break;
            }
            let name = dirs[self.random.index(dirs.len())].clone();
            let Some(Node::Dir(inside)) = names.get(&name) else {
                break;
            };
            names = inside;
            path.push(name);
        }
        path
    }

    fn dir(&self, path: &[String]) -> &BTreeMap<String, Node> {
        path.iter()
            .fold(&self.tree, |names, name| match &names[name] {
                Node::Dir(inside) => inside,
                other => panic!("{name} is {other:?}"),
            })
    }

    fn dir_mut(&mut self, path: &[String]) -> &mut BTreeMap<String, Node> {
        path.iter().fold(&mut self.tree, |names, name| {
            match names.get_mut(name).expect("a dir that is there") {
                Node::Dir(inside) => inside,
                other => panic!("{name} is {other:?}"),
            }
        })
    }

    fn path(&self, dir: &[String], name: &str) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(dir);
        path.push(name);
        path
    }

    fn drop_file(&mut self, node: &Node) {
        if let Node::File(number) = node {
            let file = self.files.get_mut(number).expect("a file of the model");
            file.links -= 1;
            if file.links == 0 {
                self.files.remove(number);
            }
        }
    }

    /// Does one random call; the model must agree with its answer.
    pub fn step(&mut self) {
        let dir = self.some_dir();
        let name = self.name();
        let at = self.path(&dir, &name);
        let present = self.dir(&dir).get(&name).cloned();
        let what;
        let (answer, expected): (io::Result<()>, Answer);
        let begun = Instant::now();
        match self.random.below(100) {
            0..25 => {
                what = format!("create {}", at.display());
                answer = fs::File::create_new(&at).map(drop);
                expected = present
                    .is_none()
                    .then_some(())
                    .ok_or(ErrorKind::AlreadyExists);
                if expected.is_ok() {
                    self.made += 1;
                    let number = self.made;
                    let file = File {
                        len: 0,
                        mode: 0o644,
                        links: 1,
                    };
                    self.files.insert(number, file);
                    self.dir_mut(&dir).insert(name, Node::File(number));
                }
            }
            25..35 => {
                what = format!("mkdir {}", at.display());
                answer = fs::create_dir(&at);
                expected = present
                    .is_none()
                    .then_some(())
                    .ok_or(ErrorKind::AlreadyExists);
                if expected.is_ok() {
                    self.dir_mut(&dir).insert(name, Node::Dir(BTreeMap::new()));
                }
            }
            35..50 => {
                what = format!("unlink {}", at.display());
                answer = fs::remove_file(&at);
                expected = match &present {
                    None => Err(ErrorKind::NotFound),
                    Some(Node::Dir(_)) => Err(ErrorKind::IsADirectory),
                    Some(_) => Ok(()),
                };
                if expected.is_ok() {
                    let gone = self.dir_mut(&dir).remove(&name).expect("it was there");
                    self.drop_file(&gone);
                }
            }
            50..56 => {
                what = format!("rmdir {}", at.display());
                answer = fs::remove_dir(&at);
                expected = match &present {
                    None => Err(ErrorKind::NotFound),
                    Some(Node::Dir(inside)) if inside.is_empty() => Ok(()),
                    Some(Node::Dir(_)) => Err(ErrorKind::DirectoryNotEmpty),
                    Some(_) => Err(ErrorKind::NotADirectory),
                };
                if expected.is_ok() {
                    self.dir_mut(&dir).remove(&name);
                }
            }
            56..76 => {
                let to_dir = self.some_dir();
                let to_name = self.name();
                let to = self.path(&to_dir, &to_name);
                what = format!("rename {} {}", at.display(), to.display());
                answer = fs::rename(&at, &to);
                expected = self.rename((&dir, &name), (&to_dir, &to_name));
            }
            76..82 => {
                let to_dir = self.some_dir();
                let to_name = self.name();
                let to = self.path(&to_dir, &to_name);
                what = format!("link {} {}", at.display(), to.display());
                answer = fs::hard_link(&at, &to);
                let taken = self.dir(&to_dir).contains_key(&to_name);
                expected = match &present {
                    None => Err(ErrorKind::NotFound),
                    Some(_) if taken => Err(ErrorKind::AlreadyExists),
                    Some(Node::Dir(_)) => Err(ErrorKind::PermissionDenied),
                    // Links to symlinks are the same as to files; left out, one name each is enough.
                    Some(Node::Link(_)) => Ok(()),
                    Some(Node::File(_)) => Ok(()),
                };
                if expected.is_ok() {
                    let node = present.expect("it is there");
                    if let Node::File(number) = &node {
                        self.files.get_mut(number).expect("a file").links += 1;
                    }
                    self.dir_mut(&to_dir).insert(to_name, node);
                }
            }
            82..88 => {
                let target = format!("t{}", self.random.below(1000));
                what = format!("symlink {}", at.display());
                answer = std::os::unix::fs::symlink(&target, &at);
                expected = present
                    .is_none()
                    .then_some(())
                    .ok_or(ErrorKind::AlreadyExists);
                if expected.is_ok() {
                    self.dir_mut(&dir).insert(name, Node::Link(target));
                }
            }
            88..94 => {
                let Some(Node::File(number)) = present else {
                    return;
                };
                let len = self.random.below(100_000);
                what = format!("truncate {} {len}", at.display());
                answer = fs::OpenOptions::new()
                    .write(true)
                    .open(&at)
                    .and_then(|file| file.set_len(len));
                expected = Ok(());
                self.files.get_mut(&number).expect("a file").len = len;
            }
            _ => {
                let Some(Node::File(number)) = present else {
                    return;
                };
                let mode = 0o600 + self.random.below(0o77) as u32;
                what = format!("chmod {} {mode:o}", at.display());
                answer = fs::set_permissions(&at, fs::Permissions::from_mode(mode));
                expected = Ok(());
                self.files.get_mut(&number).expect("a file").mode = mode;
            }
        }
        self.calls += 1;
        if begun.elapsed() > self.longest {
            self.longest = begun.elapsed();
            self.longest_what.clone_from(&what);
        }
        let answered = answer.map_err(|e| {
            if not_empty(&e) {
                ErrorKind::DirectoryNotEmpty
            } else {
                e.kind()
            }
        });
        assert_eq!(answered, expected, "call {}: {what}", self.calls);
    }

    fn rename(&mut self, from: (&[String], &str), to: (&[String], &str)) -> Answer {
        let Some(moved) = self.dir(from.0).get(from.1).cloned() else {
            return Err(ErrorKind::NotFound);
        };
        let replaced = self.dir(to.0).get(to.1).cloned();
        let is_dir = matches!(moved, Node::Dir(_));
        // Into itself or below itself.
        let mut whole: Vec<&str> = from.0.iter().map(String::as_str).collect();
        whole.push(from.1);
        let target: Vec<&str> = to.0.iter().map(String::as_str).collect();
        if is_dir && target.starts_with(&whole) {
            return Err(ErrorKind::InvalidInput);
        }
        // Over a dir that it is in.
        let mut onto = target.clone();
        onto.push(to.1);
        if whole != onto && whole.starts_with(&onto) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        if whole == onto {
            return Ok(());
        }
        match &replaced {
            // Two names of one file: nothing happens.
            Some(Node::File(other)) if moved == Node::File(*other) => return Ok(()),
            Some(Node::Dir(inside)) if is_dir && !inside.is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty);
            }
            Some(Node::Dir(_)) if !is_dir => return Err(ErrorKind::IsADirectory),
            Some(Node::File(_) | Node::Link(_)) if is_dir => {
                return Err(ErrorKind::NotADirectory);
            }
            _ => {}
        }
        self.dir_mut(from.0).remove(from.1);
        self.dir_mut(to.0).insert(to.1.to_owned(), moved);
        if let Some(replaced) = replaced {
            self.drop_file(&replaced);
        }
        Ok(())
    }

    /// Compares the whole subtree with the model, under another mount point if that is given as
    /// `instead` of the one where the calls were made.
    pub fn check(&self, mount: &Path, instead: &Path) {
        let relative = self.root.strip_prefix(mount).expect("it is on that mount");
        self.check_dir(&self.tree, &instead.join(relative));
    }

    fn check_dir(&self, names: &BTreeMap<String, Node>, at: &Path) {
        let listed: Vec<String> = {
            let mut listed: Vec<String> = fs::read_dir(at)
                .unwrap_or_else(|e| panic!("{}: {e}", at.display()))
                .map(|entry| {
                    let name = entry.expect("an entry").file_name();
                    name.into_string().expect("names are plain")
                })
                .collect();
            listed.sort();
            listed
        };
        let expected: Vec<String> = names.keys().cloned().collect();
        assert_eq!(listed, expected, "{}", at.display());
        for (name, node) in names {
            let path = at.join(name);
            match node {
                Node::Dir(inside) => self.check_dir(inside, &path),
                Node::Link(target) => {
                    let read = fs::read_link(&path).expect("a symlink");
                    assert_eq!(read, Path::new(target), "{}", path.display());
                }
                Node::File(number) => {
                    let seen = fs::symlink_metadata(&path).expect("a file");
                    let seen = File {
                        len: seen.len(),
                        mode: seen.mode() & 0o7777,
                        links: seen.nlink(),
                    };
                    assert_eq!(seen, self.files[number], "{}", path.display());
                }
            }
        }
    }
}
