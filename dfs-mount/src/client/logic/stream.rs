//! Whether a handle is read in sequence, and what is worth fetching before it is asked for. Pure.

/// Read in sequence before anything is fetched ahead, in bytes and in requests: who looks at the
/// head of a file only costs the servers nothing more.
const RUN_MIN: u64 = 64 << 10;
const REQUESTS_MIN: u32 = 2;

/// A fetch is at most this long and ends at a multiple of it, so that it is one request to a file
/// server and a large read of a program finds its bytes in one piece.
pub const PIECE_BYTES: u64 = 1 << 20;

/// How far ahead of the reader, at most: enough requests in flight to keep a disk busy.
pub const WINDOW_BYTES: u64 = 4 << 20;

/// Fetches begin at a block.
const BLOCK_BYTES: u64 = 4096;

/// The reads of one handle.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stream {
    /// Where the next read in sequence begins.
    next: u64,
    /// Bytes and requests in sequence so far.
    run: u64,
    requests: u32,
    /// Up to here it was fetched ahead.
    ahead: u64,
}

impl Stream {
    /// A read of `start..end` of a file of `size` bytes has come. What is to be fetched now, in
    /// pieces that follow each other.
    pub fn read(
        &mut self,
        start: u64,
        end: u64,
        size: u64,
    ) -> impl Iterator<Item = (u64, u64)> + use<> {
        if start == self.next {
            self.run += end - start;
            self.requests = self.requests.saturating_add(1);
            self.next = end;
        } else if start.abs_diff(self.next) > WINDOW_BYTES {
            *self = Self {
                next: end,
                run: end - start,
                requests: 1,
                ahead: 0,
            };
        }
        // Else the kernel's own read-ahead has come out of order: neither more nor less of a stream.
        let from = match self.ahead >= self.next {
            true => self.ahead,
            false => self.next - self.next % BLOCK_BYTES,
        };
        let mut until = from;
        if self.run >= RUN_MIN && self.requests >= REQUESTS_MIN {
            // It grows with the trust in the stream, and there is always a whole piece ahead.
            let window = self.run.clamp(2 * PIECE_BYTES, WINDOW_BYTES);
            let target = self.next.saturating_add(window);
            until = match target >= size {
                true => size,
                false => target - target % PIECE_BYTES,
            };
        }
        let until = until.max(from);
        if until > from {
            self.ahead = until;
        }
        let mut at = from;
        std::iter::from_fn(move || {
            let piece = at;
            at = until.min(at - at % PIECE_BYTES + PIECE_BYTES);
            (piece < until).then_some((piece, at))
        })
    }

    /// Something could not be fetched: try again when the stream goes on.
    pub fn lost(&mut self) {
        self.ahead = 0;
    }

    /// The content has changed. Whoever writes between his reads (and so makes what was fetched
    /// ahead useless each time) gets nothing fetched.
    pub fn restart(&mut self) {
        (self.run, self.requests, self.ahead) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn read(stream: &mut Stream, start: u64, len: u64, size: u64) -> Vec<(u64, u64)> {
        stream.read(start, start + len, size).collect()
    }

    #[test]
    fn a_stream_is_fetched_ahead_once_and_to_the_end() {
        let mut stream = Stream::default();
        let size = 10 * MIB + 5;
        assert_eq!(read(&mut stream, 0, MIB, size), []);
        let first = read(&mut stream, MIB, MIB, size);
        assert_eq!(first, [(2 * MIB, 3 * MIB), (3 * MIB, 4 * MIB)]);
        let mut fetched = 4 * MIB;
        for at in 2..10 {
            for (start, end) in read(&mut stream, at * MIB, MIB, size) {
                assert_eq!(start, fetched, "no byte twice, none left out");
                assert!(end - start <= PIECE_BYTES);
                assert!(end - (at + 1) * MIB <= WINDOW_BYTES);
                fetched = end;
            }
        }
        assert_eq!(fetched, size);
        assert_eq!(read(&mut stream, 10 * MIB, 5, size), []);
    }

    #[test]
    fn the_head_of_a_file_and_random_reads_fetch_nothing() {
        let mut stream = Stream::default();
        assert_eq!(read(&mut stream, 0, 16 << 10, 100 * MIB), []);
        assert_eq!(read(&mut stream, 16 << 10, 16 << 10, 100 * MIB), []);
        for n in 0..1000u64 {
            let start = n.wrapping_mul(7919) % 25_000 * BLOCK_BYTES;
            if start != stream.next {
                assert_eq!(read(&mut stream, start, BLOCK_BYTES, 100 * MIB), []);
            }
        }
    }

    #[test]
    fn small_reads_fetch_whole_pieces() {
        let mut stream = Stream::default();
        let mut pieces = Vec::new();
        for n in 0..600u64 {
            pieces.extend(read(&mut stream, n * 4096, 4096, 100 * MIB));
        }
        assert_eq!(pieces[0], (64 << 10, MIB));
        assert_eq!(pieces[1], (MIB, 2 * MIB));
        assert!(pieces.len() < 8, "{pieces:?}");
    }

    #[test]
    fn a_stream_of_odd_requests_is_followed() {
        let mut stream = Stream::default();
        let mut fetched = None;
        for n in 0..100u64 {
            for (start, end) in read(&mut stream, n * 100_001, 100_001, 20 * MIB) {
                assert!(start.is_multiple_of(BLOCK_BYTES));
                assert!(fetched.is_none_or(|fetched| fetched == start));
                fetched = Some(end);
            }
        }
        assert!(fetched.is_some_and(|end| end >= 100 * 100_001));
    }

    #[test]
    fn what_was_lost_is_fetched_again() {
        let mut stream = Stream::default();
        read(&mut stream, 0, MIB, 50 * MIB);
        assert!(!read(&mut stream, MIB, MIB, 50 * MIB).is_empty());
        stream.lost();
        let again = read(&mut stream, 2 * MIB, MIB, 50 * MIB);
        assert_eq!(again[0].0, 3 * MIB);
    }

    #[test]
    fn who_writes_between_reads_gets_nothing_fetched() {
        let mut stream = Stream::default();
        for at in 0..20 {
            assert_eq!(read(&mut stream, at * MIB, MIB, 50 * MIB), []);
            stream.restart();
        }
    }
}
