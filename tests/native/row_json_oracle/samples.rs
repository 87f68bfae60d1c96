//! Values of every type, as text that the type's input function reads.

use super::values::*;
use crate::support::random::Random;

/// A type, by its name in SQL, and the function that makes its values.
pub struct Sample {
    pub type_name: &'static str,
    pub make: fn(&mut Random) -> String,
}

const fn sample(type_name: &'static str, make: fn(&mut Random) -> String) -> Sample {
    Sample { type_name, make }
}

/// The built-in types.
pub const BUILT_IN: [Sample; 77] = [
    sample("boolean", |random| random.pick(&["t", "f"]).to_owned()),
    sample("smallint", |random| random.integer(16).to_string()),
    sample("integer", |random| random.integer(32).to_string()),
    sample("bigint", bigint),
    sample("real", real),
    sample("double precision", double),
    sample("numeric", numeric),
    sample("numeric(12,2)", |random| {
        format!("{}.{:02}", random.integer(33), random.below(100))
    }),
    sample("money", |random| {
        format!("{}.{:02}", random.integer(50), random.below(100))
    }),
    sample("\"char\"", |random| ascii(random).chars().take(1).collect()),
    sample("character(12)", text),
    sample("character varying", text),
    sample("text", text),
    sample("name", |random| text(random).chars().take(12).collect()),
    sample("bytea", |random| format!("\\x{}", hex(random, 24))),
    sample("date", |random| special_or(random, &INFINITIES, date)),
    sample("time", time),
    sample("timetz", |random| time(random) + &offset(random)),
    sample("timestamp", |random| {
        special_or(random, &INFINITIES, |random| timestamp(random, ""))
    }),
    sample("timestamptz", |random| {
        special_or(random, &INFINITIES, |random| {
            let offset = offset(random);
            timestamp(random, &offset)
        })
    }),
    sample("interval", interval),
    sample("uuid", |random| {
        format!("{:016x}{:016x}", random.bits(), random.bits())
    }),
    sample("inet", inet),
    sample("cidr", |random| {
        random
            .pick(&[
                "10.1.2.0/24",
                "0.0.0.0/0",
                "2001:db8::/32",
                "::/0",
                "1.2.3.4/32",
            ])
            .to_owned()
    }),
    sample("macaddr", |random| format!("{:012x}", random.bits() >> 16)),
    sample("macaddr8", |random| format!("{:016x}", random.bits())),
    sample("bit(7)", |random| format!("{:07b}", random.below(128))),
    sample("bit varying", |random| {
        let width = usize::try_from(random.below(40)).unwrap();
        format!("{:0width$b}", random.bits() >> 24)
            .chars()
            .take(width)
            .collect()
    }),
    sample("json", |random| json(random, 4)),
    sample("jsonb", |random| json(random, 4)),
    sample("jsonpath", |random| {
        random
            .pick(&[
                "$.a[*] ? (@ > 1)",
                "lax $.\"b c\"",
                "strict $",
                "$.a.type()",
            ])
            .to_owned()
    }),
    sample("xml", |random| {
        format!("<a b=\"{}\">{}</a>", random.bits(), xml_text(random))
    }),
    sample("tsvector", |random| {
        format!(
            "'x{}':{}A b:2,3",
            quoted(&text(random)),
            random.between(1, 99)
        )
    }),
    sample("tsquery", |random| {
        format!("'x{}' & (b | !c:*A) <2> d", quoted(&text(random)))
    }),
    sample("point", point),
    sample("line", |random| {
        format!("{{1,{},{}}}", double_finite(random), double_finite(random))
    }),
    sample("lseg", |random| points(random, 2, '[', ']')),
    sample("box", |random| points(random, 2, '(', ')')),
    sample("path", |random| {
        let count = random.between(1, 5);
        if random.one_in(2) {
            points(random, count, '[', ']')
        } else {
            points(random, count, '(', ')')
        }
    }),
    sample("polygon", |random| {
        let count = random.between(1, 5);
        points(random, count, '(', ')')
    }),
    sample("circle", |random| {
        format!("<{},{}>", point(random), random.below(99))
    }),
    sample("int4range", int4range),
    sample("int8range", int8range),
    sample("numrange", numrange),
    sample("daterange", daterange),
    sample("tsrange", tsrange),
    sample("tstzrange", tstzrange),
    sample("int4multirange", |random| ranges(random, int4range)),
    sample("int8multirange", |random| ranges(random, int8range)),
    sample("nummultirange", |random| ranges(random, numrange)),
    sample("datemultirange", |random| ranges(random, daterange)),
    sample("tsmultirange", |random| ranges(random, tsrange)),
    sample("tstzmultirange", |random| ranges(random, tstzrange)),
    sample("oid", |random| (random.bits() >> 32).to_string()),
    sample("xid", |random| (random.bits() >> 32).to_string()),
    sample("xid8", |random| random.bits().to_string()),
    sample("cid", |random| (random.bits() >> 32).to_string()),
    sample("tid", |random| {
        format!("({},{})", random.below(1 << 32), random.below(1 << 16))
    }),
    sample("pg_lsn", |random| {
        format!("{:X}/{:X}", random.bits() >> 32, random.bits() >> 32)
    }),
    sample("pg_snapshot", |random| {
        let low = random.between(3, 99);
        format!("{low}:{}:{low},{}", low + 9, low + 4)
    }),
    sample("txid_snapshot", |random| {
        let low = random.between(3, 99);
        format!("{low}:{}:{low},{}", low + 9, low + 4)
    }),
    sample("int2vector", |random| {
        vector(random, |random| random.integer(16).to_string())
    }),
    sample("oidvector", |random| {
        vector(random, |random| (random.bits() >> 32).to_string())
    }),
    sample("aclitem", |random| {
        random
            .pick(&[
                "postgres=arwdDxt/postgres",
                "=r/postgres",
                "pg_monitor=r*w/postgres",
            ])
            .to_owned()
    }),
    sample("refcursor", text),
    sample("regclass", |random| {
        random
            .pick(&["pg_class", "information_schema.tables"])
            .to_owned()
    }),
    sample("regcollation", |random| {
        random.pick(&["\"C\"", "\"default\"", "0"]).to_owned()
    }),
    sample("regconfig", |random| {
        random.pick(&["simple", "english"]).to_owned()
    }),
    sample("regdictionary", |random| {
        random.pick(&["simple", "english_stem"]).to_owned()
    }),
    sample("regnamespace", |random| {
        random.pick(&["public", "pg_catalog", "0"]).to_owned()
    }),
    sample("regoper", |random| {
        random.pick(&["||/", "|/", "0"]).to_owned()
    }),
    sample("regoperator", |random| {
        random
            .pick(&["+(integer,integer)", "-(none,bigint)"])
            .to_owned()
    }),
    sample("regproc", |random| {
        random.pick(&["now", "pg_sleep", "0"]).to_owned()
    }),
    sample("regprocedure", |random| {
        random
            .pick(&["lower(text)", "substr(text,integer,integer)", "0"])
            .to_owned()
    }),
    sample("regrole", |random| {
        random.pick(&["postgres", "pg_monitor", "0"]).to_owned()
    }),
    sample("regtype", |random| {
        random
            .pick(&[
                "integer",
                "timestamp without time zone",
                "\"char\"",
                "text[]",
            ])
            .to_owned()
    }),
    sample("character varying(3)", |random| {
        text(random).chars().take(3).collect()
    }),
];

