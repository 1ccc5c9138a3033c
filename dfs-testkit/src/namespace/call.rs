//! Calls on a small tree, each a line of text, so that an order of calls that has found something
//! can be kept and made again.

use std::fmt;
use std::str::FromStr;

/// Who makes a call, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// A mount, from 0.
    pub mount: usize,
    /// A user, from 0, which is root. See `perform::USERS`.
    pub user: usize,
    pub act: Act,
}

/// What is to become of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    Leave,
    Now,
    /// Seconds since 1970, and nanoseconds.
    At(i64, u32),
}

/// The flags of a rename.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Over,
    NoReplace,
    Exchange,
    Whiteout,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Open {
    pub read: bool,
    pub write: bool,
    pub create: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
    pub no_follow: bool,
    pub dir: bool,
}

/// What `mknod` makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    Fifo,
    Socket,
    /// The device 1:3, which swallows all.
    Device,
}

/// A call. Paths lead from the tree's root; `slot` names what the mount holds open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    Open(usize, String, Open, u32),
    Close(usize),
    /// Slot, where, how many bytes.
    Write(usize, u64, u64),
    SetLen(usize, u64),
    MakeDir(String, u32),
    MakeNode(String, Special, u32),
    /// The target, and the name.
    Symlink(String, String),
    Link(String, String),
    Rename(String, String, How),
    Unlink(String),
    RemoveDir(String),
    Chmod(String, u32),
    /// User and group; the last link is followed or not.
    Chown(String, Option<u32>, Option<u32>, bool),
    /// Times of access and modification.
    Times(String, SetTime, SetTime),
    Truncate(String, u64),
    /// Name, length of the value, and whether it must be there (or must not).
    SetXattr(String, String, usize, Option<bool>),
    RemoveXattr(String, String),
    /// All that is in a file.
    Read(String),
    /// The names in a dir.
    List(String),
    ReadLink(String),
}

/// One of its flags.
type Flag = fn(&mut Open) -> &mut bool;

/// The letters that an `Open` is written with.
const OPEN: [(char, Flag); 8] = [
    ('r', |open| &mut open.read),
    ('w', |open| &mut open.write),
    ('c', |open| &mut open.create),
    ('x', |open| &mut open.exclusive),
    ('t', |open| &mut open.truncate),
    ('a', |open| &mut open.append),
    ('n', |open| &mut open.no_follow),
    ('d', |open| &mut open.dir),
];

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open = *self;
        let letters = OPEN.iter().filter(|(_, flag)| *flag(&mut open));
        let word: String = letters.map(|(letter, _)| *letter).collect();
        f.write_str(&word)
    }
}

impl FromStr for Open {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let mut open = Self::default();
        for letter in word.chars() {
            let known = OPEN.iter().find(|(known, _)| *known == letter);
            let (_, flag) = known.ok_or_else(|| format!("'{letter}' is no way to open"))?;
            *flag(&mut open) = true;
        }
        Ok(open)
    }
}

impl fmt::Display for SetTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave => f.write_str("-"),
            Self::Now => f.write_str("now"),
            Self::At(seconds, nanoseconds) => write!(f, "{seconds}.{nanoseconds}"),
        }
    }
}

impl FromStr for SetTime {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "-" => return Ok(Self::Leave),
            "now" => return Ok(Self::Now),
            _ => {}
        }
        let (seconds, nanoseconds) = word.split_once('.').ok_or("a time has a point")?;
        Ok(Self::At(number(seconds)?, number(nanoseconds)?))
    }
}

/// Words for values without arguments.
macro_rules! words {
    ($kind:ident: $($value:ident = $word:literal),*) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $word),* })
            }
        }
        impl FromStr for $kind {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word { $($word => Ok(Self::$value),)* _ => Err(format!("unknown: '{word}'")) }
            }
        }
    };
}
words!(How: Over = "over", NoReplace = "noreplace", Exchange = "exchange", Whiteout = "whiteout");
words!(Special: Fifo = "fifo", Socket = "socket", Device = "device");

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

fn octal(word: &str) -> Result<u32, String> {
    u32::from_str_radix(word, 8).map_err(|_| format!("'{word}' is no mode"))
}

fn id(value: Option<u32>) -> String {
    value.map_or("-".to_owned(), |id| id.to_string())
}

