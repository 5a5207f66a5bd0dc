//! Randomness as an argument: the operating system's in production, a seed in simulation.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;

/// A source of random bytes. The production source is fit for keys.
pub trait Random: Send + Sync + 'static {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);

    /// A random number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// `bytes` random bytes in lower-case hexadecimal.
    fn hex(&self, bytes: usize) -> String {
        let mut raw = vec![0; bytes];
        self.fill(&mut raw);
        let mut text = String::with_capacity(2 * bytes);
        raw.into_iter().for_each(|byte| push_hex(&mut text, byte));
        text
    }

    /// A random (version 4) UUID in its usual text form.
    fn uuid(&self) -> String {
        let mut b = [0; 16];
        self.fill(&mut b);
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (at, byte) in b.into_iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            push_hex(&mut text, byte);
        }
        text
    }

    /// `length` characters of `a-z0-9`, as API and function-URL identifiers use them.
    fn lower_alphanumeric(&self, length: usize) -> String {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(length);
        while text.len() < length {
            let mut raw = [0; 32];
            self.fill(&mut raw);
            // 252 is the largest multiple of 36 in a byte: larger values would favour the first letters.
            let usable = raw.iter().filter(|byte| **byte < 252);
            text.extend(usable.map(|byte| char::from(ALPHABET[usize::from(*byte) % 36])).take(length - text.len()));
        }
        text
    }
}

/// Every call has several ids, and formatting them takes several times as long.
fn push_hex(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.extend([byte >> 4, byte & 0x0f].map(|digit| char::from(DIGITS[usize::from(digit)])));
}

/// The operating system's generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl SystemRandom {
    /// The operating system's generator, shared.
    pub fn shared() -> Arc<dyn Random> {
        Arc::new(Self)
    }
}

/// Bytes that one thread takes from the kernel at once, for the ids of its next requests. A process that forks would have
/// them twice; the server never does.
const AHEAD_BYTES: usize = 512;

thread_local! {
    /// Random bytes that were not given out yet, and where they begin. Each is given out once and cleared.
    static AHEAD: RefCell<([u8; AHEAD_BYTES], usize)> = const { RefCell::new(([0; AHEAD_BYTES], AHEAD_BYTES)) };
}

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        if out.len() > AHEAD_BYTES / 8 {
            return from_kernel(out);
        }
        AHEAD.with_borrow_mut(|(bytes, begin)| {
            if *begin + out.len() > AHEAD_BYTES {
                from_kernel(bytes);
                *begin = 0;
            }
            let given = &mut bytes[*begin..*begin + out.len()];
            out.copy_from_slice(given);
            given.fill(0);
            *begin += out.len();
        });
    }
}

fn from_kernel(out: &mut [u8]) {
    // A kernel without randomness cannot make keys: going on would be worse than stopping.
    if let Err(error) = getrandom::fill(out) {
        panic!("the operating system gives no random bytes: {error}");
    }
}

/// A repeatable generator (splitmix64). Never for keys.
#[derive(Debug)]
pub struct SeededRandom {
    state: Mutex<u64>,
}

impl SeededRandom {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(seed) })
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) {
        let mut state = self.state.lock();
        for chunk in out.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself() {
        assert_eq!(SeededRandom::new(7).hex(20), SeededRandom::new(7).hex(20));
        assert_ne!(SeededRandom::new(7).hex(20), SeededRandom::new(8).hex(20));
    }

    #[test]
    fn every_byte_has_its_two_digits() {
        let mut text = String::new();
        (0..=255).for_each(|byte| push_hex(&mut text, byte));
        let formatted: String = (0..=255).map(|byte: u8| format!("{byte:02x}")).collect();
        assert_eq!(text, formatted);
    }

    #[test]
    fn a_uuid_has_version_and_variant() {
        let uuid = SystemRandom.uuid();
        assert_eq!(uuid.len(), 36);
        let dashes: Vec<usize> = uuid.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!(dashes, [8, 13, 18, 23]);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]));
    }

    #[test]
    fn what_is_taken_ahead_is_given_out_once_in_every_thread() {
        let drawn = || (1..=AHEAD_BYTES).map(|number| SystemRandom.hex(8 + number % 60)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(drawn)).collect();
        let all: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let beginnings: std::collections::BTreeSet<&str> = all.iter().map(|text| &text[..16]).collect();
        assert_eq!(beginnings.len(), all.len());
    }

    #[test]
    fn identifiers_have_the_asked_length_and_alphabet() {
        let id = SystemRandom.lower_alphanumeric(33);
        assert_eq!(id.len(), 33);
        assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    }
}
