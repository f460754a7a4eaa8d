//! Inputs out of inputs, by a seeded generator: the same seed makes the same.

/// A small generator of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below this one; 0 below 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % (end.max(1) as u64)).expect("below a usize")
    }
}

/// Bytes of an input.
pub const BYTES_MAX: usize = 64 * 1024;

/// Numbers at which things change, as bytes of either order.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x0010_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// What the formats are made of.
const WORDS: [&[u8]; 28] = [
    b"$all",
    b"$$",
    b"$ce-",
    b"$idx-",
    b"$maxCount",
    b"$maxAge",
    b"$tb",
    b"$acl",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"null",
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b"(?!",
    b")+",
    b"{1,1000}",
    b"\\pL",
    b"application/json",
    b"content-type",
    b"kurrentdb+discover://",
    b"?tls=false&",
    b"%ff",
    b"@",
];

/// A new input from one of these, of which there is at least one.
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(5) {
        let at = random.below(input.len() + 1);
        match random.below(11) {
            0 | 1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 if at < input.len() => input[at] = random.number().to_le_bytes()[0],
            3 => input.truncate(at),
            4 => {
                let end = input.len().min(at + random.below(16));
                input.drain(at..end);
            }
            5 => overwrite(&mut input, at, &edge(random)),
            6 => insert(&mut input, at, &edge(random)),
            7 => insert(&mut input, at, WORDS[random.below(WORDS.len())]),
            8 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let until = other.len().min(from + random.below(256));
                let piece = other[from..until].to_vec();
                insert(&mut input, at, &piece);
            }
            9 => {
                // The same again and again: counts, depths, lengths.
                let end = input.len().min(at + 1 + random.below(32));
                let piece = input[at..end].repeat(1 << random.below(10));
                insert(&mut input, at, &piece);
            }
            _ => insert(&mut input, at, &varint(random)),
        }
    }
    input.truncate(BYTES_MAX);
    input
}

fn edge(random: &mut Random) -> Vec<u8> {
    let number = EDGES[random.below(EDGES.len())];
    let width = [1, 2, 4, 8][random.below(4)];
    match random.below(2) {
        0 => number.to_le_bytes()[..width].to_vec(),
        _ => number.to_be_bytes()[8 - width..].to_vec(),
    }
}

fn varint(random: &mut Random) -> Vec<u8> {
    let mut number = EDGES[random.below(EDGES.len())];
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

fn overwrite(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = input.len().min(at + bytes.len());
    input.splice(at..end, bytes.iter().copied());
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if input.len() + bytes.len() <= BYTES_MAX {
        input.splice(at..at, bytes.iter().copied());
    }
}
