//! Numbers as text: which ones JavaScript reads without rounding, and how `jsonb` prints them.

/// Significant digits that a double always preserves (C's `DBL_DIG`).
const DIGITS_ALWAYS_KEPT: usize = 15;

/// Most digits that `numeric` can have before the point.
const NUMERIC_WHOLE_DIGITS: i64 = 131_072;
/// Most digits that `numeric` can have after the point.
const NUMERIC_SCALE: i64 = 16_383;
/// The exponent from which `numeric` refuses even a zero (half of C's `INT_MAX`).
const NUMERIC_EXPONENT: i64 = 1_073_741_823;

/// Whether `text` is a JSON number (RFC 8259, section 6).
pub(super) fn is_json_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, rest) = split_digits(text);
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with(b"0")) {
        return false;
    }
    let rest = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => match split_digits(fraction) {
            ([], _) => return false,
            (_, rest) => rest,
        },
    };
    let [b'e' | b'E', exponent @ ..] = rest else {
        return rest.is_empty();
    };
    let ([b'+' | b'-', digits @ ..] | digits) = exponent;
    matches!(split_digits(digits), ([_, ..], []))
}

/// Whether the number has the same value after it was read as an IEEE double and printed by
/// JavaScript.
///
/// JavaScript prints the fewest digits that identify the double; of several candidates the closest,
/// and of two equally close ones the one with an even last digit (ECMAScript, `Number::toString`).
/// The last rule is why 99321878990616.63 comes back as 99321878990616.62.
///
/// `text` is a JSON number.
pub(super) fn round_trips_as_double(text: &[u8]) -> bool {
    if text.len() <= DIGITS_ALWAYS_KEPT && !text.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        return true;
    }
    let number = Decimal::read(text);
    if number.digits.is_empty()
        || (number.digits.len() <= DIGITS_ALWAYS_KEPT && (-290..=290).contains(&number.exponent))
    {
        return true;
    }
    let Some(double) = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|double| double.is_finite())
    else {
        return false;
    };
    let mut printed = zmij::Buffer::new();
    Decimal::read(printed.format_finite(double).as_bytes()) == number
}

/// The value of a decimal number: 0.digits times ten to the exponent, without leading or trailing
/// zeros.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn read(text: &[u8]) -> Self {
        let number = NumberText::split(text);
        let mut digits: Vec<u8> = number.digits().collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
        digits.drain(..zeros);
        if digits.is_empty() {
            return Self {
                negative: false,
                digits,
                exponent: 0,
            };
        }
        Self {
            negative: number.negative,
            digits,
            exponent: number.point().saturating_sub(count(zeros)),
        }
    }
}

/// The parts of a JSON number.
struct NumberText<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> NumberText<'a> {
    fn split(text: &'a [u8]) -> Self {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (whole, rest) = split_digits(text);
        let (fraction, rest) = split_digits(rest.strip_prefix(b".").unwrap_or(rest));
        Self {
            negative,
            whole,
            fraction,
            exponent: rest.get(1..).map_or(0, read_exponent),
        }
    }

    /// The digits before and after the point.
    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.whole.iter().chain(self.fraction).copied()
    }

    /// The number of digits before the point once the exponent is applied. Negative if zeros are
    /// missing after the point, and more than there are digits if zeros are missing before it.
    fn point(&self) -> i64 {
        count(self.whole.len()).saturating_add(self.exponent)
    }
}

/// A number as `numeric`, and therefore `jsonb`, prints it: in plain decimals, whatever its exponent.
/// The eight bytes `1e131000` become 131,001.
pub(super) struct PlainDecimal<'a> {
    number: NumberText<'a>,
    /// The index of the first digit that is not zero; `None` if all are.
    first: Option<i64>,
    /// Digits after the point.
    scale: i64,
}

impl<'a> PlainDecimal<'a> {
    /// Reads a JSON number. `None` if `numeric` cannot hold it; these are the rules of its input
    /// function.
    pub(super) fn read(text: &'a [u8]) -> Option<Self> {
        let number = NumberText::split(text);
        if number.exponent.abs() >= NUMERIC_EXPONENT {
            return None;
        }
        let scale = count(number.fraction.len()) - number.exponent;
        let first = number.digits().position(|digit| digit != b'0').map(count);
        let whole_digits = first.map_or(0, |first| number.point() - first);
        let fits = scale <= NUMERIC_SCALE && whole_digits <= NUMERIC_WHOLE_DIGITS;
        fits.then_some(Self {
            number,
            first,
            scale: scale.max(0),
        })
    }

    /// The length of what [`Self::write`] returns, in bytes.
    pub(super) fn len(&self) -> usize {
        let sign = i64::from(self.has_sign());
        let whole = self.first.map_or(0, |first| self.number.point() - first);
        let fraction = if self.scale > 0 { 1 + self.scale } else { 0 };
        // At most the digits that `numeric` can have.
        usize::try_from(sign + whole.max(1) + fraction).unwrap_or(usize::MAX)
    }

    /// The number's text.
    pub(super) fn write(&self) -> Vec<u8> {
        let digits: Vec<u8> = self.number.digits().collect();
        let digit = |index: i64| {
            let digit = usize::try_from(index).ok().and_then(|at| digits.get(at));
            digit.copied().unwrap_or(b'0')
        };
        let point = self.number.point();
        let mut text = Vec::with_capacity(self.len());
        if self.has_sign() {
            text.push(b'-');
        }
        match self.first.filter(|&first| first < point) {
            Some(first) => text.extend((first..point).map(digit)),
            None => text.push(b'0'),
        }
        if self.scale > 0 {
            text.push(b'.');
            text.extend((point..count(digits.len())).map(digit));
        }
        text
    }

