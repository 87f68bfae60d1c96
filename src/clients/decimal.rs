//! Exact comparison of numbers by their text, since a double would make neighbours equal.

use std::cmp::Ordering;

/// A number as JSON or Postgres writes it. Ordered as Postgres orders `numeric`: -Infinity, the
/// finite numbers, Infinity, NaN, which equals itself.
///
/// Borrows its digits, so that comparing allocates nothing whatever the length.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decimal<'a> {
    NegativeInfinity,
    Finite(Finite<'a>),
    Infinity,
    NaN,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Finite<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

/// Longer exponents than any number of Postgres has; a bound against overflow.
const MAX_EXPONENT_DIGITS: usize = 9;

impl<'a> Decimal<'a> {
    /// Reads `-12.50e3`, `NaN`, `Infinity` or `-Infinity`; `None` for anything else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::NaN),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let (whole, fraction) = (whole.as_bytes(), fraction.as_bytes());
        let are_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
        (are_digits && !whole.is_empty()).then_some(Self::Finite(Finite {
            negative,
            whole,
            fraction,
            exponent,
        }))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        }
    }
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_plain = (1..=MAX_EXPONENT_DIGITS).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

impl Finite<'_> {
    fn digits(&self) -> impl Iterator<Item = u8> + '_ {
        let all = self.whole.iter().chain(self.fraction).copied();
        all.skip_while(|digit| *digit == b'0')
    }

    /// 1 for a positive number, -1 for a negative one, and 0 for zero whatever its sign.
    fn sign(&self) -> i8 {
        match (self.digits().next(), self.negative) {
            (None, _) => 0,
            (Some(_), false) => 1,
            (Some(_), true) => -1,
        }
    }

    /// The power of ten of the first digit that is not zero, plus one. Only for non-zero numbers.
    fn magnitude(&self) -> i64 {
        let all = self.whole.iter().chain(self.fraction);
        let zeros = all.take_while(|digit| **digit == b'0').count();
        let length = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.exponent
            .saturating_add(length(self.whole.len()))
            .saturating_sub(length(zeros))
    }

    fn cmp_absolute(&self, other: &Self) -> Ordering {
        let by_digits = || {
            let (mut ours, mut theirs) = (self.digits(), other.digits());
            loop {
                match (ours.next(), theirs.next()) {
                    (None, None) => return Ordering::Equal,
                    // Trailing zeros of a fraction do not change the value.
                    (our, their) => match our.unwrap_or(b'0').cmp(&their.unwrap_or(b'0')) {
                        Ordering::Equal => {}
                        difference => return difference,
                    },
                }
            }
        };
        self.magnitude()
            .cmp(&other.magnitude())
            .then_with(by_digits)
    }
}

impl Ord for Finite<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = self.sign();
        sign.cmp(&other.sign()).then_with(|| match sign {
            0 => Ordering::Equal,
            1 => self.cmp_absolute(other),
            _ => other.cmp_absolute(self),
        })
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite(ours), Self::Finite(theirs)) => ours.cmp(theirs),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Finite<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Finite<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Finite<'_> {}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compare(left: &str, right: &str) -> Ordering {
        Decimal::parse(left)
            .unwrap()
            .cmp(&Decimal::parse(right).unwrap())
    }

    #[test]
    fn neighbours_that_a_double_would_make_equal_differ() {
        assert_eq!(
            compare("9007199254740992", "9007199254740993"),
            Ordering::Less
        );
        assert_eq!(
            compare("0.1000000000000000000001", "0.1"),
            Ordering::Greater
        );
    }

    #[test]
    fn every_spelling_of_a_number_is_equal() {
        let spellings = [
            "100", "100.0", "1e2", "1E+2", "0.0001e6", "00100", "1000e-1",
        ];
        for (left, right) in spellings.iter().zip(spellings.iter().skip(1)) {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
        for zero in ["0", "-0", "0.000", "0e99", "-0.0e-5"] {
            assert_eq!(compare(zero, "0"), Ordering::Equal, "{zero}");
        }
    }

    #[test]
    fn numbers_order_as_in_postgres() {
        let ascending = [
            "-Infinity",
            "-1e400",
            "-10.5",
            "-10",
            "-0.1",
            "-1e-400",
            "0",
            "1e-400",
            "0.09",
            "0.1",
            "9.99",
            "10",
            "1e400",
            "Infinity",
            "NaN",
        ];
        for (index, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), index.cmp(&other), "{left} {right}");
            }
        }
    }

    #[test]
    fn text_that_is_not_a_number_is_none() {
        for text in [
            "",
            "-",
            "+1",
            ".5",
            "5.",
            "1e",
            "1e+",
            "e5",
            "1.2.3",
            "0x10",
            "1_000",
            " 1",
            "1 ",
            "nan",
            "inf",
            "--1",
            "1e5000000000",
            "١",
        ] {
            assert!(Decimal::parse(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn integers_compare_as_integers(left: i128, right: i128) {
            prop_assert_eq!(compare(&left.to_string(), &right.to_string()), left.cmp(&right));
        }

        #[test]
        fn numbers_with_points_and_exponents_compare_as_scaled_integers(
            (left, left_scale) in (-1_000_000..1_000_000_i64, 0..6_u32),
            (right, right_scale) in (-1_000_000..1_000_000_i64, 0..6_u32),
        ) {
            let scaled = |number: i64, scale: u32| i128::from(number) * 10_i128.pow(6 - scale);
            let expected = scaled(left, left_scale).cmp(&scaled(right, right_scale));
            let with_exponent = |number: i64, scale: u32| format!("{number}e-{scale}");
            let with_point = |number: i64, scale: u32| {
                let sign = if number < 0 { "-" } else { "" };
                let power = 10_i64.pow(scale);
                let (whole, rest) = (number.abs() / power, number.abs() % power);
                match scale {
                    0 => format!("{sign}{whole}"),
                    _ => format!("{sign}{whole}.{rest:0width$}", width = scale as usize),
                }
            };
            prop_assert_eq!(
                compare(&with_exponent(left, left_scale), &with_point(right, right_scale)),
                expected
            );
            prop_assert_eq!(
                compare(&with_point(left, left_scale), &with_exponent(right, right_scale)),
                expected
            );
        }
    }
}
