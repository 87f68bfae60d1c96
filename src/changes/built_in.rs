//! The types whose OIDs are the same in every database, which need no lookup.
//!
//! Source: `src/include/catalog/pg_type.dat`. OIDs below 10000 are assigned by hand and never
//! change their meaning; the tests compare this file with the catalogue of each server.

use std::rc::Rc;

use super::shape::Shape;

const COMMA: u8 = b',';
/// `box`, the only built-in type whose arrays have another delimiter, since its text has commas.
const BOX: u32 = 603;

/// The shape of a built-in type; `None` if the type must be looked up.
pub(super) fn shape(oid: u32) -> Option<Shape> {
    let shape = match oid {
        16 => Shape::Bool,
        21 | 23 => Shape::Integer,
        700 | 701 => Shape::Float,
        20 | 1700 => Shape::Numeric,
        1114 => Shape::Timestamp,
        1184 => Shape::TimestampTz,
        114 | 3802 => Shape::Json,
        22 => Shape::Vector(Rc::new(Shape::Integer)),
        30 => Shape::Vector(Rc::new(Shape::Text)),
        _ if TEXT.binary_search(&oid).is_ok() => Shape::Text,
        _ => {
            let at = ARRAYS
                .binary_search_by_key(&oid, |&(array, _)| array)
                .ok()?;
            let &(_, element) = ARRAYS.get(at)?;
            let delimiter = if element == BOX { b';' } else { COMMA };
            Shape::Array(Rc::new(shape(element)?), delimiter)
        }
    };
    Some(shape)
}

/// Types that become strings of their text. `date` is one of them: its ISO text is what `to_jsonb`
/// writes.
#[rustfmt::skip]
const TEXT: [u32; 69] = [
    17, 18, 19, 24, 25, 26, 27, 28, 29, 142, 194, 600, 601, 602, 603, 604, 628, 650, 718, 774, 790,
    829, 869, 1033, 1042, 1043, 1082, 1083, 1186, 1266, 1560, 1562, 1790, 2202, 2203, 2204, 2205,
    2206, 2950, 2970, 3220, 3361, 3402, 3614, 3615, 3642, 3734, 3769, 3904, 3906, 3908, 3910, 3912,
    3926, 4072, 4089, 4096, 4191, 4451, 4532, 4533, 4534, 4535, 4536, 4600, 4601, 5017, 5038, 5069,
];

/// Array types and their elements, by the array's OID.
#[rustfmt::skip]
const ARRAYS: [(u32, u32); 76] = [
    (143, 142), (199, 114), (271, 5069), (629, 628), (651, 650), (719, 718), (775, 774), (791, 790),
    (1000, 16), (1001, 17), (1002, 18), (1003, 19), (1005, 21), (1006, 22), (1007, 23), (1008, 24),
    (1009, 25), (1010, 27), (1011, 28), (1012, 29), (1013, 30), (1014, 1042), (1015, 1043),
    (1016, 20), (1017, 600), (1018, 601), (1019, 602), (1020, 603), (1021, 700), (1022, 701),
    (1027, 604), (1028, 26), (1034, 1033), (1040, 829), (1041, 869), (1115, 1114), (1182, 1082),
    (1183, 1083), (1185, 1184), (1187, 1186), (1231, 1700), (1270, 1266), (1561, 1560),
    (1563, 1562), (2201, 1790), (2207, 2202), (2208, 2203), (2209, 2204), (2210, 2205),
    (2211, 2206), (2949, 2970), (2951, 2950), (3221, 3220), (3643, 3614), (3644, 3642),
    (3645, 3615), (3735, 3734), (3770, 3769), (3807, 3802), (3905, 3904), (3907, 3906),
    (3909, 3908), (3911, 3910), (3913, 3912), (3927, 3926), (4073, 4072), (4090, 4089),
    (4097, 4096), (4192, 4191), (5039, 5038), (6150, 4451), (6151, 4532), (6152, 4533),
    (6153, 4534), (6155, 4535), (6157, 4536),
];
