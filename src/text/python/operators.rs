//! Operators and look-ups with Python's meaning, which take the place of the machine's own.

use std::cmp::Ordering;

use minijinja::machinery::Instruction;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};

use super::format::percent;
use super::lookups::{alike, attribute, contains, equal, item};
use super::values::{Number, Result, compare, namespace, number, refused, shown, type_name};
use super::{Room, SharedRoom};

// These are not identifiers, so no template can name or replace them.
const ADD: &str = "(+)";
const SUBTRACT: &str = "(-)";
const MULTIPLY: &str = "(*)";
const DIVIDE: &str = "(/)";
const FLOOR: &str = "(//)";
const REMAINDER: &str = "(%)";
const POWER: &str = "(**)";
const CONCAT: &str = "(~)";
const IN: &str = "(in)";
const EQUAL: &str = "(==)";
const DIFFERS: &str = "(!=)";
const LESS: &str = "(<)";
const LESS_EQUAL: &str = "(<=)";
const GREATER: &str = "(>)";
const GREATER_EQUAL: &str = "(>=)";
pub(crate) const ATTRIBUTE: &str = "(.)";
const NEGATIVE: &str = "(negative)";
pub(crate) const ITERATED: &str = "(iterated)";
pub(crate) const ITEM: &str = "([])";

/// The function that takes an instruction's place; none where the machine's own has Python's meaning.
pub(crate) fn function(instruction: &Instruction<'_>) -> Option<(&'static str, u16)> {
    use Instruction as I;
    let name = match instruction {
        I::Neg => return Some((NEGATIVE, 1)),
        I::Add => ADD,
        I::Sub => SUBTRACT,
        I::Mul => MULTIPLY,
        I::Div => DIVIDE,
        I::IntDiv => FLOOR,
        I::Rem => REMAINDER,
        I::Pow => POWER,
        I::StringConcat => CONCAT,
        I::In => IN,
        I::Eq => EQUAL,
        I::Ne => DIFFERS,
        I::Lt => LESS,
        I::Lte => LESS_EQUAL,
        I::Gt => GREATER,
        I::Gte => GREATER_EQUAL,
        _ => return None,
    };
    Some((name, 2))
}

pub(super) fn install(environment: &mut Environment<'_>, room: &SharedRoom) {
    type Operator = fn(&Value, &Value, &Room) -> Result<Value>;
    let order = |is: fn(Ordering) -> bool| move |a: &Value, b: &Value| compare(a, b).map(is);
    let all: [(&'static str, Operator); 12] = [
        (ADD, add),
        (SUBTRACT, |a, b, _| arithmetic("-", a, b)),
        (MULTIPLY, multiply),
        (DIVIDE, |a, b, _| arithmetic("/", a, b)),
        (FLOOR, |a, b, _| arithmetic("//", a, b)),
        (REMAINDER, |a, b, room| match a.as_str() {
            Some(format) => percent(format, b, room).map(Value::from),
            None => arithmetic("%", a, b),
        }),
        (POWER, |a, b, _| arithmetic("**", a, b)),
        (CONCAT, concat),
        (IN, |a, b, _| contains(b, a).map(Value::from)),
        (EQUAL, |a, b, _| Ok(equal(a, b).into())),
        (DIFFERS, |a, b, _| Ok((!equal(a, b)).into())),
        (ITEM, |a, b, _| item(a, b)),
    ];
    for (name, operator) in all {
        let room = room.clone();
        environment.add_function(name, move |state: &State<'_, '_>, a: Value, b: Value| {
            let strict = state.env().undefined_behavior() == UndefinedBehavior::Strict;
            match strict && (a.is_undefined() || b.is_undefined()) {
                true => Err(ErrorKind::UndefinedError.into()),
                false => operator(&a, &b, &*room),
            }
        });
    }
    let less = order(Ordering::is_lt);
    environment.add_function(LESS, move |a: Value, b: Value| less(&a, &b));
    let less_equal = order(Ordering::is_le);
    environment.add_function(LESS_EQUAL, move |a: Value, b: Value| less_equal(&a, &b));
    let greater = order(Ordering::is_gt);
    environment.add_function(GREATER, move |a: Value, b: Value| greater(&a, &b));
    let greater_equal = order(Ordering::is_ge);
    environment.add_function(GREATER_EQUAL, move |a: Value, b: Value| greater_equal(&a, &b));
    environment.add_function(NEGATIVE, |a: Value| match number(&a) {
        Some(Number::Whole(n)) => Ok(Number::Whole(n.checked_neg().unwrap_or(i128::MAX)).into()),
        Some(Number::Real(x)) => Ok(Value::from(-x)),
        None => Err(wrong("-", &a, &a)),
    });
    let r = room.clone();
    environment.add_function(ITERATED, move |value: Value| match value.as_str() {
        _ if value.is_none() || namespace(&value) => {
            Err(refused(format!("a value of type {} has no entries", type_name(&value))))
        }
        // The machine walks through a text without knowing where it ends.
        Some(text) => {
            r(text.len().saturating_mul(size_of::<Value>()))?;
            Ok(text.chars().map(Value::from).collect())
        }
        None => Ok(value),
    });
    environment.add_function(ATTRIBUTE, |value: Value, name: String| attribute(&value, &name));
}

fn wrong(operator: &str, a: &Value, b: &Value) -> Error {
    match a.is_undefined() || b.is_undefined() {
        true => refused(format!("an operand of {operator} is not defined")),
        false => refused(format!("{operator} cannot take values of type {} and {}", type_name(a), type_name(b))),
    }
}

fn listed(value: &Value) -> bool {
    matches!(type_name(value), "list" | "tuple")
}

pub(super) fn add(a: &Value, b: &Value, room: &Room) -> Result<Value> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        room(a.len().saturating_add(b.len()))?;
        return Ok(Value::from([a, b].concat()));
    }
    if !listed(a) || type_name(a) != type_name(b) {
        return arithmetic("+", a, b);
    }
    let length = a.len().unwrap_or(0).saturating_add(b.len().unwrap_or(0));
    room(length.saturating_mul(size_of::<Value>()))?;
    Ok(alike(a, a.try_iter()?.chain(b.try_iter()?).collect()))
}

