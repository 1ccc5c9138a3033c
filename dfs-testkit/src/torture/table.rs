//! The longest stalls under one kind of fault, and the table of all.

use super::Result;
use std::time::Duration;

/// Stalls of one row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) load: String,
    /// What the 95th percentile is to be below.
    bound: Duration,
    pub(super) stalls: Vec<Duration>,
    /// How long after each fault's end all was well again.
    pub(super) healed: Vec<Duration>,
}

impl Row {
    pub(super) fn new(name: String, load: impl ToString, bound: Duration) -> Self {
        Self {
            name,
            load: load.to_string(),
            bound,
            stalls: Vec::new(),
            healed: Vec::new(),
        }
    }

    fn sorted(&self) -> Vec<Duration> {
        let mut all = self.stalls.clone();
        all.sort();
        all
    }

    fn p95(&self) -> Duration {
        let all = self.sorted();
        let at = (all.len() * 95).div_ceil(100).max(1) - 1;
        all.get(at).copied().unwrap_or_default()
    }

    fn is_kept(&self) -> bool {
        self.p95() < self.bound
    }

    fn print(&self) {
        let all = self.sorted();
        let median = all.get(all.len() / 2).copied().unwrap_or_default();
        let most = all.last().copied().unwrap_or_default();
        let healed = self.healed.iter().max().copied().unwrap_or_default();
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.1} | {} |",
            self.name,
            self.load,
            all.len(),
            median.as_millis(),
            self.p95().as_millis(),
            most.as_millis(),
            healed.as_secs_f64(),
            if self.is_kept() { "yes" } else { "NO" }
        );
    }

    /// `healed`: what the column of that name is called.
    pub(super) fn print_all(rows: &[Self], healed: &str) {
        println!(
            "\n| fault | load | faults | longest call: median, ms | p95 | most | {healed} | within the bound |"
        );
        println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |");
        rows.iter().for_each(Self::print);
    }

    /// An error that names the rows whose bound was missed.
    pub(super) fn missed(rows: &[Self]) -> Result<()> {
        let missed: Vec<&str> = rows
            .iter()
            .filter(|row| !row.is_kept())
            .map(|row| row.name.as_str())
            .collect();
        match missed.is_empty() {
            true => Ok(()),
            false => Err(format!("longer than the bound: {}", missed.join("; "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_judged_by_its_95th_percentile() {
        let mut row = Row::new("kill".to_owned(), "mixed", Duration::from_millis(100));
        row.stalls = (1..=20).map(|n| Duration::from_millis(n * 5)).collect();
        assert_eq!(row.p95(), Duration::from_millis(95));
        assert!(Row::missed(std::slice::from_ref(&row)).is_ok());
        row.stalls[0] = Duration::from_millis(400);
        let missed = Row::missed(&[row]).expect_err("two of twenty");
        assert!(missed.contains("kill"), "{missed}");
    }
}
