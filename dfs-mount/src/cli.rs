//! The command line of `dfs-mount`, turned into plain options.

use crate::mount_helper::{self, HelperArguments, Remount};
use clap::Parser;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// Mounts a dfs file system.
#[derive(Parser, Debug)]
#[command(name = "dfs-mount", version)]
struct Arguments {
    /// Directory service: HOST:PORT[,HOST:PORT...][/DIR] (only the tree of DIR is mounted)
    directory: String,

    /// Where to mount
    mount_point: PathBuf,

    /// Options, separated by commas: ro, rw, dev, nodev, suid, nosuid, exec, noexec, noatime,
    /// allow_other, secret=FILE, log=FILE, io_timeout=SECONDS, subtree=DIR
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,

    /// Stay in the foreground and log to standard error
    #[arg(short = 'f', long)]
    foreground: bool,

    /// Internal: this is the process that stays in the background
    #[arg(long, hide = true)]
    background_child: bool,
}

/// How the process runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Foreground,
    /// Starts the process that stays and reports how it went.
    Launcher,
    /// The process that stays.
    BackgroundChild,
}

/// What to mount, where and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    pub(crate) directories: Vec<String>,
    /// The dir of the file system that is mounted, from its root on.
    pub(crate) subtree: PathBuf,
    pub(crate) mount_point: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) read_only: bool,
    pub(crate) dev: bool,
    pub(crate) suid: bool,
    pub(crate) exec: bool,
    pub(crate) no_atime: bool,
    pub(crate) allow_other: bool,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    /// How long a caller waits for servers that don't answer; `None` for ever (it can be killed).
    pub(crate) io_timeout: Option<Duration>,
}

/// What the process is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    Mount(Options),
    Remount(Remount),
    /// All was looked at, and nothing is to be done.
    Nothing,
}

/// Reads the process's arguments; prints usage and exits when they are no good.
pub(crate) fn parse(as_root: bool) -> Result<Task, String> {
    let program = std::env::args_os().next().unwrap_or_default();
    match called_by_mount(&program) {
        true => from_helper(HelperArguments::parse(), as_root),
        false => Ok(Task::Mount(from_arguments(
            Arguments::parse(),
            as_root,
            false,
        )?)),
    }
}

/// mount(8) knows helpers on Linux only.
fn called_by_mount(program: &OsStr) -> bool {
    cfg!(target_os = "linux") && mount_helper::is_called_as(program)
}

fn from_helper(helper: HelperArguments, as_root: bool) -> Result<Task, String> {
    let words = || helper.options.iter().flat_map(|list| list.split(','));
    if let Some(remount) = mount_helper::remount(&helper.mount_point, words()) {
        return Ok(Task::Remount(remount));
    }
    let arguments = Arguments {
        directory: helper.directory,
        mount_point: helper.mount_point,
        options: helper.options,
        foreground: false,
        background_child: helper.background_child,
    };
    let options = from_arguments(arguments, as_root, helper.sloppy)?;
    Ok(match helper.fake {
        true => Task::Nothing,
        false => Task::Mount(options),
    })
}

/// `sloppy`: options that are not known are passed over.
fn from_arguments(arguments: Arguments, as_root: bool, sloppy: bool) -> Result<Options, String> {
    let (addresses, subtree) = split_source(&arguments.directory);
    let directories: Vec<String> = addresses.split(',').map(|a| a.trim().to_owned()).collect();
    for address in &directories {
        let port = address
            .rsplit_once(':')
            .map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(format!("'{address}' is not HOST:PORT"));
        }
    }
    let mode = match (arguments.foreground, arguments.background_child) {
        (_, true) => Mode::BackgroundChild,
        (true, false) => Mode::Foreground,
        (false, false) => Mode::Launcher,
    };
    let mut options = Options {
        directories,
        subtree: subtree.into(),
        mount_point: arguments.mount_point,
        mode,
        read_only: false,
        // As mount(8) does for root; an ordinary user's mount never has them.
        dev: as_root,
        suid: as_root,
        exec: true,
        no_atime: false,
        allow_other: as_root,
        secret_file: None,
        log_file: None,
        io_timeout: None,
    };
    for word in arguments.options.iter().flat_map(|list| list.split(',')) {
        if !apply(&mut options, word, as_root)? && !sloppy {
            return Err(format!("unknown option '{word}'"));
        }
    }
    Ok(options)
}

/// The addresses and the path of `HOST:PORT,HOST:PORT/PATH`; a colon before the path is as good, as
/// other network file systems have it.
fn split_source(source: &str) -> (&str, &str) {
    match source.find('/') {
        Some(at) => (source[..at].trim_end_matches(':'), &source[at..]),
        None => (source, "/"),
    }
}

impl Options {
    /// What is mounted, for lists of mounts and for messages.
    pub(crate) fn source(&self) -> String {
        let directories = self.directories.join(",");
        match self.subtree.to_string_lossy().trim_start_matches('/') {
            "" => directories,
            path => format!("{directories}/{path}"),
        }
    }
}

