//! Extended attributes, ACLs and what goes with them, on two mounts in turn, beside a local file
//! system: the same call gives the same answer.
//!
//! Needs a local `/tmp` that knows all name spaces (ext4, XFS, tmpfs of Linux 6.6) and root.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, output, run};
use dfs_testkit::random::Random;
use dfs_testkit::rounds;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::io::Errno;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Neither root nor anybody that there is.
const STRANGER: &str = "54321";

/// A cluster that other users reach, and its mounts.
struct World {
    _cluster: Cluster,
    mounts: [PathBuf; 2],
    local: tempfile::TempDir,
}

/// `None` where the machine can't say what is right; then it says why.
fn world(tools: &[&str]) -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may set trusted attributes and be others");
        return None;
    }
    for tool in tools {
        let found = output(Command::new("sh").args(["-c", &format!("command -v {tool}")]));
        if !found.status.success() {
            println!("SKIPPED: there is no {tool}");
            return None;
        }
    }
    let local = tempfile::tempdir().unwrap();
    for name in ["user.a", "trusted.a", "security.a"] {
        if let Err(e) = lsetxattr(local.path(), name, b"v", XattrFlags::empty()) {
            println!(
                "SKIPPED: {} does not take {name}: {e}",
                local.path().display()
            );
            return None;
        }
    }
    let cluster = Cluster::up(&["--mounts", "2", "--mount-opts", "allow_other,suid,dev"]);
    let mounts = [cluster.mount(1), cluster.mount(2)];
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
    for dir in mounts[0].ancestors().skip(1).take(3) {
        open(dir).unwrap();
    }
    open(local.path()).unwrap();
    Some(World {
        _cluster: cluster,
        mounts,
        local,
    })
}

impl World {
    /// A new dir of this name in each place: on both mounts the same one, and a local one.
    fn dirs(&self, name: &str) -> ([PathBuf; 2], PathBuf) {
        let local = self.local.path().join(name);
        fs::create_dir(&local).unwrap();
        fs::create_dir(self.mounts[0].join(name)).unwrap();
        (self.mounts.clone().map(|mount| mount.join(name)), local)
    }
}

/// What a call gave.
type Given = Result<Vec<u8>, Errno>;

#[derive(Clone, Debug)]
enum Call {
    /// With a buffer of this size; 0 asks for the size only.
    Get(String, usize),
    List(usize),
    Set(String, Vec<u8>, XattrFlags),
    Remove(String),
}

impl Call {
    fn random(random: &mut Random) -> Self {
        let names = [
            "user.a",
            "user.b",
            "user.a longer name with spaces",
            "trusted.t",
            "security.s",
            "user.",
            "trusted.",
            "security.",
            "system.posix_acl_access",
            "system.posix_acl_default",
            "system.posix_acl",
            "system.other",
            "other.x",
            "user",
            "noprefix",
            "",
        ];
        let mut name = names[random.index(names.len())].to_owned();
        if random.chance(30) {
            name = format!("user.{}", "n".repeat(249 + random.index(3)));
        }
        let size = [0, 1, 7, 20, 5000][random.index(5)];
        match random.below(10) {
            0..=3 => Self::Get(name, size),
            4 => Self::List([0, 5, 30, 5000][random.index(4)]),
            5..=8 => {
                let len = [0, 1, 7, 19, 20, 70_000][random.index(6)];
                let value = vec![b'0' + random.below(10) as u8; len];
                let flags = [
                    XattrFlags::empty(),
                    XattrFlags::empty(),
                    XattrFlags::CREATE,
                    XattrFlags::REPLACE,
                    XattrFlags::CREATE | XattrFlags::REPLACE,
                ];
                Self::Set(name, value, flags[random.index(flags.len())])
            }
            _ => Self::Remove(name),
        }
    }

    fn on(&self, path: &Path) -> Given {
        match self {
            Self::Get(name, size) => {
                let mut buffer = vec![0u8; *size];
                let len = lgetxattr(path, name, &mut buffer[..])?;
                Ok(match size {
                    0 => len.to_string().into_bytes(),
                    _ => buffer[..len].to_vec(),
                })
            }
            Self::List(size) => {
                let mut buffer = vec![0u8; *size];
                let len = llistxattr(path, &mut buffer[..])?;
                if *size == 0 {
                    return Ok(len.to_string().into_bytes());
                }
                // In any order.
                let mut names: Vec<&[u8]> = buffer[..len].split_inclusive(|b| *b == 0).collect();
                names.sort();
                Ok(names.concat())
            }
            Self::Set(name, value, flags) => {
                lsetxattr(path, name, value, *flags).map(|()| Vec::new())
            }
            Self::Remove(name) => lremovexattr(path, name).map(|()| Vec::new()),
        }
    }
}

