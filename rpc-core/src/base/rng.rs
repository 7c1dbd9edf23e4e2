//! Randomness: the only file that asks the operating system for entropy.
//!
//! [`Rng`] is xoshiro256++ (Blackman and Vigna, 2019): fast, seedable, not for secrets. Secrets come
//! from [`fill_secret`].

use super::sys;

/// A seeded generator; the same seed gives the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator that repeats itself for the same `seed`.
    pub fn from_seed(seed: u64) -> Self {
        let mut mixer = seed;
        let state = std::array::from_fn(|_| split_mix(&mut mixer));
        Self { state }
    }

    /// A generator seeded by the kernel.
    pub fn from_entropy() -> Self {
        let mut seed = [0; 8];
        fill_secret(&mut seed);
        Self::from_seed(u64::from_le_bytes(seed))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`; `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a range without a member was asked for");
        // Lemire's multiply-shift; its bias is below 2^-32 for the small bounds used here.
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }
}

/// Fills `out` with bytes fit for secrets (`getrandom(2)`).
///
/// # Panics
/// When the kernel has no entropy source, which Linux since 3.17 always has.
pub fn fill_secret(out: &mut [u8]) {
    let mut filled = 0;
    while filled < out.len() {
        match sys::getrandom(&mut out[filled..]) {
            n if n > 0 => filled += n as usize,
            n if n == -(libc::EINTR as isize) => {}
            n => panic!("getrandom failed with errno {}", -n),
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_another_differs() {
        let (mut a, mut b, mut c) = (Rng::from_seed(7), Rng::from_seed(7), Rng::from_seed(8));
        let first: Vec<u64> = (0..8).map(|_| a.next_u64()).collect();
        assert!(first.iter().all(|n| *n == b.next_u64()));
        assert!(first.iter().any(|n| *n != c.next_u64()));
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::from_seed(1);
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