/// Types that the setup of the test or extensions create.
pub const MADE: [Sample; 8] = [
    sample("mood", |random| {
        random
            .pick(&["ok", "it's \"fine\"", "schön 😀", "a,b}\\"])
            .to_owned()
    }),
    sample("hstore", |random| {
        let pairs = (0..random.below(4)).map(|_| {
            let value = if random.one_in(4) {
                "NULL".to_owned()
            } else {
                in_quotes(&text(random))
            };
            format!("{}=>{value}", in_quotes(&text(random)))
        });
        pairs.collect::<Vec<_>>().join(", ")
    }),
    sample("citext", text),
    sample("ltree", |random| {
        random
            .pick(&["", "a", "Top.Science.Astronomy", "a_1.b_2"])
            .to_owned()
    }),
    sample("textrange", |random| {
        random
            .pick(&["empty", "[a,b)", "[\"a\\\"b\",\"c d\"]", "(,)", "[\"\",z]"])
            .to_owned()
    }),
    sample("textmultirange", |random| {
        random
            .pick(&["{}", "{[a,b),[c,\"d }\"]}", "{(,)}"])
            .to_owned()
    }),
    sample("floatrange", |random| {
        range(random, |random| random.integer(40), |n| format!("{n}.25"))
    }),
    sample("information_schema.sql_identifier", |random| {
        text(random).chars().take(12).collect()
    }),
];
