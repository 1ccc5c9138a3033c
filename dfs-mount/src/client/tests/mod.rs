//! The client against a small cluster in memory, over real connections.

mod fake;
mod leader;
mod measure;
mod names;
mod reach;
mod read_ahead;
mod seek;
mod sync;
mod truncation;
mod xattrs;

use super::guard::lock;
use super::recall::OldRights;
use super::*;
use dfs_proto::ids::{ROOT, ServerId};
use dfs_proto::lock::{LockKind, LockRange, LockSpace};
use dfs_proto::msg::callback::ConfirmLocks;
use dfs_proto::msg::session::LeaseKind;
use fake::{CHUNK_BYTES, Fake};
use std::sync::Mutex;

const PATIENCE: Duration = Duration::from_secs(10);
const READ_WRITE: OpenMode = OpenMode {
    read: true,
    write: true,
};
const READ: OpenMode = OpenMode {
    read: true,
    write: false,
};
const WRITE: OpenMode = OpenMode {
    read: false,
    write: true,
};

/// Notes what is dropped.
#[derive(Default)]
struct Kernel {
    dropped: Mutex<Vec<(InodeId, OldRights)>>,
    names_dropped: Mutex<Vec<(InodeId, Vec<FileName>)>>,
    /// The dirs of each time that all names were dropped.
    all_dropped: Mutex<Vec<Vec<InodeId>>>,
    /// Data are dropped when this is released.
    hold_data: Arc<tokio::sync::Mutex<()>>,
}

impl KernelCache for Kernel {
    fn drop_data(&self, inode: InodeId, rights: OldRights) -> BoxFuture<()> {
        lock(&self.dropped).push((inode, rights));
        let held = self.hold_data.clone();
        Box::pin(async move { drop(held.lock().await) })
    }

    fn drop_names(&self, dir: InodeId, names: Vec<FileName>) -> BoxFuture<()> {
        lock(&self.names_dropped).push((dir, names));
        Box::pin(std::future::ready(()))
    }

    fn drop_all_names(&self, dirs: Vec<InodeId>) -> BoxFuture<()> {
        lock(&self.all_dropped).push(dirs);
        Box::pin(std::future::ready(()))
    }
}

async fn mount(fake: &Fake) -> (Client, Arc<Kernel>) {
    let kernel = Arc::new(Kernel::default());
    let options = ClientOptions {
        directories: vec![fake.address.clone()],
        mount_point: "/test".into(),
        secret: None,
        io_timeout: None,
    };
    let client = Client::connect(options, kernel.clone(), PATIENCE)
        .await
        .expect("connects");
    (client, kernel)
}

fn name(text: &str) -> FileName {
    FileName::new(text.as_bytes()).expect("a name")
}

async fn create(client: &Client, text: &str, mode: OpenMode) -> Handle {
    let creator = Creator {
        uid: 0,
        gid: 0,
        umask: 0,
    };
    let created = client
        .create(ROOT, name(text), 0o644, creator, true, mode)
        .await
        .expect("creates");
    assert!(created.created);
    created.handle
}

async fn open(client: &Client, text: &str, mode: OpenMode) -> Handle {
    let found = client.lookup(ROOT, Some(name(text))).await.expect("found");
    let found = found.found.expect("there");
    client.open(found.attr.inode, mode).await.expect("opens")
}

async fn write(client: &Client, handle: &Handle, at: WriteAt, bytes: &[u8]) {
    let data = Payload::copy_from(bytes);
    let written = client
        .write(handle, at, data, WriteMode::Normal, Writer::KERNEL)
        .await;
    assert_eq!(written, Ok(bytes.len()));
}

async fn read(client: &Client, handle: &Handle, offset: u64, len: usize) -> Vec<u8> {
    let read = client.read(handle, ReadMode::Normal, offset, len).await;
    read.expect("reads").to_vec()
}

/// Waits for a condition; fails when it does not come.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn bytes_come_back_across_chunks_with_zeros_between() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "a", READ_WRITE).await;
    let data: Vec<u8> = (0..3 * CHUNK_BYTES as usize)
        .map(|i| (i % 251) as u8)
        .collect();
    write(&client, &file, WriteAt::Offset(1000), &data).await;
    assert_eq!(read(&client, &file, 1000, data.len()).await, data);
    assert_eq!(read(&client, &file, 0, 1000).await, [0; 1000]);
    // Clipped at the end; a hole reads as zeros.
    write(&client, &file, WriteAt::Offset(1 << 20), b"end").await;
    let tail = read(&client, &file, (1 << 20) - 10, 100).await;
    assert_eq!(tail, b"\0\0\0\0\0\0\0\0\0\0end");
    assert_eq!(read(&client, &file, 2 << 20, 10).await, b"");
    assert_eq!(
        client.getattr(file.inode()).await.expect("attr").attr.size,
        (1 << 20) + 3
    );
    client.shutdown().await.expect("ends");
    assert_eq!(fake.size("a"), (1 << 20) + 3);
}

