//! What is agreed on with the kernel when a mount begins.

use dfs_proto::limits::IO_BYTES_MAX;
use fuser::{InitFlags, KernelConfig};
use std::time::Duration;

/// What the kernel may have under way at once; READs that are kept waiting count too.
const MAX_BACKGROUND: u16 = 2048;

/// Largest WRITE. Twice what goes to a file server at once, because it is also what the number of
/// pages of a request is reckoned from: 1 MiB that does not begin with a page touches one more,
/// and would come as two requests, one after the other.
pub(super) const WRITE_BYTES_MAX: u32 = 2 * IO_BYTES_MAX as u32;

/// Asks for what this file system needs, and for what makes it faster where there is it.
///
/// Not asked for: FUSE_WRITEBACK_CACHE (the kernel would be the authority for sizes and times),
/// FUSE_HANDLE_KILLPRIV and its second version (the library does not hand over what the kernel
/// then says of the caller), FUSE_SETXATTR_EXT (the library does not know its form).
pub(super) fn agree(config: &mut KernelConfig) -> std::io::Result<()> {
    let wanted = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_POSIX_LOCKS
        | InitFlags::FUSE_FLOCK_LOCKS
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_AUTO_INVAL_DATA
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_ABORT_ERROR
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        // ACLs are enforced by the kernel, with what `xattrs` answers; what is made gets the
        // mode that its dir says, so the umask has to come along.
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK;
    let missing = match config.add_capabilities(wanted) {
        Ok(()) => InitFlags::empty(),
        Err(missing) => missing,
    };
    let needed = InitFlags::FUSE_AUTO_INVAL_DATA
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        | InitFlags::FUSE_POSIX_ACL;
    if cfg!(target_os = "linux") && missing.intersects(needed) {
        log::error!("this kernel's FUSE lacks {missing:?}");
        return Err(std::io::Error::from_raw_os_error(libc::EPROTO));
    }
    if !missing.is_empty() {
        // All or nothing is taken; ask again for what there is.
        let _ = config.add_capabilities(wanted.difference(missing));
    }
    // A refusal names the kernel's own limit, which is then what holds.
    if let Err(limit) = config.set_max_write(WRITE_BYTES_MAX) {
        let _ = config.set_max_write(limit);
    }
    if let Err(limit) = config.set_max_readahead(IO_BYTES_MAX as u32) {
        let _ = config.set_max_readahead(limit);
    }
    if let Err(limit) = config.set_max_background(MAX_BACKGROUND) {
        let _ = config.set_max_background(limit);
    }
    let _ = config.set_time_granularity(Duration::from_nanos(1));
    Ok(())
}
