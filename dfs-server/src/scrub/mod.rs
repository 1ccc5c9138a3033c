//! Scrub: every chunk of the groups that this server leads is read on all members, compared,
//! and repaired, in a period and on demand.
//!
//! The replica core compares one chunk; here is which one comes next, and when.
//!
//! | module | what |
//! | --- | --- |
//! | `plan` | when which group is gone through, and how far it is |
//! | `answers` | what the directory asks, for `dfsctl scrub` and `dfsctl fsck` |

mod answers;
mod plan;

use crate::replica::{Request, Response, ScrubChunk, ScrubKeys, ScrubPage, Scrubbed};
use crate::service::Driver;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, GroupId};
use plan::Plan;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the passes are written down, in the data dir.
const FILE: &str = "scrub";

/// How often it is looked whether a group is due, and the progress written down.
const LOOK: Duration = Duration::from_secs(5);
const SAVE: Duration = Duration::from_secs(10);

/// Times that a chunk which is being written is put off, and for how long; then the next write
/// waits for its comparison.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// What was done since the start.
#[derive(Debug, Default)]
struct Totals {
    chunks: AtomicU64,
    bytes: AtomicU64,
    found: AtomicU64,
    repaired: AtomicU64,
}

/// Looks after the groups that this server leads.
#[derive(Debug)]
pub struct Scrubber {
    driver: Arc<Driver>,
    path: PathBuf,
    every: Duration,
    /// Bytes a second.
    rate: u64,
    plan: Mutex<Plan>,
    totals: Totals,
}

impl Scrubber {
    /// `data` is the data dir; `seed` differs from server to server.
    pub fn new(
        driver: Arc<Driver>,
        data: &std::path::Path,
        (every, rate): (Duration, u64),
        seed: u64,
    ) -> Arc<Self> {
        let path = data.join(FILE);
        let mut plan = Plan::new(every.as_secs(), seed);
        match std::fs::read_to_string(&path) {
            Ok(text) => plan.restore(&text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => log::warn!("read {}: {e}; the scrub begins anew", path.display()),
        }
        Arc::new(Self {
            driver,
            path,
            every,
            rate: rate.max(1),
            plan: Mutex::new(plan),
            totals: Totals::default(),
        })
    }

    /// Works through what is due, until the task is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut saved = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            self.note_checks();
            while let Some((group, after)) = self.due() {
                if let Err(error) = self.go_on(group, after, &mut saved).await {
                    // It leads no more, or a member is away: another time.
                    log::debug!("the scrub of {group} waits: {error}");
                    break;
                }
            }
            self.save_after(&mut saved);
        }
    }

    fn due(&self) -> Option<(GroupId, Option<ChunkKey>)> {
        let led = self.driver.led();
        self.plan().next(&led, unix_seconds())
    }

    /// One page of a pass.
    async fn go_on(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        saved: &mut Instant,
    ) -> Result<(), Error> {
        let page = self.keys(group, after).await?;
        for key in page.keys {
            let began = Instant::now();
            let bytes = match self.compare(group, key).await {
                Ok(scrubbed) => scrubbed.bytes,
                // It cannot be compared now; the next pass comes by again.
                Err(error) if error.code == ErrorCode::Overloaded => 0,
                Err(error) => return Err(error),
            };
            self.plan().went_on(group, key, unix_seconds());
            self.save_after(saved);
            // Even an empty chunk costs something.
            let pace = Duration::from_secs_f64(bytes.max(4096) as f64 / self.rate as f64);
            tokio::time::sleep(pace.saturating_sub(began.elapsed())).await;
        }
        match page.next {
            Some(next) => self.plan().went_on(group, next, unix_seconds()),
            None => {
                log::info!("{group} has been scrubbed");
                self.plan().ended(group, unix_seconds());
            }
        }
        Ok(())
    }

    async fn keys(&self, group: GroupId, after: Option<ChunkKey>) -> Result<ScrubPage, Error> {
        let request = ScrubKeys { group, after };
        match self.driver.ask(Request::ScrubKeys(request)).await? {
            Response::Keys(page) => Ok(page),
            _ => Err(Error::bare(ErrorCode::Internal)),
        }
    }

    /// Compares one chunk; waits for a moment at which nobody writes it.
    async fn compare(&self, group: GroupId, key: ChunkKey) -> Result<Scrubbed, Error> {
        let mut tries = 1;
        loop {
            let insist = tries == TRIES;
            let request = ScrubChunk { group, key, insist };
            match self.driver.ask(Request::ScrubChunk(request)).await {
                Ok(Response::Scrubbed(scrubbed)) => {
                    let repaired = scrubbed.findings.iter().filter(|f| f.repaired.is_ok());
                    let totals = &self.totals;
                    let add = |sum: &AtomicU64, n| sum.fetch_add(n, Ordering::Relaxed);
                    add(&totals.chunks, 1);
                    add(&totals.bytes, scrubbed.bytes);
                    add(&totals.found, scrubbed.findings.len() as u64);
                    add(&totals.repaired, repaired.count() as u64);
                    return Ok(scrubbed);
                }
                Ok(_) => return Err(Error::bare(ErrorCode::Internal)),
                Err(error) if error.code == ErrorCode::Overloaded && !insist => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How far other primaries are, who had this server read its copies.
    fn note_checks(&self) {
        let led = self.driver.led();
        let now = unix_seconds();
        for (group, key) in self.driver.take_checks() {
            if !led.contains(&group) {
                self.plan().went_on(group, key, now);
            }
        }
    }

    fn save_after(&self, saved: &mut Instant) {
        if saved.elapsed() >= SAVE {
            *saved = Instant::now();
            self.save();
        }
    }

    /// Writes the progress down. What is lost with it is some work.
    pub fn save(&self) {
        let text = self.plan().render();
        let draft = self.path.with_extension("new");
        let saved = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &self.path));
        if let Err(e) = saved {
            log::warn!("write {}: {e}", self.path.display());
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