#[tokio::test]
async fn another_mount_sees_every_write_and_size_at_once() {
    let fake = Fake::start().await;
    let (a, kernel) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file_a = create(&a, "shared", READ_WRITE).await;
    let file_b = open(&b, "shared", READ).await;
    for round in 0..20u8 {
        let bytes = [round; 100];
        write(&a, &file_a, WriteAt::Offset(u64::from(round)), &bytes).await;
        let seen = b.getattr(file_b.inode()).await.expect("attr");
        assert_eq!(seen.attr.size, u64::from(round) + 100);
        assert_eq!(read(&b, &file_b, u64::from(round), 200).await, bytes);
    }
    let dropped = lock(&kernel.dropped).clone();
    assert!(
        dropped.len() >= 20,
        "every recall empties the kernel's caches"
    );
    assert!(
        dropped
            .iter()
            .all(|d| *d == (file_a.inode(), OldRights::StillValid))
    );
}

#[tokio::test]
async fn appends_of_two_mounts_are_all_whole() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file_a = create(&a, "log", WRITE).await;
    let file_b = open(&b, "log", WRITE).await;
    let append = async |client: &Client, file: &Handle, letter: u8| {
        for _ in 0..50 {
            // Longer than a chunk in part, so that lines straddle chunks.
            let mut line = vec![letter; 3000];
            line.push(b'\n');
            write(client, file, WriteAt::End, &line).await;
        }
    };
    tokio::join!(append(&a, &file_a, b'a'), append(&b, &file_b, b'b'));
    let whole = read(&a, &file_a, 0, 100 * 3001 + 1).await;
    let lines: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 101);
    for line in &lines[..100] {
        assert_eq!(line.len(), 3000);
        assert!(line.iter().all(|byte| byte == &line[0]));
    }
    assert_eq!(
        lines.iter().filter(|l| l.first() == Some(&b'a')).count(),
        50
    );
}

#[tokio::test]
async fn a_hole_reads_as_zeros_on_every_mount() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file_a = create(&a, "h", READ_WRITE).await;
    let file_b = open(&b, "h", READ_WRITE).await;
    let mut expected = vec![7; 100_000];
    write(&a, &file_a, WriteAt::Offset(0), &expected).await;
    let hole = |offset, len| Allocate {
        offset,
        len,
        keep_size: true,
    };
    // Within a chunk, over some, from and to their edges, up to the end and beyond it.
    let chunk = u64::from(fake::CHUNK_BYTES);
    for (client, file, offset, len) in [
        (&a, &file_a, 10, 20),
        (&b, &file_b, chunk - 5, 2 * chunk),
        (&a, &file_a, 4 * chunk, chunk),
        (&b, &file_b, 99_000, 50_000),
        (&a, &file_a, 200_000, 10),
    ] {
        client
            .punch(file, hole(offset, len))
            .await
            .expect("punches");
        let end = (offset + len).min(100_000) as usize;
        expected[(offset as usize).min(end)..end].fill(0);
        assert_eq!(read(&a, &file_a, 0, 200_000).await, expected);
        assert_eq!(read(&b, &file_b, 0, 200_000).await, expected);
        // Chunks in the hole are gone on purpose: nobody misses them.
        client.fsync(file).await.expect("syncs");
    }
    write(&a, &file_a, WriteAt::Offset(15), &[8; 10]).await;
    expected[15..25].fill(8);
    assert_eq!(read(&b, &file_b, 0, 200_000).await, expected);
    let refused = a.punch(&file_a, hole(0, 0)).await.expect_err("nothing");
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
    let refused = a.punch(&file_a, hole(u64::MAX - 5, 10)).await;
    assert_eq!(refused.expect_err("too far").code, ErrorCode::FileTooLarge);
}

#[tokio::test]
async fn who_has_cut_reads_from_no_server_that_was_left_behind() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "b", READ_WRITE).await;
    write(&client, &file, WriteAt::Offset(0), &[7; 100_000]).await;
    // No heartbeat tells of the new epochs: only what the cut is answered with.
    lock(&fake.state).mute = true;
    fake.new_epoch(&[2, 3]);
    let cut = client.setattr(file.inode(), Some(&file), SetAttr::default(), Some(50_000));
    cut.await.expect("cuts");
    assert_eq!(client.core.map.version(), lock(&fake.state).map.version);
    fake.new_epoch(&[1, 3]);
    let hole = Allocate {
        offset: 10,
        len: 20,
        keep_size: true,
    };
    client.punch(&file, hole).await.expect("punches");
    assert_eq!(client.core.map.version(), lock(&fake.state).map.version);
    lock(&fake.state).mute = false;
}

