//! Bytes that say which write they are of and where they belong, and a model of a file made of
//! them: what is read is compared byte by byte, and a difference is told in words.

use super::Result;

/// The word of write `tag` at word `index` of a file. Never 0: zeros are holes.
fn word(tag: u32, index: u64) -> u64 {
    (u64::from(tag) << 32 | (index & 0xffff_ffff)) ^ 0x8000_0000_0000_0000
}

/// `len` bytes of write `tag` for `offset`.
pub(super) fn bytes(tag: u32, offset: u64, len: usize) -> Vec<u8> {
    let first = offset / 8;
    let last = (offset + len as u64).div_ceil(8);
    let mut all = Vec::with_capacity(((last - first) * 8) as usize);
    for index in first..last {
        all.extend_from_slice(&word(tag, index).to_le_bytes());
    }
    let skip = (offset % 8) as usize;
    all.drain(..skip);
    all.truncate(len);
    all
}

/// What the 8 bytes around `at` are, in words.
pub(super) fn describe(data: &[u8], at: usize) -> String {
    let from = at / 8 * 8;
    let Some(bytes) = data.get(from..from + 8) else {
        return format!("{:?}", &data[from..]);
    };
    let value = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    if value == 0 {
        return "zeros".to_owned();
    }
    let plain = value ^ 0x8000_0000_0000_0000;
    format!(
        "write {} of byte {}",
        plain >> 32,
        (plain & 0xffff_ffff) * 8
    )
}

/// What a file holds as far as was acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    data: Vec<u8>,
}

impl Model {
    pub(super) fn len(&self) -> u64 {
        self.data.len() as u64
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if self.data.len() < to {
            self.data.resize(to, 0);
        }
        self.data[from..to].copy_from_slice(bytes);
    }

    pub(super) fn resize(&mut self, len: u64) {
        self.data.resize(len as usize, 0);
    }

    /// Compares what a read of `wanted` bytes at `offset` gave.
    pub(super) fn check(&self, offset: u64, wanted: usize, seen: &[u8]) -> Result<()> {
        let from = (offset as usize).min(self.data.len());
        let to = (offset as usize + wanted).min(self.data.len());
        let expected = &self.data[from..to];
        if expected == seen {
            return Ok(());
        }
        if expected.len() != seen.len() {
            return Err(format!(
                "{} bytes read at {offset}, {} are there (size {})",
                seen.len(),
                expected.len(),
                self.data.len()
            ));
        }
        let differs = |(a, b): (&u8, &u8)| a != b;
        let at = expected.iter().zip(seen).position(differs).unwrap_or(0);
        let count = expected.iter().zip(seen).filter(|(a, b)| a != b).count();
        // Words are aligned in the file, not in the read.
        let mut whole = self.data.clone();
        let expected = describe(&whole, from + at);
        whole[from..to].copy_from_slice(seen);
        let seen = describe(&whole, from + at);
        Err(format!(
            "byte {} (and {count} in all): expected {expected}, seen {seen}",
            from + at
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_depend_on_where_they_are_not_on_the_call() {
        let whole = bytes(7, 0, 100);
        assert_eq!(bytes(7, 13, 50), whole[13..63]);
        assert_ne!(bytes(8, 0, 100), whole);
    }

    #[test]
    fn differences_are_told() {
        let mut model = Model::default();
        model.write(0, &bytes(1, 0, 64));
        model.write(16, &bytes(2, 16, 16));
        model.resize(100);
        let mut seen = model.data.clone();
        assert_eq!(model.check(0, 200, &seen), Ok(()));
        seen[16..32].copy_from_slice(&bytes(1, 16, 16));
        let told = model.check(0, 100, &seen).expect_err("stale bytes");
        assert!(told.contains("expected write 2 of byte 16, seen write 1 of byte 16"));
        assert!(model.check(0, 100, &seen[..99]).is_err());
    }
}