    /// `numeric` has no negative zero.
    fn has_sign(&self) -> bool {
        self.number.negative && self.first.is_some()
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// An exponent's value, saturating.
fn read_exponent(text: &[u8]) -> i64 {
    let ([b'+' | b'-', digits @ ..] | digits) = text;
    let value = digits.iter().fold(0_i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    if text.starts_with(b"-") {
        -value
    } else {
        value
    }
}

/// Splits after the leading digits.
fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.split_at_checked(end.unwrap_or(text.len()))
        .unwrap_or((text, &[]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_numbers_that_a_double_preserves_round_trip() {
        for kept in [
            "0",
            "0.1",
            "-1.10",
            "9007199254740992",
            "9007199254740994",
            "1000000000000000000",
            "100000000000000000000000",
            "0.30000000000000004",
            "0.30000000000000000",
            // Halfway between two doubles, of which the even one is read.
            "54180146975836820",
            "-27123094938088330",
            "99321878990616.62",
            "0.000000000000000000000000000000",
            "5e-324",
        ] {
            assert!(round_trips_as_double(kept.as_bytes()), "{kept}");
        }
        for rounded in [
            "9007199254740993",
            "-9007199254740993",
            "9223372036854775807",
            // Exactly a double, but printed as 1152921504606847000.
            "1152921504606846976",
            "0.1000000000000000055511151231257827",
            // Two shortest forms are equally close; JavaScript prints the even one.
            "99321878990616.63",
            "772029605081884.3",
            "1e309",
            "1e-400",
            "2e-324",
        ] {
            assert!(!round_trips_as_double(rounded.as_bytes()), "{rounded}");
        }
    }

    #[test]
    fn only_json_numbers_are_accepted() {
        for number in ["0", "-0", "10", "1.50", "1e5", "1E-05", "0.1e+20"] {
            assert!(is_json_number(number.as_bytes()), "{number}");
        }
        for other in [
            "", "-", "+1", "01", ".5", "1.", "1e", "1e+", "NaN", "Infinity", "1 ", "0x1", "1_0",
        ] {
            assert!(!is_json_number(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn numbers_are_printed_in_plain_decimals_as_numeric_prints_them() {
        for (number, printed) in [
            ("0", "0"),
            ("-0", "0"),
            ("0e5", "0"),
            ("0.0e5", "0"),
            ("-0.00", "0.00"),
            ("0e-5", "0.00000"),
            ("1.50", "1.50"),
            ("1.50e1", "15.0"),
            ("1.5e3", "1500"),
            ("-1.5e+20", "-150000000000000000000"),
            ("1E-05", "0.00001"),
            ("-12.34e-3", "-0.01234"),
            ("0.00012e6", "120"),
            ("0.00012e2", "0.012"),
            ("12.34e1", "123.4"),
        ] {
            let plain = PlainDecimal::read(number.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(plain.write()).unwrap(), printed);
            assert_eq!(plain.len(), printed.len(), "{number}");
        }
        let largest = PlainDecimal::read(b"1e131071").unwrap();
        assert_eq!(largest.len(), 131_072);
        assert!(PlainDecimal::read(b"1e131072").is_none());
    }

    proptest! {
        #[test]
        fn a_double_in_plain_decimals_is_the_same_double(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite() && double != 0.0);
            let plain = PlainDecimal::read(format!("{double:e}").as_bytes()).unwrap().write();
            let plain = String::from_utf8(plain).unwrap();
            prop_assert!(!plain.contains('e'));
            prop_assert_eq!(plain.parse::<f64>().unwrap().to_bits(), bits);
        }

        #[test]
        fn the_length_in_plain_decimals_is_known_without_writing_them(
            number in "-?(0|[1-9][0-9]{0,5})([.][0-9]{1,5})?(e-?[0-9]{1,3})?",
        ) {
            let plain = PlainDecimal::read(number.as_bytes()).unwrap();
            prop_assert_eq!(plain.len(), plain.write().len(), "{}", number);
        }

        #[test]
        fn every_printed_double_round_trips(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let printed = serde_json::to_string(&double).unwrap();
            prop_assert!(round_trips_as_double(printed.as_bytes()), "{}", printed);
        }

        #[test]
        fn an_integer_with_more_digits_than_a_double_needs_never_round_trips(integer: i64) {
            let text = integer.to_string();
            let digits = text.trim_start_matches('-').trim_end_matches('0').len();
            prop_assume!(digits > 17);
            prop_assert!(!round_trips_as_double(text.as_bytes()));
        }

        #[test]
        fn fifteen_digits_always_round_trip(digits in 0_u64..1_000_000_000_000_000, scale in 0_usize..40) {
            let text = format!("{digits}e-{scale}");
            prop_assert!(round_trips_as_double(text.as_bytes()));
        }

        #[test]
        fn serde_json_reads_exactly_the_accepted_numbers(text in "-?[0-9.eE+-]{0,8}") {
            let read = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text);
            prop_assert_eq!(is_json_number(text.as_bytes()), read.is_ok(), "{}", text);
        }
    }
}
