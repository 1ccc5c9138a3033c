//! A fast 64-bit hash. States are told apart by it alone: among twenty million the chance that
//! two share a digest is one in a hundred thousand.

use std::hash::{Hash, Hasher};

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
const KEY: u64 = 0xd6e8_feb8_6659_fd93;

#[derive(Clone, Copy, Debug)]
pub(super) struct Mix(u64);

impl Default for Mix {
    fn default() -> Self {
        Self(KEY)
    }
}

impl Mix {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0.rotate_left(29) ^ word ^ ODD) * u128::from(KEY);
        self.0 = (product as u64) ^ ((product >> 64) as u64).wrapping_add(word);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ KEY) * u128::from(ODD);
        (product as u64) ^ ((product >> 64) as u64)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
        self.add(bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.add(u64::from(n));
    }
    fn write_u16(&mut self, n: u16) {
        self.add(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.add(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.add(n);
    }
    fn write_usize(&mut self, n: usize) {
        self.add(n as u64);
    }
    fn write_isize(&mut self, n: isize) {
        self.add(n as u64);
    }
}

pub(super) fn digest(what: &impl Hash) -> u64 {
    let mut mix = Mix::default();
    what.hash(&mut mix);
    mix.finish()
}

/// For sets of digests: they need no more mixing.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}
