//! Turns Postgres's text of a value into the JSON that `to_jsonb` returns.
//!
//! Source: `json_categorize_type` and `datum_to_jsonb_internal` in Postgres's `json.c`, `jsonb.c`.

use std::str::from_utf8;

use super::composite_text::{ArrayText, ArrayToken, HstoreText, Malformed, RecordText};
use super::json_buffer::JsonBuffer;
use super::json_document::jsonb_text_len;
use super::number::{PlainDecimal, is_json_number, round_trips_as_double};
use super::shape::{Attribute, Shape};

/// Appends the JSON of a value.
///
/// Text that the type's output function does not write becomes a string, and the buffer is marked:
/// that of a composite that was altered since, or bytes that are not UTF-8, which are replaced. (A
/// session in UTF-8 receives none, but no value may stop the feed.)
pub(super) fn write(shape: &Shape, text: &[u8], json: &mut JsonBuffer<'_>) {
    let start = json.mark();
    if from_utf8(text).is_ok() && write_shaped(shape, text, json).is_ok() {
        return;
    }
    json.rewind(start);
    json.mark_as_text();
    json.push_string(String::from_utf8_lossy(text).as_bytes());
}

/// As [`write()`], for UTF-8 in the form of the shape. On an error a part of the value is left in the
/// buffer.
fn write_shaped(shape: &Shape, text: &[u8], json: &mut JsonBuffer<'_>) -> Result<(), Malformed> {
    match shape {
        Shape::Bool => match text {
            b"t" => json.push(b"true"),
            b"f" => json.push(b"false"),
            _ => return Err(Malformed),
        },
        Shape::Integer | Shape::Float | Shape::Numeric => return write_number(shape, text, json),
        Shape::Timestamp => write_timestamp(text, json),
        Shape::TimestampTz => write_timestamp_tz(text, json),
        Shape::Json => write_document(text, json),
        Shape::Opaque => {
            json.mark_as_text();
            json.push_string(text);
        }
        Shape::Array(element, delimiter) => return write_array(element, *delimiter, text, json),
        Shape::Vector(element) => return write_vector(element, text, json),
        Shape::Composite(attributes) => return write_composite(attributes, text, json),
        Shape::Hstore => return write_hstore(text, json),
        Shape::Text => json.push_string(text),
    }
    Ok(())
}

fn write_number(shape: &Shape, text: &[u8], json: &mut JsonBuffer<'_>) -> Result<(), Malformed> {
    match text {
        // to_jsonb turns them into strings, since JSON has no such numbers.
        b"NaN" | b"Infinity" | b"-Infinity" => json.push_string(text),
        // Only floats have a negative zero; numeric, and therefore jsonb, does not.
        b"-0" => json.push(b"0"),
        _ if !is_json_number(text) => return Err(Malformed),
        _ if *shape == Shape::Numeric && !round_trips_as_double(text) => json.push_string(text),
        // Only floats have exponents. jsonb prints none, so a change that is read back has none.
        _ if *shape == Shape::Float && text.contains(&b'e') => {
            json.push(&PlainDecimal::read(text).ok_or(Malformed)?.write());
        }
        _ => json.push(text),
    }
    Ok(())
}

fn write_document(text: &[u8], json: &mut JsonBuffer<'_>) {
    if json.embeds_documents()
        && let Some(printed) = jsonb_text_len(text)
    {
        json.push_document(text, printed);
    } else {
        json.mark_as_text();
        json.push_string(text);
    }
}

/// `2026-01-01 00:00:00 BC` becomes `2026-01-01T00:00:00 BC`.
fn write_timestamp(text: &[u8], json: &mut JsonBuffer<'_>) {
    json.push(b"\"");
    match split_once(text, b' ') {
        Some((date, time)) => {
            json.push_escaped(date);
            json.push(b"T");
            json.push_escaped(time);
        }
        None => json.push_escaped(text), // infinity
    }
    json.push(b"\"");
}

