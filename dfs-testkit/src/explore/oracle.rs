//! What clients may see of the chunk, a register: checked as the history grows.
//!
//! A situation is the register's value and which of the writes under way have taken effect. A
//! write that has begun may take effect until it is answered; then it has. When its session is
//! over it has or has not, for ever. A read keeps the situations that explain what it saw.

/// Writes of one history, `1` and up; `0` is the beginning.
pub(super) const WRITES_MAX: u8 = 4;

/// All situations that explain what was seen so far: value and set of writes, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Oracle {
    situations: u128,
    pending: u8,
    /// Those of the writes that leave the value of the beginning.
    cuts: u8,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            situations: 1,
            pending: 0,
            cuts: 0,
        }
    }
}

fn bit(value: u8, effective: u8) -> u128 {
    1 << (usize::from(value) * 16 + usize::from(effective))
}

fn mask(write: u8) -> u8 {
    1 << (write - 1)
}

impl Oracle {
    fn each(self) -> impl Iterator<Item = (u8, u8)> {
        (0..=WRITES_MAX)
            .flat_map(|value| (0..16).map(move |effective| (value, effective)))
            .filter(move |(value, effective)| self.situations & bit(*value, *effective) != 0)
    }

    /// Adds what writes under way make possible.
    fn close(&mut self) {
        loop {
            let before = self.situations;
            for (_, effective) in self.each() {
                for write in 1..=WRITES_MAX {
                    if self.pending & !effective & mask(write) != 0 {
                        let value = match self.cuts & mask(write) {
                            0 => write,
                            _ => 0,
                        };
                        self.situations |= bit(value, effective | mask(write));
                    }
                }
            }
            if self.situations == before {
                return;
            }
        }
    }

    fn keep(&mut self, which: impl Fn(u8, u8) -> bool) -> bool {
        self.situations = self
            .each()
            .filter(|(value, effective)| which(*value, *effective))
            .fold(0, |all, (value, effective)| all | bit(value, effective));
        self.situations != 0
    }

    fn forget(&mut self, write: u8) {
        self.pending &= !mask(write);
        self.situations = self.each().fold(0, |all, (value, effective)| {
            all | bit(value, effective & !mask(write))
        });
    }

    pub(super) fn begins(&mut self, write: u8) {
        self.pending |= mask(write);
    }

    pub(super) fn begins_cut(&mut self, cut: u8) {
        self.cuts |= mask(cut);
        self.begins(cut);
    }

    /// A client was told that its write is done. False: it cannot have been.
    pub(super) fn answered(&mut self, write: u8) -> bool {
        self.close();
        let possible = self.keep(|_, effective| effective & mask(write) != 0);
        self.forget(write);
        possible
    }

    /// The write's session is over: from now on it has taken effect or it has not.
    pub(super) fn decided(&mut self, write: u8) {
        self.close();
        self.forget(write);
    }

    /// A client has read a value. False: no order of the operations explains it.
    pub(super) fn read(&mut self, value: u8) -> bool {
        self.close();
        self.keep(|v, _| v == value)
    }

    /// The values that a read may see now.
    pub(super) fn possible(mut self) -> Vec<u8> {
        self.close();
        let mut values: Vec<u8> = self.each().map(|(value, _)| value).collect();
        values.dedup();
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_write_stays() {
        let mut oracle = Oracle::default();
        oracle.begins(1);
        assert!(oracle.answered(1) && oracle.read(1));
        assert!(!oracle.read(0));
    }

    #[test]
    fn a_write_under_way_may_be_seen_and_then_stays() {
        let mut oracle = Oracle::default();
        oracle.begins(1);
        assert!(oracle.read(0) && oracle.read(1));
        assert!(!oracle.read(0));
    }

    #[test]
    fn a_write_takes_effect_once() {
        let mut oracle = Oracle::default();
        oracle.begins(1);
        assert!(oracle.answered(1));
        oracle.begins(2);
        assert!(oracle.answered(2));
        assert!(!oracle.read(1));
    }

    #[test]
    fn a_cut_leaves_the_value_of_the_beginning() {
        let mut oracle = Oracle::default();
        oracle.begins(1);
        assert!(oracle.answered(1));
        oracle.begins_cut(2);
        assert_eq!(oracle.possible(), [0, 1]);
        assert!(oracle.answered(2) && !oracle.read(1));
    }

    #[test]
    fn what_a_dead_session_left_is_decided_once() {
        for seen in [0, 1] {
            let mut oracle = Oracle::default();
            oracle.begins(1);
            oracle.decided(1);
            assert_eq!(oracle.possible(), [0, 1]);
            assert!(oracle.read(seen));
            assert!(!oracle.read(1 - seen));
        }
    }
}