#[tokio::test]
async fn truncation_and_growth_leave_zeros() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file_a = create(&a, "t", READ_WRITE).await;
    write(&a, &file_a, WriteAt::Offset(0), &[7; 100_000]).await;
    let set = SetAttr::default();
    let cut = a
        .setattr(file_a.inode(), Some(&file_a), set, Some(10))
        .await
        .expect("cuts");
    assert_eq!(cut.attr.size, 10);
    let file_b = open(&b, "t", READ_WRITE).await;
    b.setattr(file_b.inode(), None, set, Some(70_000))
        .await
        .expect("grows");
    let mut expected = vec![0; 70_000];
    expected[..10].fill(7);
    assert_eq!(read(&a, &file_a, 0, 100_000).await, expected);
    let range = Allocate {
        offset: 0,
        len: 80_000,
        keep_size: false,
    };
    a.allocate(&file_a, range, Fill::Room)
        .await
        .expect("allocates");
    assert_eq!(
        b.getattr(file_b.inode()).await.expect("attr").attr.size,
        80_000
    );
    let range = Allocate {
        len: 2 << 30,
        ..range
    };
    let refused = a
        .allocate(&file_a, range, Fill::Room)
        .await
        .expect_err("there is no room");
    assert_eq!(refused.code, ErrorCode::NoSpace);
}

#[tokio::test]
async fn a_lost_answer_is_a_write_done_once() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "once", READ_WRITE).await;
    lock(&fake.state).lose_next_answer = true;
    write(&client, &file, WriteAt::Offset(0), b"first").await;
    write(&client, &file, WriteAt::Offset(0), b"second").await;
    assert_eq!(lock(&fake.state).writes, 2);
    assert_eq!(read(&client, &file, 0, 10).await, b"second");
}

#[tokio::test]
async fn reads_go_to_another_replica_and_writes_follow_the_epoch() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "e", READ_WRITE).await;
    write(&client, &file, WriteAt::Offset(0), &[1; 200_000]).await;
    lock(&fake.state).rotten = vec![ServerId(1), ServerId(2)];
    assert_eq!(read(&client, &file, 0, 200_000).await, vec![1; 200_000]);
    lock(&fake.state).rotten = vec![ServerId(1), ServerId(2), ServerId(3)];
    let damaged = client.read(&file, ReadMode::Normal, 0, 10).await;
    assert_eq!(damaged.expect_err("no good copy").code, ErrorCode::Rotten);
    lock(&fake.state).rotten.clear();
    // Nobody tells the mount of the new epoch: the refusals do.
    fake.new_epoch(&[2, 3]);
    write(&client, &file, WriteAt::Offset(0), b"after").await;
    assert_eq!(read(&client, &file, 0, 5).await, b"after");
    // Too few replicas: the write waits, reads go on; then it goes on.
    fake.new_epoch(&[3]);
    fake.push_map().await;
    let waiting = {
        let (client, file) = (client.clone(), file.clone());
        tokio::spawn(async move { write(&client, &file, WriteAt::Offset(100_000), b"late").await })
    };
    assert_eq!(read(&client, &file, 0, 5).await, b"after");
    assert!(!waiting.is_finished());
    fake.new_epoch(&[3, 1]);
    fake.push_map().await;
    waiting.await.expect("written in the end");
}

#[tokio::test]
async fn a_sync_reaches_every_replica_and_pushes_the_size() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "s", WRITE).await;
    write(&client, &file, WriteAt::Offset(0), &[1; 70_000]).await;
    client.fsync(&file).await.expect("syncs");
    assert_eq!(fake.size("s"), 70_000);
    let synced = std::mem::take(&mut lock(&fake.state).synced);
    assert_eq!(synced.len(), 6, "two groups of three: {synced:?}");
    assert!(synced.iter().all(|(_, chunks)| chunks.len() == 1));
    client.fsync(&file).await.expect("syncs");
    assert!(
        lock(&fake.state).synced.is_empty(),
        "nothing is dirty any more"
    );
}

#[tokio::test]
async fn the_last_close_pushes_the_size() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "c", WRITE).await;
    write(&client, &file, WriteAt::Offset(0), b"hello").await;
    assert_eq!(fake.size("c"), 0);
    drop(file);
    eventually("the push at the close", || fake.size("c") == 5).await;
}

