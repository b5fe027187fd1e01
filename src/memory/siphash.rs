//! SipHash-2-4 (Aumasson and Bernstein, 2012) of eight messages side by side, in the widest vector
//! registers that the processor has. It is here for its `unsafe`, a choice made at start; what is
//! hashed, and under which key, is the caller's.
//!
//! A lane's sum is what any SipHash-2-4 gives for that message alone: a message is whole words of
//! eight bytes in little-endian order, the last of them with the length in its highest byte.

/// Messages that are hashed together: as many as a 512-bit register has words.
pub const LANES: usize = 8;

/// The same word of each message.
pub type Words = [u64; LANES];

/// What the processor can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registers {
    /// Words, one after the other.
    Plain,
    /// AVX2: four words.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Bits256,
    /// AVX-512, which also rotates in one instruction: eight.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Bits512,
}

/// The hash, for the processor that it was made on.
#[derive(Clone, Copy, Debug)]
pub struct SipLanes(Registers);

impl SipLanes {
    /// Asks the processor what it has.
    pub fn new() -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return SipLanes(Registers::Bits512);
            }
            if is_x86_feature_detected!("avx2") {
                return SipLanes(Registers::Bits256);
            }
        }
        SipLanes(Registers::Plain)
    }

    /// The sum of each message under `key`.
    #[inline]
    pub fn hash<const WORDS: usize>(&self, key: (u64, u64), words: &[Words; WORDS]) -> Words {
        match self.0 {
            Registers::Plain => plain(key, words),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: only `new` makes this value, where the processor has AVX2.
            Registers::Bits256 => unsafe { avx2::hash(key, words) },
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: only `new` makes this value, where the processor has AVX-512 F and VL.
            Registers::Bits512 => unsafe { bits_512(key, words) },
        }
    }
}

impl Default for SipLanes {
    fn default() -> Self {
        SipLanes::new()
    }
}

