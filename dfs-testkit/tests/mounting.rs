//! mount(8) mounts dfs by its type, from a command line and from an fstab, and changes what is
//! mounted. Its helpers live in `/sbin`; here that is a layer over the real dir, in a mount
//! namespace of its own, so nothing of it is left.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, binary};
use std::fs;
use std::process::Command;

/// `$1` a scratch dir, `$2` the program, `$3` the directory's address, `$4` the options, `$5` another
/// mount.
const SCRIPT: &str = r#"
scratch=$1 program=$2 source=$3 options=$4 other=$5
at=$scratch/mnt
mkdir "$at" "$scratch/layers"
mount -t tmpfs layers "$scratch/layers"
mkdir "$scratch/layers/up" "$scratch/layers/work"
sbin=$(readlink -f /sbin)
mount -t overlay sbin -o "lowerdir=$sbin,upperdir=$scratch/layers/up,workdir=$scratch/layers/work" "$sbin"
ln -s "$program" "$sbin/mount.dfs"
ln -s "$program" "$sbin/mount.fuse.dfs"
flags() { findmnt -n -o OPTIONS "$at"; }
has() { case ,$(flags), in *,$1,*) ;; *) echo "no $1 in $(flags)" >&2; exit 1 ;; esac; }
refused() { if "$@" 2>"$scratch/refused"; then echo "not refused: $*" >&2; exit 1; fi; }

echo "by type" >&2
mount -t dfs "$source" "$at" -o "$options,nosuid,_netdev"
has rw; has nosuid
echo kept > "$at/file"
echo "read-only" >&2
exec 3>>"$at/file"
refused mount -o remount,ro "$at"
grep -q 'open for writing' "$scratch/refused"
exec 3>&-
mount -o remount,ro "$at"
has ro; has nosuid
refused touch "$at/other"
grep -q 'Read-only' "$scratch/refused"
[ "$(cat "$at/file")" = kept ]
echo "writable again" >&2
mount -o remount,rw "$at"
has rw
echo again >> "$at/file"
umount "$at"

echo "from an fstab" >&2
echo "$source $at dfs $options,ro,noexec,noauto,x-systemd.automount,_netdev 0 0" > "$scratch/fstab"
mount -T "$scratch/fstab" "$at"
has ro; has noexec
[ "$(tail -n 1 "$at/file")" = again ]
umount "$at"

echo "a sub-tree" >&2
mount -t dfs "$source" "$at" -o "$options"
mkdir -p "$at/outer/inner/deep"
echo within > "$at/outer/inner/deep/file"
ln -s /outer "$at/outer/inner/link"
number=$(stat -c %i "$at/outer/inner")
umount "$at"
for how in "$source/outer/inner" "$source:/outer/inner/" "$source -o subtree=/outer/inner"; do
  # shellcheck disable=SC2086
  mount -t dfs $how "$at" -o "$options"
  [ "$(findmnt -n -o SOURCE "$at")" = "$source/outer/inner" ] || findmnt "$at" >&2
  [ "$(cat "$at/deep/file")" = within ]
  [ "$(stat -c %i "$at")" = "$number" ]
  [ "$(ls "$at")" = "deep
link" ]
  [ "$(ls -a "$at/.." | grep -c .)" -gt 0 ]
  # Names in its root are kept and dropped like all others.
  ls "$at/new" 2>/dev/null && exit 1
  mkdir "$other/outer/inner/new"
  [ -d "$at/new" ]
  chmod 700 "$other/outer/inner"
  [ "$(stat -c %a "$at")" = 700 ]
  chmod 755 "$at"
  [ "$(stat -c %a "$other/outer/inner")" = 755 ]
  mv "$at/new" "$at/deep/newer"
  [ ! -e "$other/outer/inner/new" ]
  rmdir "$other/outer/inner/deep/newer"
  [ "$(ls "$at/deep")" = file ]
  umount "$at"
done
for wrong in outer/nothing outer/inner/deep/file outer/inner/link ../outer; do
  refused mount -t dfs "$source/$wrong" "$at" -o "$options"
done

echo "refusals" >&2
refused mount -t dfs "$source" "$at" -o "$options,wizard"
grep -q wizard "$scratch/refused"
refused mount -t dfs 127.0.0.1:1 "$at" -o "$options"
refused mount -t dfs "$source" "$scratch/nowhere" -o "$options"
refused "$sbin/mount.fuse.dfs" "$source" "$at" -o remount,ro
grep -q 'no dfs is mounted here' "$scratch/refused"
"#;

fn skip(why: &str) {
    println!("SKIPPED: {why}");
}

#[test]
fn mount_mounts_it_like_any_other_file_system() {
    if !rustix::process::geteuid().is_root() {
        return skip("mount(8) with a type needs root");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
    let overlay = Command::new("modprobe").arg("overlay").status();
    let layers = filesystems.contains("\toverlay") || overlay.is_ok_and(|s| s.success());
    if !layers {
        return skip("this kernel has no overlay file system");
    }
    let cluster = Cluster::with_mounts(1);
    let scratch = tempfile::tempdir().unwrap();
    let options = format!("log={}", scratch.path().join("log").display());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(["bash", "-euc", SCRIPT, "bash"])
        .arg(scratch.path())
        .arg(fs::canonicalize(binary("dfs-mount")).unwrap())
        .arg(cluster.address("directory-1"))
        .arg(options)
        .arg(cluster.mount(1))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The same namespace of names.
    let file = cluster.mount(1).join("file");
    assert_eq!(fs::read_to_string(file).unwrap(), "kept\nagain\n");
}
