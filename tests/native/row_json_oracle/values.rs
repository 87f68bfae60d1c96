//! Text of random values: one function for each syntax.

use crate::support::random::Random;

pub const INFINITIES: [&str; 2] = ["infinity", "-infinity"];

pub fn special_or(
    random: &mut Random,
    specials: &[&str],
    make: fn(&mut Random) -> String,
) -> String {
    if random.one_in(12) {
        random.pick(specials).to_owned()
    } else {
        make(random)
    }
}

pub fn bigint(random: &mut Random) -> String {
    let near = random.pick(&[1 << 53, -(1 << 53), i64::MAX - 40, i64::MIN + 40, 1 << 60]);
    if random.one_in(3) {
        (near + random.between(-40, 40)).to_string()
    } else {
        random.integer(64).to_string()
    }
}

pub const FLOAT_SPECIALS: [&str; 9] = [
    "NaN",
    "Infinity",
    "-Infinity",
    "0",
    "-0",
    "1e20",
    "1e-7",
    "123456789012",
    "0.1",
];

pub fn real(random: &mut Random) -> String {
    special_or(random, &FLOAT_SPECIALS, |random| {
        format!(
            "{:e}",
            f32::from_bits(u32::try_from(random.bits() >> 32).unwrap())
        )
        .replace("inf", "Infinity")
    })
}

pub fn double(random: &mut Random) -> String {
    special_or(random, &FLOAT_SPECIALS, |random| {
        format!("{:e}", f64::from_bits(random.bits())).replace("inf", "Infinity")
    })
}

pub fn double_finite(random: &mut Random) -> String {
    format!("{}e{}", random.integer(40), random.between(-30, 30))
}

pub fn numeric(random: &mut Random) -> String {
    let specials = [
        "NaN",
        "Infinity",
        "-Infinity",
        "0",
        "0.000",
        "1.10",
        "1e300",
        "1e309",
        "1e-310",
        "1e-400",
        "9007199254740993",
        "0.30000000000000004",
        "99999999999999999999.00",
    ];
    if random.one_in(6) {
        return random.pick(&specials).to_owned();
    }
    let longest = random.pick(&[4, 14, 15, 16, 17, 18, 100]);
    let digits = random.between(1, longest);
    let point = random.between(0, digits);
    let mut number = random.pick(&["", "-"]).to_owned();
    for index in 0..digits {
        if index == point {
            number.push('.');
        }
        number.push(char::from(b'0' + u8::try_from(random.below(10)).unwrap()));
    }
    number
}

/// Has control characters, characters that some syntax quotes, and code points of all planes.
pub fn text(random: &mut Random) -> String {
    let words = [
        "", "NULL", "null", "\\N", "\\u0000", " ", "{}", "(,)", "=>", "-0", "\u{2028}", "\u{feff}",
    ];
    if random.one_in(8) {
        return random.pick(&words).to_owned();
    }
    let count = random.below(12);
    (0..count)
        .map(|_| match random.below(5) {
            0 => char::from(u8::try_from(random.between(1, 31)).unwrap()),
            1 => random.pick(&['"', '\\', '\'', '{', '}', '(', ')', ',', ';', '/', '\u{7f}']),
            2 => random.pick(&[
                'é',
                'ß',
                '漢',
                '\u{301}',
                '\u{ffff}',
                '😀',
                '\u{10ffff}',
                '\u{e000}',
            ]),
            _ => char::from(u8::try_from(random.between(32, 126)).unwrap()),
        })
        .collect()
}

pub fn ascii(random: &mut Random) -> String {
    char::from(u8::try_from(random.between(1, 127)).unwrap()).to_string()
}

pub fn xml_text(random: &mut Random) -> String {
    text(random)
        .chars()
        .filter(|c| !c.is_control() && !"<&>\u{ffff}".contains(*c))
        .collect()
}

/// Escapes text for a quoted `tsvector` lexeme.
pub fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "''")
}

pub fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

pub fn hex(random: &mut Random, longest: u64) -> String {
    let bytes: Vec<_> = (0..random.below(longest))
        .map(|_| format!("{:02x}", random.below(256)))
        .collect();
    bytes.concat()
}

/// Days from about 4700 BC to about 9999 AD and some far beyond, counted from year 0.
pub fn days(random: &mut Random) -> i64 {
    if random.one_in(20) {
        random.between(3_700_000, 100_000_000)
    } else {
        random.between(-1_700_000, 3_650_000)
    }
}

