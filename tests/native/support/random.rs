//! Repeatable randomness: the same seed makes the same values on every machine.

/// Pseudo-random numbers (`SplitMix64`; Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
/// Generators").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in the variable `SEED`, or another one each time. It is printed, so that a run can
    /// be repeated.
    pub fn seed() -> u64 {
        let seed = std::env::var("SEED").ok().map_or_else(
            || {
                let now = std::time::SystemTime::now();
                let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
                since.subsec_nanos().into()
            },
            |seed| seed.parse().expect("SEED must be a number"),
        );
        println!("SEED={seed}");
        seed
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// An index into a list of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length).unwrap())).unwrap()
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap())).unwrap()
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A number with a random number of bits, so that small ones are as likely as large ones.
    pub fn integer(&mut self, bits: u32) -> i64 {
        let sign = if self.one_in(2) { -1 } else { 1 };
        let shift = 65 - bits + u32::try_from(self.below(u64::from(bits) - 1)).unwrap();
        sign * i64::try_from(self.bits() >> shift).unwrap()
    }
}
