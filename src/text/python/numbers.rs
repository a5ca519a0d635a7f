//! Filters that make numbers.

use minijinja::value::Value;

use super::arguments::{bind, truth, whole, whole_or_none};
use super::letters;
use super::values::{Number, Result, number, refused, type_name};

pub(super) fn absolute(args: &[Value]) -> Result<Value> {
    let [value] = bind("abs", args, ["x"], 1)?;
    let value = value.unwrap_or_default();
    match number(&value) {
        Some(Number::Whole(n)) => Ok(Number::Whole(n.saturating_abs()).into()),
        Some(Number::Real(x)) => Ok(x.abs().into()),
        None => Err(refused(format!("abs expects a number, not a value of type {}", type_name(&value)))),
    }
}

/// The number that a text names, as Python reads it: blanks around it, one underscore between digits.
fn read(text: &str, base: i64) -> Option<i128> {
    let text = text.trim_matches(letters::blank);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |prefix: &str| digits.get(..2).filter(|p| p.eq_ignore_ascii_case(prefix)).map(|_| &digits[2..]);
    let (base, digits) = match (base, prefixed("0x"), prefixed("0o"), prefixed("0b")) {
        (16 | 0, Some(rest), ..) => (16, rest.strip_prefix('_').unwrap_or(rest)),
        (8 | 0, _, Some(rest), _) => (8, rest.strip_prefix('_').unwrap_or(rest)),
        (2 | 0, .., Some(rest)) => (2, rest.strip_prefix('_').unwrap_or(rest)),
        (0, ..) => (10, digits),
        (base, ..) => (u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?, digits),
    };
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let plain: String = digits.chars().filter(|c| *c != '_').map(ascii).collect();
    let unsigned = !plain.starts_with(['+', '-']);
    i128::from_str_radix(&plain, base).ok().filter(|_| unsigned).map(|n| sign * n)
}

/// Digits of other scripts as those of ASCII.
fn ascii(sign: char) -> char {
    letters::decimal(sign).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(sign)
}

fn read_real(text: &str) -> Option<f64> {
    let text = text.trim_matches(letters::blank);
    let wrong = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    let plain: String = text.chars().filter(|c| *c != '_').map(ascii).collect();
    plain.parse().ok().filter(|_| !wrong)
}

/// `value | int(default=0, base=10)`.
pub(super) fn int(args: &[Value]) -> Result<Value> {
    let [value, default, base] = bind("int", args, ["value", "default", "base"], 1)?;
    let value = value.unwrap_or_default();
    let base = whole("int", &base)?.unwrap_or(10);
    let truncated = |x: f64| (x.is_finite() && x.abs() < 1e38).then(|| Number::Whole(x.trunc() as i128));
    let found = match (value.as_str(), number(&value)) {
        (Some(text), _) => read(text, base).map(Number::Whole).or_else(|| read_real(text).and_then(truncated)),
        (None, Some(Number::Real(x))) => truncated(x),
        (None, Some(whole)) => Some(whole),
        (None, None) if value.is_undefined() => return Err(refused("int: the value is not defined")),
        (None, None) => None,
    };
    Ok(found.map_or_else(|| default.unwrap_or_else(|| 0.into()), Value::from))
}

/// `value | float(default=0.0)`.
pub(super) fn float(args: &[Value]) -> Result<Value> {
    let [value, default] = bind("float", args, ["value", "default"], 1)?;
    let value = value.unwrap_or_default();
    if value.is_undefined() {
        return Err(refused("float: the value is not defined"));
    }
    let found = value.as_str().map_or_else(|| number(&value).map(Number::real), read_real);
    Ok(found.map_or_else(|| default.unwrap_or_else(|| 0.0.into()), Value::from))
}

/// `value | round(precision=0, method='common')`.
pub(super) fn round(args: &[Value]) -> Result<Value> {
    let [value, precision, method] = bind("round", args, ["value", "precision", "method"], 1)?;
    let value = value.unwrap_or_default();
    let to_whole = precision.as_ref().is_some_and(Value::is_none);
    let precision = whole_or_none("round", &precision)?.unwrap_or(0);
    let wrong = || refused(format!("round expects a number, not a value of type {}", type_name(&value)));
    let x = number(&value).ok_or_else(wrong)?;
    let by = 10f64.powi(precision.clamp(-400, 400) as i32);
    match method.as_ref().map_or("common", |method| method.as_str().unwrap_or_default()) {
        "common" => Ok(match x {
            Number::Whole(n) => Number::Whole(whole_rounded(n, precision)).into(),
            Number::Real(x) if to_whole => match rounded(x, 0) {
                x if x.abs() < 1e38 => Number::Whole(x as i128).into(),
                _ => return Err(refused("round: the number is too large to be a whole one")),
            },
            Number::Real(x) => rounded(x, precision).into(),
        }),
        _ if to_whole => Err(refused("round: without a precision the method is common")),
        // A whole number has no negative zero.
        "ceil" => Ok((((x.real() * by).ceil() + 0.0) / by).into()),
        "floor" => Ok((((x.real() * by).floor() + 0.0) / by).into()),
        _ => Err(refused("round: the method is common, ceil or floor")),
    }
}

/// Python's `round` to so many digits: half goes to the even one.
fn whole_rounded(n: i128, precision: i64) -> i128 {
    let Some(unit) = u32::try_from(-precision).ok().and_then(|power| 10i128.checked_pow(power)) else {
        return if precision < 0 { 0 } else { n };
    };
    let (quotient, rest) = (n.div_euclid(unit), n.rem_euclid(unit));
    let up = rest * 2 > unit || rest * 2 == unit && quotient % 2 != 0;
    (quotient + i128::from(up)) * unit
}

fn rounded(x: f64, precision: i64) -> f64 {
    match usize::try_from(precision) {
        // Decimal digits are written exactly, with half to even.
        Ok(digits) if digits < 340 => format!("{x:.digits$}").parse().unwrap_or(x),
        Ok(_) => x,
        Err(_) if x.abs() < 1e15 => {
            let by = 10f64.powi((-precision).min(400) as i32);
            (x / by).round_ties_even() * by
        }
        Err(_) => x,
    }
}

/// `value | filesizeformat(binary=false)`.
pub(super) fn file_size(args: &[Value]) -> Result<Value> {
    let [value, binary] = bind("filesizeformat", args, ["value", "binary"], 1)?;
    let value = value.unwrap_or_default();
    let size = value.as_str().map_or_else(|| number(&value).map(Number::real), read_real);
    let wrong = || refused(format!("filesizeformat expects a number, not a value of type {}", type_name(&value)));
    // A negative zero is written without its sign.
    let size = size.ok_or_else(wrong)? + 0.0;
    let (base, names) = match truth(&binary) {
        true => (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if size == 1.0 {
        return Ok("1 Byte".into());
    }
    if size < base {
        return Ok(format!("{} Bytes", size.trunc()).into());
    }
    let mut unit = base;
    for name in names {
        if size < unit * base || name.starts_with('Y') {
            return Ok(format!("{:.1} {name}", size / unit).into());
        }
        unit *= base;
    }
    Ok("".into())
}