/// Takes an option; `false` if it is not known.
fn apply(options: &mut Options, word: &str, as_root: bool) -> Result<bool, String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    match (name, value) {
        // What mount(8) and fstab add without meaning for us.
        ("" | "defaults" | "_netdev" | "auto" | "noauto" | "nofail" | "async", _) => {}
        ("user" | "users" | "owner" | "group" | "nouser" | "relatime" | "comment", _) => {}
        (comment, _) if comment.starts_with("x-") || comment.starts_with("X-") => {}
        ("ro", None) => options.read_only = true,
        ("rw", None) => options.read_only = false,
        ("dev" | "suid", None) if !as_root => {
            return Err(format!("only root may mount with '{name}'"));
        }
        ("dev", None) => options.dev = true,
        ("nodev", None) => options.dev = false,
        ("suid", None) => options.suid = true,
        ("nosuid", None) => options.suid = false,
        ("exec", None) => options.exec = true,
        ("noexec", None) => options.exec = false,
        ("atime", None) => options.no_atime = false,
        ("noatime", None) => options.no_atime = true,
        ("allow_other", None) => options.allow_other = true,
        // The kernel always checks permissions.
        ("default_permissions", None) => {}
        ("secret", Some(file)) => options.secret_file = Some(file.into()),
        ("log", Some(file)) => options.log_file = Some(file.into()),
        ("subtree", Some(dir)) => options.subtree = dir.into(),
        ("io_timeout", Some(seconds)) => {
            let seconds: u64 = seconds
                .parse()
                .map_err(|_| format!("'io_timeout={seconds}': not a number of seconds"))?;
            options.io_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str], as_root: bool) -> Result<Options, String> {
        let all = ["dfs-mount"].iter().chain(words);
        from_arguments(
            Arguments::try_parse_from(all).expect("parses"),
            as_root,
            false,
        )
    }

    fn helper(words: &[&str]) -> Result<Task, String> {
        let all = ["mount.dfs"].iter().chain(words);
        from_helper(HelperArguments::try_parse_from(all).expect("parses"), true)
    }

    #[test]
    fn root_mounts_for_everybody() {
        let o = options(&["h:1,[::1]:2", "/mnt"], true).expect("good");
        assert_eq!(o.directories, ["h:1", "[::1]:2"]);
        assert!(o.dev && o.suid && o.allow_other && !o.read_only);
        assert_eq!(o.mode, Mode::Launcher);
    }

    #[test]
    fn a_user_mounts_without_dev_and_suid() {
        let o = options(&["h:1", "/mnt", "-f"], false).expect("good");
        assert!(!o.dev && !o.suid && !o.allow_other);
        assert_eq!(o.mode, Mode::Foreground);
        assert!(options(&["h:1", "/mnt", "-o", "suid"], false).is_err());
    }

    #[test]
    fn options_are_read() {
        let o = options(
            &[
                "h:1",
                "/mnt",
                "-o",
                "ro,nosuid,io_timeout=30,secret=/s",
                "-o",
                "_netdev,x-systemd.a=b",
            ],
            true,
        )
        .expect("good");
        assert!(o.read_only && !o.suid);
        assert_eq!(o.io_timeout, Some(Duration::from_secs(30)));
        assert_eq!(o.secret_file, Some("/s".into()));
    }

    #[test]
    fn a_helper_of_mount_takes_its_command_line() {
        let Ok(Task::Mount(o)) = helper(&["h:1", "/mnt", "-n", "-o", "rw,nodev,x-systemd.a=b"])
        else {
            panic!("it mounts");
        };
        assert!(!o.dev && !o.read_only);
        assert_eq!(o.mode, Mode::Launcher);
        assert_eq!(helper(&["h:1", "/mnt", "-f"]), Ok(Task::Nothing));
        assert!(helper(&["h:1", "/mnt", "-o", "wizard"]).is_err());
        assert!(helper(&["h:1", "/mnt", "-s", "-o", "wizard,ro"]).is_ok());
        assert!(matches!(
            helper(&["h:1", "/mnt", "-o", "rw,remount,ro,user_id=0"]),
            Ok(Task::Remount(_))
        ));
    }

    #[test]
    fn a_sub_tree_is_named_in_the_source_or_by_an_option() {
        for words in [
            &["h:1,[::1]:2/a/b", "/mnt"][..],
            &["h:1,[::1]:2:/a/b", "/mnt"],
            &["h:1,[::1]:2", "/mnt", "-o", "subtree=/a/b"],
            &["h:1,[::1]:2", "/mnt", "-o", "subtree=a/b"],
        ] {
            let o = options(words, true).expect("good");
            assert_eq!(o.directories, ["h:1", "[::1]:2"]);
            assert_eq!(o.source(), "h:1,[::1]:2/a/b");
        }
        let whole = options(&["h:1/", "/mnt"], true).expect("good");
        assert_eq!((whole.source(), whole.subtree), ("h:1".into(), "/".into()));
    }

    #[test]
    fn what_is_no_good_is_told() {
        assert!(
            options(&["host", "/mnt"], true)
                .expect_err("no port")
                .contains("HOST:PORT")
        );
        assert!(
            options(&["h:1", "/mnt", "-o", "wizard"], true)
                .expect_err("?")
                .contains("wizard")
        );
    }
}