/// One of each kind that can be made.
fn one_of_each(dir: &Path) -> Vec<&'static str> {
    File::create(dir.join("file")).unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    run(Command::new("mkfifo").arg(dir.join("fifo")));
    run(Command::new("mknod")
        .arg(dir.join("device"))
        .args(["c", "1", "3"]));
    vec!["file", "dir", "link", "fifo", "device"]
}

#[test]
fn calls_answer_as_on_a_local_file_system() {
    let Some(world) = world(&[]) else { return };
    for seed in 0..rounds(2) as u64 {
        let (shared, local) = world.dirs(&format!("calls-{seed}"));
        let kinds = one_of_each(&shared[0]);
        one_of_each(&local);
        let mut random = Random::new(seed);
        for step in 0..1500 {
            let call = Call::random(&mut random);
            let kind = kinds[random.index(kinds.len())];
            let here = call.on(&shared[random.index(2)].join(kind));
            let there = call.on(&local.join(kind));
            assert_eq!(here, there, "seed {seed}, step {step}: {call:?} on {kind}");
        }
    }
}

#[test]
fn large_values_and_long_lists() {
    let Some(world) = world(&[]) else { return };
    let ([a, b], _) = world.dirs("large");
    for (which, len) in [65_536, 65_535, 4096, 0].into_iter().enumerate() {
        let value: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        fs::write(a.join("f"), "x").unwrap();
        let name = format!("user.{which}");
        lsetxattr(a.join("f"), &name, &value, XattrFlags::empty()).unwrap();
        let mut buffer = vec![0; 65_536];
        let read = lgetxattr(b.join("f"), &name, &mut buffer[..]).unwrap();
        assert_eq!(buffer[..read], value);
        if len > 0 {
            let short = &mut buffer[..len - 1];
            assert_eq!(lgetxattr(b.join("f"), &name, short), Err(Errno::RANGE));
        }
    }
    let too_long = vec![0; 65_537];
    let refused = lsetxattr(a.join("f"), "user.l", &too_long, XattrFlags::empty());
    assert_eq!(refused, Err(Errno::TOOBIG));
    // As many names as a list can have, and not one more.
    let mut names = 0;
    let last = loop {
        let name = format!("user.{names:0>250}");
        let mount = [&a, &b][names % 2];
        match lsetxattr(mount.join("many"), &name, b"", XattrFlags::CREATE) {
            Err(Errno::NOENT) => drop(File::create(mount.join("many")).unwrap()),
            Ok(()) => names += 1,
            Err(e) => break e,
        }
    };
    assert_eq!((last, names), (Errno::NOSPC, 65_536 / 256));
    let mut buffer = vec![0; 65_536];
    assert_eq!(llistxattr(a.join("many"), &mut buffer[..]), Ok(65_536));
    assert_eq!(
        lremovexattr(b.join("many"), format!("user.{:0>250}", 7)),
        Ok(())
    );
    assert_eq!(llistxattr(a.join("many"), &mut buffer[..]), Ok(65_280));
    fs::remove_file(b.join("many")).unwrap();
}