fn flock(owner: u64, kind: Option<LockKind>, wait: bool) -> LockRequest {
    LockRequest {
        space: LockSpace::Flock,
        owner: LockOwner(owner),
        pid: 1,
        kind,
        range: LockRange::WHOLE,
        wait,
    }
}

#[tokio::test]
async fn locks_are_waited_for_granted_and_cancelled() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file_a = create(&a, "l", READ_WRITE).await;
    let file_b = open(&b, "l", READ_WRITE).await;
    let inode = file_a.inode();
    let exclusive = Some(LockKind::Exclusive);
    let never = Cancel::default();
    a.set_lock(&file_a, flock(1, exclusive, false), &never)
        .await
        .expect("free");
    let refused = b
        .set_lock(&file_b, flock(2, exclusive, false), &never)
        .await;
    assert_eq!(refused.expect_err("held").code, ErrorCode::WouldBlock);
    // Cancelled.
    let cancel = Cancel::default();
    let waiting = {
        let (b, file_b, cancel) = (b.clone(), file_b.clone(), cancel.clone());
        tokio::spawn(async move {
            b.set_lock(&file_b, flock(2, exclusive, true), &cancel)
                .await
        })
    };
    fake.queued(inode, 1).await;
    cancel.cancel();
    let interrupted = waiting.await.expect("ends").expect_err("cancelled");
    assert_eq!(interrupted.code, ErrorCode::Interrupted);
    fake.queued(inode, 0).await;
    // A caller that goes away cancels too.
    {
        let (b, file_b) = (b.clone(), file_b.clone());
        let gone = tokio::spawn(async move {
            b.set_lock(&file_b, flock(2, exclusive, true), &Cancel::default())
                .await
        });
        fake.queued(inode, 1).await;
        gone.abort();
        fake.queued(inode, 0).await;
    }
    // Granted at the release.
    let waiting = {
        let (b, file_b) = (b.clone(), file_b.clone());
        tokio::spawn(async move {
            b.set_lock(&file_b, flock(2, exclusive, true), &Cancel::default())
                .await
        })
    };
    fake.queued(inode, 1).await;
    a.release_owner(inode, LockSpace::Flock, LockOwner(1))
        .await
        .expect("released");
    assert_eq!(waiting.await.expect("ends"), Ok(()));
}

#[tokio::test]
async fn a_new_leader_is_told_what_is_held_and_waits_go_on() {
    let fake = Fake::start().await;
    let (a, kernel) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = create(&a, "r", READ_WRITE).await;
    let file_b = open(&b, "r", READ_WRITE).await;
    let read_only = create(&a, "shared", READ).await;
    let exclusive = Some(LockKind::Exclusive);
    let never = Cancel::default();
    a.set_lock(&file, flock(1, exclusive, false), &never)
        .await
        .expect("free");
    write(&a, &file, WriteAt::Offset(0), b"unpushed").await;
    let waiting = {
        let (b, file_b) = (b.clone(), file_b.clone());
        tokio::spawn(async move {
            b.set_lock(&file_b, flock(2, exclusive, true), &Cancel::default())
                .await
        })
    };
    fake.queued(file.inode(), 1).await;
    // B's look turns A's exclusive lease of the other file into nothing, then A holds it shared.
    let other_b = open(&b, "shared", WRITE).await;
    write(&b, &other_b, WriteAt::Offset(0), b"x").await;
    assert_eq!(read(&a, &read_only, 0, 1).await, b"x");
    fake.new_leader();
    eventually("the reclaims", || lock(&fake.state).reclaimed.len() >= 2).await;
    let reclaimed = std::mem::take(&mut lock(&fake.state).reclaimed);
    let from_a = reclaimed
        .iter()
        .find(|r| !r.locks.is_empty())
        .expect("A reclaims its lock");
    assert_eq!(
        from_a.leases,
        [file.inode()],
        "shared leases are not reclaimed"
    );
    assert_eq!(from_a.opens.len(), 2);
    assert!(lock(&kernel.dropped).contains(&(read_only.inode(), OldRights::Lost)));
    // The waiting lock is asked for again; the unpushed size is still A's to give.
    fake.queued(file.inode(), 1).await;
    assert_eq!(read(&b, &file_b, 0, 100).await, b"unpushed");
    a.release_owner(file.inode(), LockSpace::Flock, LockOwner(1))
        .await
        .expect("released");
    assert_eq!(waiting.await.expect("ends"), Ok(()));
}