/// The four words that a message starts from.
fn start((k0, k1): (u64, u64)) -> [u64; 4] {
    [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

#[inline(always)]
fn each(word: impl FnMut(usize) -> u64) -> Words {
    std::array::from_fn(word)
}

#[inline(always)]
fn xor(a: &Words, b: &Words) -> Words {
    each(|lane| a[lane] ^ b[lane])
}

#[inline(always)]
fn add(a: &Words, b: &Words) -> Words {
    each(|lane| a[lane].wrapping_add(b[lane]))
}

#[inline(always)]
fn rotate<const BITS: u32>(a: &Words) -> Words {
    each(|lane| a[lane].rotate_left(BITS))
}

#[inline(always)]
fn round([v0, v1, v2, v3]: [Words; 4]) -> [Words; 4] {
    let (v0, v2) = (add(&v0, &v1), add(&v2, &v3));
    let (v1, v3) = (xor(&rotate::<13>(&v1), &v0), xor(&rotate::<16>(&v3), &v2));
    let (v0, v2) = (add(&rotate::<32>(&v0), &v3), add(&v2, &v1));
    let (v1, v3) = (xor(&rotate::<17>(&v1), &v2), xor(&rotate::<21>(&v3), &v0));
    [v0, v1, rotate::<32>(&v2), v3]
}

/// Arrays that the compiler may put into any registers.
#[inline(always)]
fn plain<const WORDS: usize>(key: (u64, u64), words: &[Words; WORDS]) -> Words {
    let mut v = start(key).map(|word| [word; LANES]);
    for word in words {
        v[3] = xor(&v[3], word);
        v = round(round(v));
        v[0] = xor(&v[0], word);
    }
    v[2] = xor(&v[2], &[0xff; LANES]);
    let [v0, v1, v2, v3] = round(round(round(round(v))));
    xor(&xor(&v0, &v1), &xor(&v2, &v3))
}

/// The compiler puts `plain` into registers of eight words.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx512f,avx512vl")]
fn bits_512<const WORDS: usize>(key: (u64, u64), words: &[Words; WORDS]) -> Words {
    plain(key, words)
}

/// AVX2 by hand: it cannot rotate, so that the compiler takes single words for cheaper.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2 {
    use super::{Words, start};
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_or_si256, _mm256_set1_epi64x, _mm256_setr_epi8,
        _mm256_shuffle_epi8, _mm256_shuffle_epi32, _mm256_slli_epi64, _mm256_srli_epi64,
        _mm256_xor_si256,
    };

    /// Lanes 0 to 3, and 4 to 7.
    type Pair = [__m256i; 2];

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add(a: Pair, b: Pair) -> Pair {
        [_mm256_add_epi64(a[0], b[0]), _mm256_add_epi64(a[1], b[1])]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn xor(a: Pair, b: Pair) -> Pair {
        [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])]
    }

    /// To the left by `LEFT` bits; `RIGHT` is the rest of 64.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rotate<const LEFT: i32, const RIGHT: i32>(v: Pair) -> Pair {
        const { assert!(LEFT + RIGHT == 64) };
        let [a, b] = v;
        [
            _mm256_or_si256(_mm256_slli_epi64::<LEFT>(a), _mm256_srli_epi64::<RIGHT>(a)),
            _mm256_or_si256(_mm256_slli_epi64::<LEFT>(b), _mm256_srli_epi64::<RIGHT>(b)),
        ]
    }

    /// By 16 bits: bytes change places.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rotate_16([a, b]: Pair) -> Pair {
        let places = _mm256_setr_epi8(
            6, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13, 6, 7, 0, 1, 2, 3, 4, 5, 14, 15,
            8, 9, 10, 11, 12, 13,
        );
        [_mm256_shuffle_epi8(a, places), _mm256_shuffle_epi8(b, places)]
    }

    /// By 32 bits: the halves of each word change places.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rotate_32([a, b]: Pair) -> Pair {
        const SWAPPED: i32 = 0b10_11_00_01;
        [_mm256_shuffle_epi32::<SWAPPED>(a), _mm256_shuffle_epi32::<SWAPPED>(b)]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn round([v0, v1, v2, v3]: [Pair; 4]) -> [Pair; 4] {
        let (v0, v2) = (add(v0, v1), add(v2, v3));
        let (v1, v3) = (xor(rotate::<13, 51>(v1), v0), xor(rotate_16(v3), v2));
        let (v0, v2) = (add(rotate_32(v0), v3), add(v2, v1));
        let (v1, v3) = (xor(rotate::<17, 47>(v1), v2), xor(rotate::<21, 43>(v3), v0));
        [v0, v1, rotate_32(v2), v3]
    }

    #[target_feature(enable = "avx2")]
    pub fn hash<const WORDS: usize>(key: (u64, u64), words: &[Words; WORDS]) -> Words {
        let [v0, v1, v2, v3] = start(key).map(|word| [_mm256_set1_epi64x(word as i64); 2]);
        let mut v = [v0, v1, v2, v3];
        for word in words {
            // SAFETY: both are the same 64 bytes, and any bits are a value of either.
            let word = unsafe { std::mem::transmute::<Words, Pair>(*word) };
            v[3] = xor(v[3], word);
            v = round(round(v));
            v[0] = xor(v[0], word);
        }
        v[2] = xor(v[2], [_mm256_set1_epi64x(0xff); 2]);
        let [v0, v1, v2, v3] = round(round(round(round(v))));
        // SAFETY: as above.
        unsafe { std::mem::transmute::<Pair, Words>(xor(xor(v0, v1), xor(v2, v3))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use siphasher::sip::SipHasher24;

    /// The registers that can be had here, plain words always.
    fn every() -> Vec<SipLanes> {
        #[allow(unused_mut)]
        let mut all = vec![SipLanes(Registers::Plain)];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(SipLanes(Registers::Bits256));
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                all.push(SipLanes(Registers::Bits512));
            }
        }
        all.push(SipLanes::new());
        all
    }

    /// Messages of that length, a word of random bits for each eight bytes.
    fn messages<const WORDS: usize>(bytes: usize) -> [Words; WORDS] {
        assert_eq!(WORDS, bytes / 8 + 1);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random = random.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            random ^ random >> 29
        };
        let mut words = [[0; LANES]; WORDS];
        words.iter_mut().flatten().for_each(|word| *word = next());
        for last in &mut words[WORDS - 1] {
            let used = 8 * (bytes % 8) as u32;
            *last = *last & !(u64::MAX << used) | (bytes as u64) << 56;
        }
        words
    }

    fn agrees<const WORDS: usize>(bytes: usize) {
        let (key, words) =
            ((0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908), messages::<WORDS>(bytes));
        let alone = each(|lane| {
            let message: Vec<u8> = words.iter().flat_map(|word| word[lane].to_le_bytes()).collect();
            SipHasher24::new_with_keys(key.0, key.1).hash(&message[..bytes])
        });
        for lanes in every() {
            assert_eq!(lanes.hash(key, &words), alone, "{lanes:?}, {bytes} bytes");
        }
    }

    #[test]
    fn every_lane_hashes_as_if_alone() {
        agrees::<1>(0);
        agrees::<1>(7);
        agrees::<2>(12);
        agrees::<3>(16);
        agrees::<5>(36);
        agrees::<5>(39);
    }

    /// Appendix A of the paper: the bytes 0 to 14 under the key 0 to 15.
    #[test]
    fn the_papers_example_is_hashed_so() {
        let key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let words = [[0x0706_0504_0302_0100; LANES], [0x0f0e_0d0c_0b0a_0908; LANES]];
        for lanes in every() {
            assert_eq!(lanes.hash(key, &words), [0xa129_ca61_49be_45e5; LANES], "{lanes:?}");
        }
    }
}