/// What another mount has just set is seen, and what it has just removed is not: also where this
/// one knew from what it keeps that there was nothing.
#[test]
fn a_change_is_seen_at_once_on_the_other_mount() {
    let Some(world) = world(&["setfacl"]) else {
        return;
    };
    let (mounts, _) = world.dirs("coherent");
    let get = |path: &Path, name: &str| {
        let mut buffer = [0; 100];
        let len = lgetxattr(path, name, &mut buffer[..])?;
        Ok::<_, Errno>(buffer[..len].to_vec())
    };
    let acl = |user: u32, bits: u16| {
        let entry = |tag: u16, bits: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &bits.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let no = u32::MAX;
        let entries = [
            entry(1, 6, no),
            entry(2, bits, user),
            entry(4, 0, no),
            entry(16, 7, no),
            entry(32, 0, no),
        ];
        [&2u32.to_le_bytes()[..], &entries.concat()].concat()
    };
    for name in ["file", "dir"] {
        match name {
            "dir" => fs::create_dir(mounts[0].join(name)).unwrap(),
            _ => fs::write(mounts[0].join(name), "x").unwrap(),
        }
        for round in 0..rounds(24) {
            let (first, second) = match round % 2 {
                0 => (&mounts[0], &mounts[1]),
                _ => (&mounts[1], &mounts[0]),
            };
            let (here, there) = (first.join(name), second.join(name));
            for (attribute, value) in [
                ("user.a", format!("{round}").into_bytes()),
                ("trusted.a", vec![]),
                ("security.capability", capability(round as u32)),
                ("system.posix_acl_access", acl(round as u32, 7)),
            ] {
                // Known not to be there, by the mount and by its kernel.
                let look = |path: &Path| assert!(fs::symlink_metadata(path).is_ok());
                for path in [&here, &there] {
                    look(path);
                    assert_eq!(get(path, attribute), Err(Errno::NODATA), "{attribute}");
                }
                lsetxattr(&here, attribute, &value, XattrFlags::CREATE).unwrap();
                // A dir that is changed so often is kept by nobody: its ACL is as old as the last
                // look at its attributes (programs look before they ask).
                let is_hot = name == "dir" && attribute.starts_with("system.");
                if is_hot {
                    look(&there);
                }
                let seen = get(&there, attribute);
                assert_eq!(seen, Ok(value.clone()), "{attribute}, round {round}");
                assert_eq!(
                    get(&here, attribute),
                    Ok(value),
                    "{attribute}, round {round}"
                );
                lremovexattr(&there, attribute).unwrap();
                if is_hot {
                    look(&here);
                }
                assert_eq!(get(&here, attribute), Err(Errno::NODATA), "{attribute}");
            }
        }
    }
}

