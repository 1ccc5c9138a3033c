//! The end of a mount, however it comes: nobody waits for long, and nothing is left behind.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, binary, output};
use dfs_testkit::eventually;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Within this `umount` answers, and a mount that is taken away by force is gone with its process.
const BOUND: Duration = Duration::from_secs(5);

/// What this machine adds when it does other things too.
const SLACK: Duration = Duration::from_secs(5);

/// `nobody`: `fusermount3` mounts for users that have a name only.
const USER: &str = "65534";

fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| {
        stat.rsplit(") ").next().is_some_and(|r| r.starts_with('Z'))
    })
}

fn is_mounted(at: &Path) -> bool {
    let at = format!(" {} ", at.display());
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .any(|line| line.contains(&at))
}

/// Runs a command that must not wait; `true` if it succeeds.
fn answers(command: &mut Command) -> bool {
    let begun = Instant::now();
    let status = command.status().unwrap();
    assert!(begun.elapsed() < BOUND + SLACK, "{command:?} waited");
    status.success()
}

fn umount(at: &Path) -> bool {
    answers(Command::new("umount").arg(at))
}

fn kill_all_servers(cluster: &Cluster) {
    for node in ["server-1", "server-2", "server-3", "directory-1"] {
        cluster.node("kill", node);
    }
}

/// Opens the file `$1/busy`; when it is told to, writes to it or makes another file.
const CALLER: &str = r#"exec 3>>"$1/busy"; echo ready; read -r how
case $how in write) echo more >&3 ;; create) : >"$1/not-there-yet" ;; esac"#;

/// A process of its own: one that starts others must not have a file open that another thread
/// waits for, since a new process closes it before it runs.
struct Caller {
    process: Child,
}