/// The first day of a year, so that a later day has a later date.
pub fn new_year(random: &mut Random) -> i64 {
    days(random) / 365 * 365
}

/// A date that is valid in every calendar.
pub fn day(number: i64) -> String {
    let (year, month, day) = (number / 365, number / 28 % 12, number % 28);
    let (month, day) = (month.abs() + 1, day.abs() + 1);
    format!("{:04}-{month:02}-{day:02}{}", year.abs() + 1, era(year))
}

pub fn era(year: i64) -> &'static str {
    if year < 0 { " BC" } else { "" }
}

pub fn date(random: &mut Random) -> String {
    let number = days(random);
    day(number)
}

pub fn time(random: &mut Random) -> String {
    let (hour, minute, second) = (random.below(24), random.below(60), random.below(60));
    let fraction = random.pick(&["", ".5", ".000001", ".123456", ".120000"]);
    format!("{hour:02}:{minute:02}:{second:02}{fraction}")
}

pub fn offset(random: &mut Random) -> String {
    random
        .pick(&["+00", "-08", "+05:30", "+05:45", "-12:34:56", "+15:59:59"])
        .to_owned()
}

pub fn timestamp(random: &mut Random, offset: &str) -> String {
    let day = date(random);
    let (day, era) = day.split_once(' ').unwrap_or((&day, ""));
    format!("{day} {}{offset} {era}", time(random))
}

/// In any of the styles that Postgres reads.
pub fn interval(random: &mut Random) -> String {
    let (months, days) = (random.integer(12), random.integer(16));
    let time = time(random);
    match random.below(5) {
        0 => format!("{months} mons {days} days -{time}"),
        1 => format!("P{months}M{days}DT{}.5S", random.integer(20)),
        2 => format!("@ {months} months {days} days ago"),
        3 => format!("{}-{} {days} {time}", random.below(99), random.below(12)),
        _ => format!("{} microseconds", random.integer(50)),
    }
}

pub fn inet(random: &mut Random) -> String {
    let bits = random.bits();
    if random.one_in(2) {
        let [a, b, c, d, width, ..] = bits.to_le_bytes();
        format!("{a}.{b}.{c}.{d}/{}", width % 33)
    } else {
        format!(
            "2001:db8::{:x}:{:x}/{}",
            bits & 0xFFFF,
            bits >> 48,
            bits % 129
        )
    }
}

pub fn point(random: &mut Random) -> String {
    format!("({},{})", double_finite(random), double_finite(random))
}

pub fn points(random: &mut Random, count: i64, open: char, close: char) -> String {
    let points: Vec<_> = (0..count).map(|_| point(random)).collect();
    format!("{open}{}{close}", points.join(","))
}

pub fn range(random: &mut Random, make: fn(&mut Random) -> i64, show: fn(i64) -> String) -> String {
    let (a, b) = (make(random), make(random));
    let mut bound = |value: i64| {
        if random.one_in(6) {
            String::new()
        } else {
            show(value)
        }
    };
    let (low, high) = (bound(a.min(b)), bound(a.max(b)));
    if random.one_in(10) {
        return "empty".to_owned();
    }
    format!(
        "{}{low},{high}{}",
        random.pick(&["[", "("]),
        random.pick(&["]", ")"])
    )
}

pub fn int4range(random: &mut Random) -> String {
    range(random, |random| random.integer(20), |n| n.to_string())
}

pub fn int8range(random: &mut Random) -> String {
    range(random, |random| random.integer(60), |n| n.to_string())
}

pub fn numrange(random: &mut Random) -> String {
    range(random, |random| random.integer(60), |n| format!("{n}.5"))
}

pub fn daterange(random: &mut Random) -> String {
    range(random, new_year, day)
}

pub fn tsrange(random: &mut Random) -> String {
    range(random, new_year, |n| format!("\"{} 01:02:03.5\"", day(n)))
}

pub fn tstzrange(random: &mut Random) -> String {
    range(random, new_year, |n| {
        format!("\"{} 01:02:03+05:30\"", day(n))
    })
}

pub fn ranges(random: &mut Random, make: fn(&mut Random) -> String) -> String {
    let ranges: Vec<_> = (0..random.below(4)).map(|_| make(random)).collect();
    format!("{{{}}}", ranges.join(","))
}

pub fn vector(random: &mut Random, make: fn(&mut Random) -> String) -> String {
    let items: Vec<_> = (0..random.below(5)).map(|_| make(random)).collect();
    items.join(" ")
}

