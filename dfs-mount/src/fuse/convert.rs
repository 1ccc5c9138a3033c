//! Between the types of the wire and those of the FUSE library.

use crate::client::{AttrAnswer, SECTOR_BYTES};
use dfs_proto::attr::{FileKind, SetTime, Timestamp};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::InodeId;
use dfs_proto::name::{FileName, NameError};
use fuser::{Errno, FileType, INodeNo, TimeOrNow};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What programs should read and write at a time.
const PREFERRED_IO_BYTES: u32 = 1 << 20;

pub(crate) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// The name of an entry as the kernel gives it. It does not check the length for FUSE.
pub(crate) fn name(name: &OsStr) -> Result<FileName, Error> {
    FileName::new(name.as_bytes()).map_err(|e| {
        Error::from(match e {
            NameError::TooLong => ErrorCode::NameTooLong,
            NameError::Empty | NameError::Forbidden => ErrorCode::InvalidArgument,
        })
    })
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in the type bits of a mode, for mknod.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    Some(match mode & libc::S_IFMT {
        // mknod(2): zero means a regular file.
        0 | libc::S_IFREG => FileKind::Regular,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return None,
    })
}

pub(crate) fn permission_bits(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

pub(crate) fn attr(answer: &AttrAnswer) -> fuser::FileAttr {
    let attr = &answer.attr;
    fuser::FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size,
        // Where it is not known the kernel may not keep it, and asks.
        blocks: answer.stored.unwrap_or(attr.size).div_ceil(SECTOR_BYTES),
        atime: system_time(attr.accessed),
        mtime: system_time(attr.modified),
        ctime: system_time(attr.changed),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device as u32,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// Stands for `.` and `..` in a listing with attributes, of which the kernel takes the number only.
pub(crate) fn dir_placeholder(inode: InodeId) -> fuser::FileAttr {
    fuser::FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// Clamped to what a `SystemTime` can hold.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))))
        .unwrap_or(UNIX_EPOCH)
}

/// The time of a SETATTR. For times before 1970 the library subtracts the nanoseconds where the
/// kernel's form adds them; this undoes it.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: after.subsec_nanos(),
            },
            Err(before) => Timestamp {
                seconds: 0i64.wrapping_sub_unsigned(before.duration().as_secs()),
                nanoseconds: before.duration().subsec_nanos(),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library makes of a time in a SETATTR.
    fn as_library_reads(seconds: i64, nanoseconds: u32) -> TimeOrNow {
        TimeOrNow::SpecificTime(if seconds >= 0 {
            UNIX_EPOCH + Duration::new(seconds as u64, nanoseconds)
        } else {
            UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanoseconds)
        })
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for (seconds, nanoseconds) in [(0, 0), (5, 7), (-1, 999_999_999), (-1, 0), (-86_400, 1)] {
            let set = set_time(as_library_reads(seconds, nanoseconds));
            assert_eq!(
                set,
                SetTime::At(Timestamp {
                    seconds,
                    nanoseconds
                })
            );
        }
    }

    #[test]
    fn stored_times_become_system_times() {
        let time = system_time(Timestamp {
            seconds: -2,
            nanoseconds: 800_000_000,
        });
        assert_eq!(time, UNIX_EPOCH - Duration::new(1, 200_000_000));
        // Far times don't panic.
        system_time(Timestamp {
            seconds: i64::MAX,
            nanoseconds: 999_999_999,
        });
        system_time(Timestamp {
            seconds: i64::MIN,
            nanoseconds: 0,
        });
    }

    #[test]
    fn a_long_name_is_told() {
        let long = vec![b'x'; 256];
        let error = name(OsStr::from_bytes(&long)).expect_err("too long");
        assert_eq!(error.errno(), libc::ENAMETOOLONG);
    }
}