impl Caller {
    fn open(dir: &Path) -> Self {
        let mut process = Command::new("bash")
            .args(["-euc", CALLER, "bash"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        let output = process.stdout.as_mut().unwrap();
        output.read_exact(&mut ready).unwrap();
        Self { process }
    }

    fn begin(&mut self, how: &str) {
        let input = self.process.stdin.as_mut().unwrap();
        writeln!(input, "{how}").unwrap();
    }

    fn outcome(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path).unwrap()
}

/// Takes a mount away by force while calls wait for a cluster that is gone.
fn by_force(command: &[&str]) {
    let cluster = Cluster::with_mounts(1);
    let at = cluster.mount(1);
    let pid = cluster.pid("mount-1");
    let mut callers = [Caller::open(&at), Caller::open(&at)];
    assert!(!umount(&at), "files are open");
    assert!(is_mounted(&at));
    kill_all_servers(&cluster);
    callers[0].begin("write");
    callers[1].begin("create");
    // Longer than the kernel goes on without the mount.
    std::thread::sleep(Duration::from_secs(3));
    for caller in &mut callers {
        assert_eq!(caller.outcome(), None, "nobody is there to answer");
    }
    assert!(!umount(&at), "files are open, and the cluster is gone");
    let begun = Instant::now();
    // `umount -f` may say that it was busy, which the open files have made it.
    answers(Command::new(command[0]).args(&command[1..]).arg(&at));
    eventually("the mount is gone", BOUND + SLACK, || !is_mounted(&at));
    for caller in &mut callers {
        let mut outcome = None;
        eventually("a caller is told", BOUND + SLACK, || {
            outcome = caller.outcome();
            outcome.is_some()
        });
        assert!(!outcome.unwrap().success());
    }
    eventually("the process is gone", BOUND + SLACK, || has_ended(pid));
    println!("{command:?}: all gone after {:.1?}", begun.elapsed());
    assert!(
        fs::read_dir(&at).unwrap().next().is_none(),
        "something is left"
    );
}

#[test]
fn umount_with_force_leaves_nothing() {
    by_force(&["umount", "-f"]);
}

#[test]
fn a_lazy_unmount_leaves_nothing() {
    by_force(&["fusermount3", "-uz"]);
}

#[test]
fn an_idle_mount_ends_without_its_cluster() {
    let cluster = Cluster::with_mounts(1);
    let at = cluster.mount(1);
    let pid = cluster.pid("mount-1");
    fs::write(at.join("file"), "there").unwrap();
    kill_all_servers(&cluster);
    assert!(umount(&at), "nothing is open");
    eventually("the process is gone", BOUND + SLACK, || has_ended(pid));
}

#[test]
fn a_detached_mount_serves_its_open_files_to_the_end() {
    let cluster = Cluster::with_mounts(1);
    let at = cluster.mount(1);
    let pid = cluster.pid("mount-1");
    let mut file = open(&at.join("busy"));
    assert!(answers(Command::new("umount").arg("-l").arg(&at)));
    assert!(!is_mounted(&at));
    // Longer than it would be waited for a directory that is away.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        file.write_all(b"on ").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!has_ended(pid));
    drop(file);
    eventually("the process is gone", BOUND + SLACK, || has_ended(pid));
}

#[test]
fn what_a_killed_mount_leaves_is_recovered() {
    let cluster = Cluster::with_mounts(1);
    let at = cluster.mount(1);
    fs::write(at.join("file"), "there").unwrap();
    File::open(at.join("file")).unwrap().sync_all().unwrap();
    cluster.node("kill", "mount-1");
    let error = fs::read(at.join("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let log = cluster.dir().join("log/again");
    let again = output(
        Command::new(binary("dfs-mount"))
            .args([&cluster.address("directory-1"), "-o"])
            .arg(format!("log={}", log.display()))
            .arg(&at),
    );
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success(), "{said}");
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "there");
    assert!(umount(&at));
}

/// `$1` the cluster's mount, `$2` the program, `$3` the directory's address, `$4` a scratch dir, `$5`
/// the user. The device is for everybody here, in a mount namespace of its own.
const AS_USER: &str = r#"
cluster=$1 program=$2 source=$3 scratch=$4 user=$5 at=$4/mnt
mount -t tmpfs -o mode=755 scratch "$scratch"
mknod "$scratch/fuse" c 10 229
chmod 666 "$scratch/fuse"
mount --bind "$scratch/fuse" /dev/fuse
cp "$program" "$scratch/dfs-mount"
mkdir "$at"
chown "$user:$user" "$at"
mkdir -m 777 "$cluster/for-all" "$scratch/log"
as_user() { setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
mounts() { as_user "$scratch/dfs-mount" "$source" "$at" -o "log=$scratch/log/log,$1"; }
fail() { echo "$*" >&2; exit 1; }

for option in suid dev; do
  ! mounts "$option" 2>"$scratch/log/refused" || fail "mounted with $option"
  grep -q 'only root' "$scratch/log/refused"
done
mounts rw
options=$(findmnt -n -o OPTIONS "$at")
for option in nosuid nodev "user_id=$user"; do
  case ,$options, in *,$option,*) ;; *) fail "no $option in $options" ;; esac
done
as_user touch "$at/for-all/file"
[ "$(stat -c %u "$cluster/for-all/file")" = "$user" ]
! stat "$at/for-all/file" 2>/dev/null || fail "root sees the mount of a user"
process=$(pgrep -f "^$scratch/dfs-mount")
as_user fusermount3 -u "$at"
! mountpoint -q "$at" || fail "not unmounted"
timeout 10 tail --pid="$process" -f /dev/null
"#;

#[test]
fn an_ordinary_user_mounts_without_devices_and_setuid() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may be another user");
        return;
    }
    let cluster = Cluster::with_mounts(1);
    let scratch = tempfile::tempdir().unwrap();
    // Another user must get there.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let done = output(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["bash", "-euc", AS_USER, "bash"])
            .arg(cluster.mount(1))
            .arg(fs::canonicalize(binary("dfs-mount")).unwrap())
            .arg(cluster.address("directory-1"))
            .arg(scratch.path())
            .arg(USER),
    );
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}