fn parse_id(word: &str) -> Result<Option<u32>, String> {
    match word {
        "-" => Ok(None),
        id => number(id).map(Some),
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(slot, path, open, mode) => write!(f, "open {slot} {path} {open} {mode:o}"),
            Self::Close(slot) => write!(f, "close {slot}"),
            Self::Write(slot, offset, len) => write!(f, "write {slot} {offset} {len}"),
            Self::SetLen(slot, len) => write!(f, "set-len {slot} {len}"),
            Self::MakeDir(path, mode) => write!(f, "mkdir {path} {mode:o}"),
            Self::MakeNode(path, kind, mode) => write!(f, "mknod {path} {kind} {mode:o}"),
            Self::Symlink(target, path) => write!(f, "symlink {target} {path}"),
            Self::Link(from, to) => write!(f, "link {from} {to}"),
            Self::Rename(from, to, how) => write!(f, "rename {from} {to} {how}"),
            Self::Unlink(path) => write!(f, "unlink {path}"),
            Self::RemoveDir(path) => write!(f, "rmdir {path}"),
            Self::Chmod(path, mode) => write!(f, "chmod {path} {mode:o}"),
            Self::Chown(path, uid, gid, follow) => {
                let follow = if *follow { "follow" } else { "link" };
                write!(f, "chown {path} {} {} {follow}", id(*uid), id(*gid))
            }
            Self::Times(path, accessed, modified) => {
                write!(f, "times {path} {accessed} {modified}")
            }
            Self::Truncate(path, len) => write!(f, "truncate {path} {len}"),
            Self::SetXattr(path, name, len, there) => {
                let there = match there {
                    None => "set",
                    Some(true) => "replace",
                    Some(false) => "create",
                };
                write!(f, "setxattr {path} {name} {len} {there}")
            }
            Self::RemoveXattr(path, name) => write!(f, "removexattr {path} {name}"),
            Self::Read(path) => write!(f, "read {path}"),
            Self::List(path) => write!(f, "list {path}"),
            Self::ReadLink(path) => write!(f, "readlink {path}"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.mount, self.user, self.act)
    }
}

impl FromStr for Call {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mount, user, verb, rest @ ..] = words.as_slice() else {
            return Err(format!("'{line}' is no call"));
        };
        let text = |word: &&str| (*word).to_owned();
        let act = match (*verb, rest) {
            ("open", [slot, path, open, mode]) => {
                Act::Open(number(slot)?, text(path), open.parse()?, octal(mode)?)
            }
            ("close", [slot]) => Act::Close(number(slot)?),
            ("write", [slot, offset, len]) => {
                Act::Write(number(slot)?, number(offset)?, number(len)?)
            }
            ("set-len", [slot, len]) => Act::SetLen(number(slot)?, number(len)?),
            ("mkdir", [path, mode]) => Act::MakeDir(text(path), octal(mode)?),
            ("mknod", [path, kind, mode]) => Act::MakeNode(text(path), kind.parse()?, octal(mode)?),
            ("symlink", [target, path]) => Act::Symlink(text(target), text(path)),
            ("link", [from, to]) => Act::Link(text(from), text(to)),
            ("rename", [from, to, how]) => Act::Rename(text(from), text(to), how.parse()?),
            ("unlink", [path]) => Act::Unlink(text(path)),
            ("rmdir", [path]) => Act::RemoveDir(text(path)),
            ("chmod", [path, mode]) => Act::Chmod(text(path), octal(mode)?),
            ("chown", [path, uid, gid, follow]) => {
                let (uid, gid) = (parse_id(uid)?, parse_id(gid)?);
                Act::Chown(text(path), uid, gid, *follow == "follow")
            }
            ("times", [path, accessed, modified]) => {
                Act::Times(text(path), accessed.parse()?, modified.parse()?)
            }
            ("truncate", [path, len]) => Act::Truncate(text(path), number(len)?),
            ("setxattr", [path, name, len, there]) => {
                let there = match *there {
                    "replace" => Some(true),
                    "create" => Some(false),
                    _ => None,
                };
                Act::SetXattr(text(path), text(name), number(len)?, there)
            }
            ("removexattr", [path, name]) => Act::RemoveXattr(text(path), text(name)),
            ("read", [path]) => Act::Read(text(path)),
            ("list", [path]) => Act::List(text(path)),
            ("readlink", [path]) => Act::ReadLink(text(path)),
            _ => return Err(format!("'{line}' is no call")),
        };
        Ok(Self {
            mount: number(mount)?,
            user: number(user)?,
            act,
        })
    }
}