/// As [`write_timestamp`], but an offset of whole hours gets minutes: `+00` becomes `+00:00`.
fn write_timestamp_tz(text: &[u8], json: &mut JsonBuffer<'_>) {
    let (moment, era) = match text.strip_suffix(b" BC") {
        Some(moment) => (moment, b" BC".as_slice()),
        None => (text, b"".as_slice()),
    };
    let Some((date, time)) = split_once(moment, b' ') else {
        return json.push_string(text); // infinity
    };
    let offset = time
        .iter()
        .rposition(|byte| matches!(byte, b'+' | b'-'))
        .and_then(|at| time.get(at + 1..));
    json.push(b"\"");
    json.push_escaped(date);
    json.push(b"T");
    json.push_escaped(time);
    if offset.is_some_and(|offset| offset.len() == 2) {
        json.push(b":00");
    }
    json.push(era);
    json.push(b"\"");
}

fn write_array(
    element: &Shape,
    delimiter: u8,
    text: &[u8],
    json: &mut JsonBuffer<'_>,
) -> Result<(), Malformed> {
    let mut tokens = ArrayText::new(text, delimiter);
    let mut depth = 0_u32;
    // Whether a value is allowed next, and whether a closing brace is: `{}` is valid, `{1,}` is not.
    let (mut value_next, mut close_next) = (true, false);
    while let Some(token) = tokens.next()? {
        match token {
            ArrayToken::Open if value_next => {
                depth += 1;
                close_next = true;
                json.push(b"[");
            }
            ArrayToken::Close if close_next => {
                depth = depth.checked_sub(1).ok_or(Malformed)?;
                value_next = false;
                close_next = depth > 0;
                json.push(b"]");
            }
            ArrayToken::Delimiter if !value_next && depth > 0 => {
                value_next = true;
                close_next = false;
                json.push_separated(b",");
            }
            ArrayToken::Element(value) if value_next && depth > 0 => {
                match value {
                    None => json.push(b"null"),
                    Some(value) => write_shaped(element, &value, json)?,
                }
                value_next = false;
                close_next = true;
            }
            _ => return Err(Malformed),
        }
    }
    (depth == 0 && !value_next).then_some(()).ok_or(Malformed)
}

fn write_vector(element: &Shape, text: &[u8], json: &mut JsonBuffer<'_>) -> Result<(), Malformed> {
    json.push(b"[");
    if !text.is_empty() {
        for (index, value) in text.split(|&byte| byte == b' ').enumerate() {
            if index > 0 {
                json.push_separated(b",");
            }
            write_shaped(element, value, json)?;
        }
    }
    json.push(b"]");
    Ok(())
}

fn write_composite(
    attributes: &[Attribute],
    text: &[u8],
    json: &mut JsonBuffer<'_>,
) -> Result<(), Malformed> {
    let mut values = RecordText::new(text)?;
    json.push(b"{");
    for (index, attribute) in attributes.iter().enumerate() {
        if index > 0 {
            json.push_separated(b",");
        }
        json.push_separated(&attribute.key);
        match values.next()? {
            None => json.push(b"null"),
            Some(value) => write_shaped(&attribute.shape, &value, json)?,
        }
    }
    json.push(b"}");
    values.end(attributes.len())
}

fn write_hstore(text: &[u8], json: &mut JsonBuffer<'_>) -> Result<(), Malformed> {
    let mut pairs = HstoreText::new(text);
    let mut is_first = true;
    json.push(b"{");
    while let Some((key, value)) = pairs.next()? {
        if !std::mem::take(&mut is_first) {
            json.push_separated(b",");
        }
        json.push_string(&key);
        json.push_separated(b":");
        match value {
            None => json.push(b"null"),
            Some(value) => json.push_string(&value),
        }
    }
    json.push(b"}");
    Ok(())
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests;