fn multiply(a: &Value, b: &Value, room: &Room) -> Result<Value> {
    let (row, times) = if a.as_str().is_some() || listed(a) { (a, b) } else { (b, a) };
    let times = match number(times) {
        Some(Number::Whole(n)) if row.as_str().is_some() || listed(row) => n.clamp(0, 1 << 40) as usize,
        _ => return arithmetic("*", a, b),
    };
    if let Some(text) = row.as_str() {
        room(text.len().saturating_mul(times))?;
        return Ok(text.repeat(times).into());
    }
    let length = row.len().unwrap_or(0).saturating_mul(times);
    room(length.saturating_mul(size_of::<Value>()))?;
    let items: Vec<Value> = row.try_iter()?.collect();
    Ok(alike(row, std::iter::repeat_n(items, times).flatten().collect()))
}

fn arithmetic(operator: &str, a: &Value, b: &Value) -> Result<Value> {
    let (Some(x), Some(y)) = (number(a), number(b)) else { return Err(wrong(operator, a, b)) };
    let large = || refused(format!("the result of {operator} is too large"));
    let by_zero = || refused(format!("{operator}: division by zero"));
    if y.real() == 0.0 && matches!(operator, "/" | "//" | "%") {
        return Err(by_zero());
    }
    let done = match (operator, x, y) {
        ("/", ..) => Number::Real(x.real() / y.real()),
        ("+", Number::Whole(x), Number::Whole(y)) => Number::Whole(x.checked_add(y).ok_or_else(large)?),
        ("-", Number::Whole(x), Number::Whole(y)) => Number::Whole(x.checked_sub(y).ok_or_else(large)?),
        ("*", Number::Whole(x), Number::Whole(y)) => Number::Whole(x.checked_mul(y).ok_or_else(large)?),
        ("//", Number::Whole(x), Number::Whole(y)) => {
            let quotient = x.checked_div(y).ok_or_else(large)?;
            Number::Whole(quotient - i128::from(x % y != 0 && (x < 0) != (y < 0)))
        }
        ("%", Number::Whole(x), Number::Whole(y)) => {
            let rest = x.checked_rem(y).ok_or_else(large)?;
            Number::Whole(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest })
        }
        ("**", Number::Whole(x), Number::Whole(y)) if y >= 0 => {
            let exponent = u32::try_from(y).map_err(|_| large())?;
            Number::Whole(x.checked_pow(exponent).ok_or_else(large)?)
        }
        ("**", ..) if x.real() == 0.0 && y.real() < 0.0 => return Err(by_zero()),
        ("**", ..) => {
            let power = x.real().powf(y.real());
            if power.is_nan() && !x.real().is_nan() && !y.real().is_nan() {
                return Err(refused("the result of ** is not a real number"));
            }
            if power.is_infinite() && x.real().is_finite() && y.real().is_finite() {
                return Err(large());
            }
            Number::Real(power)
        }
        ("+", ..) => Number::Real(x.real() + y.real()),
        ("-", ..) => Number::Real(x.real() - y.real()),
        ("*", ..) => Number::Real(x.real() * y.real()),
        _ => {
            let (x, y) = (x.real(), y.real());
            let mut rest = x % y;
            let mut quotient = (x - rest) / y;
            if rest == 0.0 {
                rest = 0f64.copysign(y);
            } else if (rest < 0.0) != (y < 0.0) {
                (rest, quotient) = (rest + y, quotient - 1.0);
            }
            let whole = if quotient == 0.0 { 0f64.copysign(x / y) } else { quotient.round() };
            Number::Real(if operator == "%" { rest } else { whole })
        }
    };
    Ok(done.into())
}

/// `a ~ b`.
fn concat(a: &Value, b: &Value, room: &Room) -> Result<Value> {
    let (a, b) = (shown(a), shown(b));
    room(a.len().saturating_add(b.len()))?;
    Ok((a + &b).into())
}
