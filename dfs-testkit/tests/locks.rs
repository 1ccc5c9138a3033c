//! `flock(1)` and `fcntl(2)` locks behave as on a local file system, from the same mount and from
//! the other one.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::eventually;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn locks_behave_as_on_a_local_file_system() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let local = tempfile::tempdir().unwrap();
    // The same script on a local file system, on one mount, and across two.
    let expected = exit_codes(local.path(), local.path());
    assert_eq!(exit_codes(&a, &a), expected, "on one mount");
    assert_eq!(exit_codes(&a, &b), expected, "across mounts");
    assert_eq!(exit_codes(&b, &a), expected, "across mounts, the other way");

    waiters_die_soon(&a, &b);
    what_ends_is_free_soon(&a, &b);
    spaces_are_separate(&a, &b);
    inherited_descriptors_share_a_lock(&a, &b);
    posix_locks(local.path(), local.path());
    posix_locks(&a, &a);
    posix_locks(&a, &b);
    ping_pong(&a, &a);
    ping_pong(&a, &b);
}

fn flock(arguments: &[&str], path: &Path) -> Command {
    let mut command = Command::new("flock");
    command
        .args(arguments)
        .arg(path)
        .arg("true")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn code(arguments: &[&str], path: &Path) -> Option<i32> {
    flock(arguments, path).status().unwrap().code()
}

/// Exit codes of `flock(1)` in one dir while this process holds locks through another.
fn exit_codes(holder: &Path, other: &Path) -> Vec<Option<i32>> {
    let path = other.join("flock-codes");
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(holder.join("flock-codes"));
    let file = file.unwrap();
    let mut codes = Vec::new();
    for shared in [false, true] {
        if shared {
            file.lock_shared().unwrap()
        } else {
            file.lock().unwrap()
        }
        codes.push(code(&["-n"], &path));
        codes.push(code(&["-n", "-s"], &path));
        codes.push(code(&["-n", "-x", "-E", "42"], &path));
        let start = Instant::now();
        codes.push(code(&["-w", "1"], &path));
        let waited = start.elapsed();
        assert!(
            waited > Duration::from_millis(950),
            "-w 1 came back after {waited:?}"
        );
        assert!(waited < Duration::from_millis(1400), "-w 1 took {waited:?}");
        file.unlock().unwrap();
        codes.push(code(&["-n"], &path));
    }
    // Up and down on one descriptor.
    file.lock_shared().unwrap();
    file.lock().unwrap();
    codes.push(code(&["-n", "-s"], &path));
    file.lock_shared().unwrap();
    codes.push(code(&["-n", "-s"], &path));
    codes.push(code(&["-n", "-x"], &path));
    file.unlock().unwrap();
    codes.push(code(&["-n", "-x"], &path));
    codes
}

fn wait_in_lock(path: &Path) -> Child {
    let child = Command::new("flock")
        .arg("-x")
        .arg(path)
        .arg("true")
        .spawn()
        .unwrap();
    // Asleep in flock(2).
    let call = format!("/proc/{}/syscall", child.id());
    eventually("a waiter in flock", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&call).unwrap_or_default();
        text.split_whitespace().next() == Some(libc::SYS_flock.to_string().as_str())
    });
    child
}

fn waiters_die_soon(a: &Path, b: &Path) {
    let holder = File::create(a.join("wait")).unwrap();
    holder.lock().unwrap();
    for path in [a.join("wait"), b.join("wait")] {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
            let mut child = wait_in_lock(&path);
            std::thread::sleep(Duration::from_millis(150));
            let name = signal.to_string();
            let start = Instant::now();
            let sent = Command::new("kill")
                .args(["-s", &name, &child.id().to_string()])
                .status();
            assert!(sent.unwrap().success());
            let status = child.wait().unwrap();
            let took = start.elapsed();
            assert_eq!(status.signal(), Some(signal));
            assert!(
                took < Duration::from_millis(150),
                "signal {signal}: died after {took:?}"
            );
        }
    }
    // Nobody of the dead has got the lock, nor stands in the queue.
    holder.unlock().unwrap();
    assert_eq!(code(&["-n"], &b.join("wait")), Some(0));
}

fn what_ends_is_free_soon(a: &Path, b: &Path) {
    let path = a.join("free");
    File::create(&path).unwrap();
    for round in 0..20 {
        // LOCK_UN: at once.
        let file = File::open(&path).unwrap();
        file.lock().unwrap();
        file.unlock().unwrap();
        assert_eq!(
            code(&["-n"], &b.join("free")),
            Some(0),
            "after LOCK_UN, round {round}"
        );
        // The last close.
        file.lock().unwrap();
        drop(file);
        assert_eq!(
            code(&["-n"], &b.join("free")),
            Some(0),
            "after close, round {round}"
        );
        // The holder is killed.
        let mut command = Command::new("flock");
        command.arg(&path).args(["-c", "echo held; exec sleep 60"]);
        let mut holder = holder_started(&mut command);
        assert_eq!(code(&["-n"], &b.join("free")), Some(1));
        let group = format!("-{}", holder.id());
        assert!(
            Command::new("kill")
                .args(["-9", "--", &group])
                .status()
                .unwrap()
                .success()
        );
        holder.wait().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(
            code(&["-n"], &b.join("free")),
            Some(0),
            "after kill -9, round {round}"
        );
    }
}

fn holder_started(command: &mut Command) -> Child {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    let mut child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 4];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut word)
        .unwrap();
    child
}