/// A document that `jsonb` accepts, with repeated keys, escapes, long numbers and unusual spaces.
pub fn json(random: &mut Random, depth: u32) -> String {
    let space = random.pick(&["", "", " ", "\n\t"]);
    let scalars = [
        "null",
        "true",
        "false",
        "\"\"",
        "-0",
        "1e5",
        "1E-7",
        "1.0",
        "12345678901234567890.5",
    ];
    match random.below(if depth == 0 { 3 } else { 5 }) {
        0 => random.pick(&scalars).to_owned(),
        1 => format!("{space}{}", json_string(random)),
        2 => format!("{}{space}", random.integer(60)),
        3 => {
            let items: Vec<_> = (0..random.below(4))
                .map(|_| json(random, depth - 1))
                .collect();
            format!("[{space}{}]", items.join(","))
        }
        _ => {
            let members = (0..random.below(4)).map(|_| {
                let key = random.pick(&["\"a\"", "\"a\"", "\"\"", "\"b\\u0061\"", "\"é\""]);
                format!("{key}{space}:{}", json(random, depth - 1))
            });
            format!("{{{}{space}}}", members.collect::<Vec<_>>().join(","))
        }
    }
}

/// A document that `json` accepts and `jsonb` may refuse.
pub fn doubtful_json(random: &mut Random) -> String {
    let units = [
        "\\u0000",
        "\\ud83d",
        "\\ude00",
        "\\ud83d\\ude00",
        "\\u00e9",
        "\\n",
        "\\\\",
        "é",
        "x",
    ];
    let doubtful = match random.below(4) {
        0 => {
            let string: String = (0..random.below(5)).map(|_| random.pick(&units)).collect();
            format!("\"{string}\"")
        }
        1 => {
            // About as many digits before and after the point as numeric has, and about the exponent
            // from which even a zero is refused: 1073741823 on 15, one more on 18.
            let edge = random.pick(&[131_072, -16_383, 1_073_741_818, -1_073_741_818]);
            let digits = random.pick(&["0", "1", "0.0", "0.01", "1.0", "12.34", "0.000"]);
            format!(
                "{digits}e{}",
                edge + random.pick(&[-3, -2, -1, 0, 1, 2, 3, 9])
            )
        }
        2 => format!(
            "0.{}",
            "0".repeat(usize::try_from(random.between(16_380, 16_386)).unwrap())
        ),
        _ => json(random, 2),
    };
    match random.below(3) {
        0 => doubtful,
        1 => format!("[1, {doubtful}]"),
        _ if doubtful.starts_with('"') => format!("{{{doubtful}: [{}]}}", json(random, 1)),
        _ => format!("{{\"a\": {doubtful}}}"),
    }
}

pub fn json_string(random: &mut Random) -> String {
    let escapes = [
        "\\u0001",
        "\\ud83d\\ude00",
        "\\/",
        "\\b\\f\\n\\r\\t",
        "\\\"",
        "\\\\u0000",
        "\\u20ac",
    ];
    let text = serde_json::to_string(&text(random)).unwrap();
    let text = text.trim_matches('"');
    // Trimming may have left the backslash of an escaped quote at the end.
    let text = text.trim_end_matches('\\');
    format!("\"{text}{}\"", random.pick(&escapes))
}

/// An array with nulls, in up to three dimensions, with various lower bounds.
pub fn array(random: &mut Random, delimiter: char, make: fn(&mut Random) -> String) -> String {
    let bounds = random.pick(&["", "", "[3]", "[2][2]", "[1][2][2]", "[0:1]", "[-1:0][5:6]"]);
    let lengths: &[usize] = match bounds {
        "[3]" => &[3],
        "[2][2]" | "[-1:0][5:6]" => &[2, 2],
        "[1][2][2]" => &[1, 2, 2],
        "[0:1]" => &[2],
        _ if random.one_in(3) => return "{}".to_owned(),
        _ => &[1],
    };
    let mut text = nested(random, delimiter, make, lengths);
    if bounds.contains(':') {
        text = format!("{bounds}={text}");
    }
    text
}

pub fn nested(
    random: &mut Random,
    delimiter: char,
    make: fn(&mut Random) -> String,
    lengths: &[usize],
) -> String {
    let Some((&length, inner)) = lengths.split_first() else {
        return if random.one_in(6) {
            "NULL".to_owned()
        } else {
            in_quotes(&make(random))
        };
    };
    let items: Vec<_> = (0..length)
        .map(|_| nested(random, delimiter, make, inner))
        .collect();
    format!("{{{}}}", items.join(&delimiter.to_string()))
}