#[tokio::test]
async fn after_a_lost_session_only_harmed_handles_break() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let harmed = create(&client, "harmed", READ_WRITE).await;
    let clean = create(&client, "clean", READ_WRITE).await;
    write(&client, &clean, WriteAt::Offset(0), b"synced").await;
    client.fsync(&clean).await.expect("syncs");
    write(&client, &harmed, WriteAt::Offset(0), b"unsynced").await;
    let before = client.session().await.expect("a session");
    fake.end_sessions();
    eventually("another session", || {
        let sessions = client.core.session.borrow();
        sessions.as_ref().is_some_and(|s| s.id != before)
    })
    .await;
    assert_eq!(read(&client, &clean, 0, 10).await, b"synced");
    let broken = client.read(&harmed, ReadMode::Normal, 0, 10).await;
    assert_eq!(broken.expect_err("broken").code, ErrorCode::SessionEnded);
    let cut = client.setattr(harmed.inode(), Some(&harmed), SetAttr::default(), Some(1));
    assert_eq!(
        cut.await.expect_err("broken").code,
        ErrorCode::SessionEnded,
        "a truncation through the handle must not land"
    );
    let again = open(&client, "harmed", READ_WRITE).await;
    write(&client, &again, WriteAt::Offset(0), b"goes on").await;
}

#[tokio::test]
async fn stores_into_a_map_under_a_lost_lease_bury_nothing() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let (other, _) = mount(&fake).await;
    let mapped = create(&client, "mapped", READ_WRITE).await;
    write(&client, &mapped, WriteAt::Offset(0), b"old").await;
    client.fsync(&mapped).await.expect("syncs");
    let stored = |text: &'static [u8]| {
        let page = Payload::copy_from(text);
        client.write(
            &mapped,
            WriteAt::Offset(0),
            page,
            WriteMode::Launder,
            Writer::KERNEL,
        )
    };
    assert_eq!(stored(b"map").await, Ok(3));
    client.fsync(&mapped).await.expect("syncs");
    let before = client.session().await.expect("a session");
    fake.end_sessions();
    eventually("another session", || {
        let sessions = client.core.session.borrow();
        sessions.as_ref().is_some_and(|s| s.id != before)
    })
    .await;
    let file = open(&other, "mapped", READ_WRITE).await;
    write(&other, &file, WriteAt::Offset(0), b"new").await;
    let late = stored(b"map").await;
    assert_eq!(late.expect_err("late").code, ErrorCode::SessionEnded);
    assert_eq!(read(&client, &mapped, 0, 10).await, b"new");
}

#[tokio::test]
async fn a_release_counts_from_its_call_on() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "f", READ_WRITE).await;
    let inode = file.inode();
    let lock = flock(1, Some(LockKind::Exclusive), false);
    let locked = client.set_lock(&file, lock, &Cancel::default()).await;
    assert_eq!(locked, Ok(()));
    assert!(client.holds_locks(inode, LockSpace::Flock, LockOwner(1)));
    let release = client.release_owner(inode, LockSpace::Flock, LockOwner(1));
    let confirm = ConfirmLocks {
        inode,
        space: LockSpace::Flock,
        owners: vec![LockOwner(1)],
    };
    let mut confirmed = std::pin::pin!(client.core.locks.releases_done(&confirm));
    let early = tokio::time::timeout(Duration::from_millis(20), &mut confirmed).await;
    assert!(early.is_err(), "the release is yet to be sent");
    release.await.expect("released");
    confirmed.await;
    assert!(!client.holds_locks(inode, LockSpace::Flock, LockOwner(1)));
}

#[tokio::test]
async fn reads_wait_while_the_right_has_lapsed() {
    let fake = Fake::start().await;
    let (client, kernel) = mount(&fake).await;
    let (other, _) = mount(&fake).await;
    let file = create(&client, "f", WRITE).await;
    write(&client, &file, WriteAt::Offset(0), b"old").await;
    let reader = open(&other, "f", READ).await;
    assert_eq!(read(&other, &reader, 0, 10).await, b"old");
    assert_eq!(read(&client, &file, 0, 10).await, b"old");
    assert_eq!(fake.holds(file.inode()), [LeaseKind::Shared; 2]);
    lock(&fake.state).mute = true;
    eventually("the lapse", || client.core.right_left().is_zero()).await;
    let waiting = {
        let (client, file) = (client.clone(), file.clone());
        tokio::spawn(async move { read(&client, &file, 0, 10).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "self-fence");
    lock(&fake.state).mute = false;
    assert_eq!(waiting.await.expect("goes on"), b"old");
    assert!(lock(&kernel.dropped).contains(&(file.inode(), OldRights::Lost)));
}