fn python(script: &str, arguments: &[&Path]) {
    let output = Command::new("python3")
        .arg("-c")
        .arg(script)
        .args(arguments)
        .output()
        .expect("python3");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn spaces_are_separate(a: &Path, b: &Path) {
    python(
        r#"
import fcntl, os, sys
path, other = sys.argv[1] + "/both", sys.argv[2] + "/both"
f = open(path, "w")
fcntl.flock(f, fcntl.LOCK_EX)
fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)
# Another process on the other mount: each space refuses for itself.
if os.fork() == 0:
    g = open(other, "r+")
    for call in (lambda: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB),
                 lambda: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)):
        try:
            call()
            os._exit(1)
        except BlockingIOError:
            pass
    fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
    os._exit(0)
assert os.wait()[1] == 0
fcntl.flock(f, fcntl.LOCK_UN)
if os.fork() == 0:
    g = open(other, "r+")
    fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os._exit(0)
assert os.wait()[1] == 0
"#,
        &[a, b],
    );
}

fn inherited_descriptors_share_a_lock(a: &Path, b: &Path) {
    python(
        r#"
import fcntl, os, sys
f = open(sys.argv[1] + "/inherit", "w")
fcntl.flock(f, fcntl.LOCK_EX)
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(w)
    os.read(r, 1)
    os._exit(0)
os.close(r)
f.close()
# The child still has the open file description, so the lock is held.
g = open(sys.argv[2] + "/inherit", "r+")
try:
    fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sys.exit("the lock went with one of two descriptors")
except BlockingIOError:
    pass
os.close(w)
os.wait()
import time
deadline = time.time() + 0.05
while True:
    try:
        fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        assert time.time() < deadline, "not free 50 ms after the last close"
"#,
        &[a, b],
    );
}

fn posix_locks(a: &Path, b: &Path) {
    python(
        r#"
import errno, fcntl, os, struct, sys
path, other = sys.argv[1] + "/posix", sys.argv[2] + "/posix"
f = open(path, "w+")

def elsewhere(start, length, kind=fcntl.LOCK_EX):
    "whether another process gets the range at once"
    pid = os.fork()
    if pid == 0:
        g = open(other, "r+")
        try:
            fcntl.lockf(g, kind | fcntl.LOCK_NB, length, start)
        except OSError as e:
            assert e.errno in (errno.EAGAIN, errno.EACCES), e
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0

fcntl.lockf(f, fcntl.LOCK_EX, 100, 0)
assert not elsewhere(50, 1) and elsewhere(100, 1)
fcntl.lockf(f, fcntl.LOCK_UN, 20, 40)            # split
assert elsewhere(40, 20) and not elsewhere(39, 1) and not elsewhere(60, 1)
fcntl.lockf(f, fcntl.LOCK_SH, 40, 0)             # downgrade a part
assert elsewhere(0, 40, fcntl.LOCK_SH) and not elsewhere(0, 40) and not elsewhere(60, 1, fcntl.LOCK_SH)
fcntl.lockf(f, fcntl.LOCK_EX, 0, 1000)           # to the end
assert not elsewhere(1 << 40, 1)
# F_GETLK from another process names what is in the way.
if os.fork() == 0:
    g = open(other, "r+")
    ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 2000, 10, 0)
    kind, whence, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(g, fcntl.F_GETLK, ask))
    assert (kind, start, length) == (fcntl.F_WRLCK, 1000, 0), (kind, start, length)
    os._exit(0)
assert os.wait()[1] == 0
# Closing any descriptor of the file lets all of the process's locks go, at once.
open(path).close()
assert elsewhere(0, 0)
"#,
        &[a, b],
    );
}

/// Two processes chase each other around a ring of three bytes: each locks the next byte before it
/// lets go of the last one, so between two visits of one the other has been there exactly once.
/// Each adds 1 to the byte that it leaves; what it finds must have grown by 2.
fn ping_pong(a: &Path, b: &Path) {
    python(
        r#"
import fcntl, os, sys
RING, ROUNDS = 3, 200
paths = [sys.argv[1] + "/ring", sys.argv[2] + "/ring"]
with open(paths[0], "wb") as f:
    f.write(bytes(RING))

def chase(path, done, stop):
    fd = os.open(path, os.O_RDWR)
    lock = lambda at, kind: fcntl.lockf(fd, kind, 1, at)
    seen, at, together, told = [None] * RING, 0, 0, False
    lock(0, fcntl.LOCK_EX)
    os.set_blocking(stop, False)
    while True:
        after = (at + 1) % RING
        lock(after, fcntl.LOCK_EX)
        found = os.pread(fd, 1, at)[0]
        grown = None if seen[at] is None else (found - seen[at]) % 256
        if together and not told:
            assert grown == 2, (at, grown, together)
        # The first one is alone for a while.
        assert grown in (None, 1, 2), (at, grown)
        together += 1 if together or grown == 2 else 0
        os.pwrite(fd, bytes([(found + 1) % 256]), at)
        seen[at] = found
        lock(at, fcntl.LOCK_UN)
        at = after
        if together >= ROUNDS and not told:
            os.write(done, b"x")
            told = True
        try:
            # The other one must not be left alone before it is done, too.
            if told and os.read(stop, 1) == b"":
                os._exit(0)
        except BlockingIOError:
            pass

done, tell = os.pipe()
stop, end = os.pipe()
children = []
for path in paths:
    pid = os.fork()
    if pid == 0:
        os.close(end)
        try:
            chase(path, tell, stop)
        except BaseException as e:
            print(repr(e), flush=True)
        os._exit(1)
    children.append(pid)
os.close(tell)
os.close(stop)
ready = 0
while ready < 2:
    word = os.read(done, 2)
    assert word, "both ended too early"
    ready += len(word)
os.close(end)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
"#,
        &[a, b],
    );
}