/// A value of `security.capability` that the kernel takes: revision 2, CAP_NET_RAW and a number.
fn capability(number: u32) -> Vec<u8> {
    let words = [0x0200_0000u32, (1 << 13) | (number % 8), 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Runs lines of shell, on the mounts in turn and locally, and demands the same of all.
fn same(world: &World, name: &str, lines: &[&str]) {
    let (shared, local) = world.dirs(name);
    let say = |dir: &Path, line: &str| {
        let prelude = format!(
            "export LC_ALL=C; umask 022; as() {{ setpriv --reuid={STRANGER} --regid={STRANGER} \
             --clear-groups -- \"$@\"; }}; in_group() {{ setpriv --reuid={STRANGER} --regid=77 \
             --clear-groups -- \"$@\"; }};"
        );
        let mut shell = Command::new("bash");
        shell.current_dir(dir).arg("-c").arg(prelude + line);
        let said = output(&mut shell);
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let text = text.replace(&*dir.to_string_lossy(), "DIR");
        format!("{text}{:?}", said.status.code())
    };
    for (step, line) in lines.iter().enumerate() {
        let here = say(&shared[step % 2], line);
        let there = say(&local, line);
        assert_eq!(here, there, "{name}, line {step}: {line}");
    }
}

#[test]
fn acls_are_kept_and_enforced() {
    let Some(world) = world(&["setfacl", "getfacl", "setpriv"]) else {
        return;
    };
    same(
        &world,
        "access",
        &[
            "echo secret >f; chmod 640 f; as cat f",
            "setfacl -m u:54321:r f; getfacl -cn f; stat -c %a f",
            "as cat f",
            "as sh -c 'echo x >f'",
            "chmod 600 f; getfacl -cn f; as cat f",
            "chmod g+rw f; getfacl -cn f; as cat f; as sh -c 'echo x >>f'",
            "setfacl -m u:54321:rw f; stat -c %a f; as sh -c 'echo x >>f'; cat f",
            "setfacl -m m::r f; as sh -c 'echo x >>f'; as cat f; getfacl -cn f",
            "ls -l f | cut -c1-11",
            "as setfacl -m o::rwx f; as chmod 777 f",
            "setfacl -x u:54321 f; getfacl -cn f; as cat f",
            "setfacl -b f; getfacl -cn f; stat -c %a f; ls -l f | cut -c1-11",
            "setfacl -m g:77:r f; in_group cat f; as cat f",
            "chown 54321 f; as cat f; as setfacl -m u:1:rwx,g::- f; getfacl -cn f",
            "setfacl -m u:1:rw,u:1:r f; getfacl -cn f; setfacl -k f",
            "setfacl -d -m u:1:rw f; ln -s f s; setfacl -m u:2:r s; getfacl -cn f",
            // A dir: search, read and write apart.
            "mkdir d; echo x >d/f; chmod 700 d; as ls d; as cat d/f",
            "setfacl -m u:54321:x d; as ls d; as cat d/f; as rm d/f",
            "setfacl -m u:54321:rx d; as ls d; as touch d/g",
            "setfacl -m u:54321:rwx d; as touch d/g; as mkdir d/e; ls d; as rm d/f; ls d",
            "setfacl -x u:54321 d; as ls d",
        ],
    );
    same(
        &world,
        "default",
        &[
            "mkdir d; setfacl -d -m u::rwx,u:54321:rwx,g::rx,o::- d; getfacl -cn d; stat -c %a d",
            "umask 077; touch d/f; mkdir d/e; mkfifo d/p; mknod d/c c 1 3; ln -s x d/s; echo >d/e/f",
            "cd d; getfacl -cn f e p c e/f; stat -c '%a %n' f e p c s e/f",
            "as touch d/e/g; as ls d/e",
            "umask 0; touch d/g; mkdir -m 700 d/h; install -m 755 /dev/null d/i; getfacl -cn d/[ghi]",
            "setfacl -d -b d; setfacl -d -m u::rw,g::r,o::x d; umask 0; touch d/j; mkdir d/k",
            "getfacl -cn d d/j d/k; stat -c '%a' d/j d/k",
            "setfacl -k d; umask 027; touch d/l; mkdir d/m; stat -c '%a' d/l d/m; getfacl -cn d d/m",
            "chmod 2775 d; chgrp 77 d; setfacl -d -m u:1:rwx d; touch d/n; mkdir d/o; stat -c '%a %g' d/n d/o",
            "cp -a d e; find e | sort | xargs getfacl -cn; diff <(cd d; find . | sort | xargs getfacl -n) <(cd e; find . | sort | xargs getfacl -n)",
            "chmod 755 d/m; setfacl -R -m u:2:rX d; find d | sort | xargs getfacl -cn",
        ],
    );
    same(
        &world,
        "setgid",
        &[
            "touch f; chown 54321:77 f; chmod 2755 f; as setfacl -m u:1:rwx f; stat -c %a f",
            "chmod 2755 f; in_group setfacl -m u:2:rwx f; stat -c %a f",
            "chmod 2755 f; setfacl -m u:3:rwx f; stat -c %a f",
            "setfacl -b f; chmod 2755 f; as setfacl -m u::rw f; stat -c %a f",
        ],
    );
}

#[test]
fn others_may_what_they_may_locally() {
    let Some(world) = world(&["setfattr", "getfattr", "setpriv"]) else {
        return;
    };
    same(
        &world,
        "users",
        &[
            "touch f; mkdir d t; chmod 777 f d; chmod 1777 t; for p in user trusted security; do setfattr -n $p.a -v root f; done",
            "as getfattr -m - -d f; getfattr -m - -d f",
            "as getfattr -n user.a --only-values f; as getfattr -n trusted.a f; as getfattr -n security.a f",
            "as setfattr -n user.b -v x f; as setfattr -n trusted.b -v x f; as setfattr -n security.b -v x f",
            "as setfattr -x user.b f; as setfattr -x trusted.a f; as setfattr -x security.a f",
            "as setfattr -n user.a -v x d; as setfattr -n user.a -v x t; getfattr -d d t",
            "chmod 600 f; as getfattr -n user.a f; as getfattr -m - -d f; as setfattr -n user.a f",
            "chmod 444 f; as getfattr -n user.a f; as setfattr -n user.a -v y f; as setfattr -x user.a f",
            "setfattr -n user.a -v renamed f; mv f g; ln g h; getfattr -d h; rm g; getfattr -d h",
            "c() { stat -c %Z h; }; m() { stat -c %y h; }; b=$(m); x=$(c); sleep 1.1; setfattr -n user.z h; \
         y=$(c); [ $x != $y ] && echo changed; [ \"$b\" = \"$(m)\" ] && echo mtime stays",
            "cp -a h i; getfattr -m - -d i; mv i j; cp --preserve=xattr h k; getfattr -d k",
            "exec 3<h; rm h; setfattr -n user.q -v open /proc/self/fd/3; getfattr -d /proc/self/fd/3 | grep q=",
        ],
    );
}

/// setuid, setgid and capabilities go with a change by somebody who may not keep them.
#[test]
fn privileges_do_not_survive_a_change() {
    let Some(world) = world(&["setpriv", "setcap", "python3", "truncate"]) else {
        return;
    };
    let store =
        "python3 -c 'import mmap; f = open(\"f\", \"r+b\"); mmap.mmap(f.fileno(), 1)[0] = 65'";
    let again = "chmod 6777 f; setcap cap_net_raw+ep f";
    let look = "stat -c %a f; getcap f";
    let by = |what: &str| format!("{again}; {what}; {look}");
    let lines = [
        format!("echo content >f; chown 54321:77 f; chmod 6777 f; {look}; {again}; {look}"),
        by("as sh -c 'echo x >>f'"),
        by("as sh -c 'echo x 1<>f'"),
        by("as sh -c ': >f'"),
        by("as truncate -s 3 f"),
        by("as truncate -s 30 f"),
        by("as fallocate -l 50 f"),
        by("as dd if=/dev/zero of=f bs=4096 count=1 conv=notrunc oflag=direct status=none"),
        by(&format!("as {store}")),
        by("as sh -c 'cat f >/dev/null; touch f; chmod 6777 f'"),
        by("echo by root >>f"),
        by("truncate -s 4 f"),
        by("chown 54321 f"),
        by("chgrp 78 f; chgrp 77 f"),
        by("in_group chgrp 77 f"),
        // Without execution by the group the bit stays with a writer of the group.
        format!("chmod 2766 f; as sh -c 'echo x >>f'; {look}"),
        format!("chmod 6766 f; in_group sh -c 'echo x >>f'; {look}"),
        format!("chmod 2766 f; as truncate -s 2 f; {look}"),
        format!("chmod 6766 f; in_group truncate -s 3 f; {look}"),
        format!("chmod 2766 f; as fallocate -l 99 f; {look}"),
        format!("chmod 2766 f; chown 54322 f; {look}; chown 54321 f"),
        format!("setcap cap_net_raw+ep f; chmod 644 f; {look}; as sh -c 'echo x >>f'; {look}"),
        "mkdir d; chmod 6777 d; as touch d/f; chown 5 d; stat -c %a d".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    same(&world, "privileges", &lines);
}

#[test]
fn programs_take_everything_along() {
    let Some(world) = world(&["rsync", "tar", "setfacl", "getfacl", "setfattr"]) else {
        return;
    };
    let source = world.local.path().join("source");
    fs::create_dir(&source).unwrap();
    let script = "umask 022; mkdir -p d/e; echo 1 >d/f; ln d/f d/hard; ln -s f d/soft; mkfifo d/p; \
        setfattr -n user.note -v 'a note' d/f; setfattr -n trusted.x -v y d; setfattr -n security.x -v z d/soft -h; \
        setfacl -m u:54321:rwx,g:77:r d/f; setfacl -d -m u:1:rx d/e; mkdir d/e/inherits; \
        truncate -s 20M d/sparse; echo end >>d/sparse; chown 5:6 d/hard; chmod 4711 d/f; \
        touch -d '1969-12-31 23:59:58.25' d/e; touch -d 2200-01-01 d/p; cp /bin/true d/true; \
        command -v setcap >/dev/null && setcap cap_net_raw+ep d/true";
    run(Command::new("bash")
        .current_dir(&source)
        .args(["-c", script]));
    let [a, b] = &world.mounts;
    let rsync = |from: &Path, to: &Path, options: &[&str]| {
        let mut rsync = Command::new("rsync");
        rsync
            .args(["-aHAXS", "--numeric-ids", "--itemize-changes"])
            .args(options);
        rsync.arg(format!("{}/", from.display())).arg(to);
        run(&mut rsync)
    };
    assert_ne!(rsync(&source, &a.join("synced"), &[]), "");
    let again = rsync(&source, &b.join("synced"), &["--checksum"]);
    assert_eq!(again, "", "nothing is left to transfer");
    // There and back again by tar.
    let archive = world.local.path().join("archive.tar");
    let tar = |dir: &Path, options: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args([
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
            "--sparse",
        ]);
        run(tar.arg("-C").arg(dir).args(options).arg("-f").arg(&archive))
    };
    tar(&b.join("synced"), &["--create", "d"]);
    fs::create_dir(a.join("untarred")).unwrap();
    tar(&a.join("untarred"), &["--extract", "-p", "--same-owner"]);
    let again = rsync(
        &source,
        &b.join("untarred"),
        &["--checksum", "--omit-dir-times"],
    );
    let told: Vec<&str> = again
        .lines()
        .filter(|line| !line.starts_with(".d..t"))
        .collect();
    assert!(told.is_empty(), "{told:?}");
}
