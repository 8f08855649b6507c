//! Changes inputs at random, from a seed.

/// SplitMix64: the same numbers on every machine and with every version of every library.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next().checked_rem(bound as u64).unwrap_or(0) as usize
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Longest input that mutation makes, in bytes.
const LONGEST: usize = 64 << 10;

/// Numbers at which comparisons, additions and multiplications tip over.
const INTERESTING: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    17,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    511,
    512,
    513,
    1024,
    4095,
    4096,
    4097,
    32 << 10,
    64 << 10,
    (64 << 10) + 1,
    1 << 20,
    4 << 20,
    32 << 20,
    (32 << 20) + 1,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 50,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4096,
    u64::MAX - 1,
    u64::MAX,
];

/// A child of `parent`; `other` is what pieces may be taken from, `words` are strings and magics of the format.
pub fn mutate(rng: &mut Rng, parent: &[u8], other: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut input = parent.to_vec();
    for _ in 0..1 + rng.below(4) {
        step(rng, &mut input, other, words);
    }
    input.truncate(LONGEST);
    input
}

fn step(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    let at = rng.below(input.len());
    match rng.below(12) {
        0 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
        1 if !input.is_empty() => input[at] = rng.next() as u8,
        // A number of any width and byte order, most often where a field would lie.
        2..=4 => {
            let width = *rng.pick(&[1, 2, 4, 8]);
            // Fields are aligned to the format's beginning, or to its end.
            let base = if rng.one_in(2) { input.len() % width } else { 0 };
            let at = if rng.one_in(4) {
                at
            } else {
                at / width * width + base
            };
            let jitter = if rng.one_in(4) { rng.below(5) as u64 } else { 0 };
            let number = rng.pick(INTERESTING).wrapping_sub(jitter);
            let bytes = if rng.one_in(2) {
                number.to_le_bytes()[..width].to_vec()
            } else {
                number.to_be_bytes()[8 - width..].to_vec()
            };
            if let Some(field) = input.get_mut(at..at + width) {
                field.copy_from_slice(&bytes);
            }
        }
        5 => input.truncate(at),
        6 => {
            let count = 1 + rng.below(64);
            input.extend((0..count).map(|_| rng.next() as u8));
        }
        // A piece is left out, said twice, or comes from somewhere else.
        7 => drop(input.drain(at..at + rng.below(input.len() - at).min(256))),
        8 => {
            let piece = input[at..at + rng.below(input.len() - at).min(256)].to_vec();
            let to = rng.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        9 => {
            let from = rng.below(other.len());
            let piece = &other[from..from + rng.below(other.len() - from + 1)];
            let end = at + rng.below(input.len() - at + 1);
            input.splice(at..end, piece.iter().copied());
        }
        10 => {
            // A number in a text becomes another one.
            let Some(start) = input[at..].iter().position(u8::is_ascii_digit) else {
                return;
            };
            let digits = input[at + start..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let number = rng.pick(INTERESTING).to_string();
            input.splice(at + start..at + start + digits, number.into_bytes());
        }
        _ if !words.is_empty() => {
            let word = *rng.pick(words);
            let end = if rng.one_in(2) {
                (at + word.len()).min(input.len())
            } else {
                at
            };
            input.splice(at..end, word.iter().copied());
        }
        _ => {}
    }
}
