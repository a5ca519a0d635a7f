//! Python's values as templates see them: tuples, views and generators, which Jinja in Rust does not tell from lists,
//! how they are printed, and how they are compared.

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

pub(super) type Result<T> = std::result::Result<T, Error>;

pub(super) fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// What a row of values is in Python.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Tuple,
    /// What `groupby` gives: a tuple whose parts have names.
    Group,
    Keys,
    Values,
    Items,
    /// Start, stop and step.
    Range(i64, i64, i64),
    /// What a filter such as `map` gives.
    Generator,
}

/// A row of values that is no list.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    items: Vec<Value>,
}

impl Row {
    pub(super) fn value(kind: Kind, items: Vec<Value>) -> Value {
        Value::from_object(Self { kind, items })
    }
}

pub(super) fn tuple(items: impl Into<Vec<Value>>) -> Value {
    Row::value(Kind::Tuple, items.into())
}

/// The kind of a value that is a row.
pub(super) fn kind_of(value: &Value) -> Option<Kind> {
    value.downcast_object_ref::<Row>().map(|row| row.kind)
}

impl Object for Row {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.kind {
            Kind::Tuple | Kind::Group | Kind::Range(..) => ObjectRepr::Seq,
            Kind::Keys | Kind::Values | Kind::Items | Kind::Generator => ObjectRepr::Iterable,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (self.kind, key.as_str()) {
            (Kind::Group, Some("grouper")) => self.items.first().cloned(),
            (Kind::Group, Some("list")) => self.items.get(1).cloned(),
            // These have entries, but no places.
            (Kind::Keys | Kind::Values | Kind::Items | Kind::Generator, _) => None,
            _ => self.items.get(key.as_usize()?).cloned(),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.repr() {
            ObjectRepr::Seq => Enumerator::Seq(self.items.len()),
            _ => Enumerator::Values(self.items.clone()),
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.kind == Kind::Generator || !self.items.is_empty()
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// A method that is named without being called.
#[derive(Debug)]
pub(super) struct Method {
    of: Value,
    name: String,
}

impl Method {
    pub(super) fn value(of: &Value, name: &str) -> Value {
        Value::from_object(Self { of: of.clone(), name: name.to_owned() })
    }
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value> {
        self.of.call_method(state, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {} of {} object>", self.name, type_name(&self.of))
    }
}

/// Whether a value is a namespace, which is no dict.
pub(super) fn namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// The name of a value's type in Python.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map if namespace(value) => "Namespace",
        ValueKind::Map => "dict",
        ValueKind::Seq | ValueKind::Iterable => match kind_of(value) {
            None => "list",
            Some(Kind::Tuple | Kind::Group) => "tuple",
            Some(Kind::Keys) => "dict_keys",
            Some(Kind::Values) => "dict_values",
            Some(Kind::Items) => "dict_items",
            Some(Kind::Range(..)) => "range",
            Some(Kind::Generator) => "generator",
        },
        _ => "object",
    }
}

/// The entries of a value: signs of a text, keys of a dict.
pub(super) fn entries(what: &str, value: &Value) -> Result<Vec<Value>> {
    if let Some(text) = value.as_str() {
        return Ok(text.chars().map(Value::from).collect());
    }
    match value.kind() {
        _ if namespace(value) => Err(refused(format!("{what} expects a list, not a namespace"))),
        ValueKind::Undefined | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => Ok(value.try_iter()?.collect()),
        _ => Err(refused(format!("{what} expects a list, not a value of type {}", type_name(value)))),
    }
}

/// Whether a value has no length in Python, though it has entries or attributes.
pub(super) fn lengthless(value: &Value) -> bool {
    namespace(value) || kind_of(value) == Some(Kind::Generator)
}

/// The number that a value is; True and False are numbers in Python.
pub(super) fn number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Whole(value.is_true().into())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Whole),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Real),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    pub(super) fn real(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        match number {
            Number::Whole(n) => i64::try_from(n).map_or_else(|_| n.into(), Value::from),
            Number::Real(x) => x.into(),
        }
    }
}

/// The bytes of a value with all that it holds.
pub(super) fn weight(value: &Value) -> usize {
    let own = size_of::<Value>() + value.as_str().map_or(0, str::len);
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Map => {
            own + items().map(|k| weight(&k) + value.get_item(&k).map_or(0, |v| weight(&v))).sum::<usize>()
        }
        ValueKind::Seq | ValueKind::Iterable => own + items().map(|item| weight(&item)).sum::<usize>(),
        _ => own,
    }
}

/// What Python's `str` gives.
pub(crate) fn shown(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        _ => value.as_str().map_or_else(|| repr(value), str::to_owned),
    }
}

/// What Python's `repr` gives.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

fn write_repr(value: &Value, out: &mut String) {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => {
            out.push_str(&f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float));
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Map => {
            let (open, close) = if type_name(value) == "dict" { ("{", "}") } else { ("<Namespace {", "}>") };
            let entries = items().map(|key| (value.get_item(&key).unwrap_or_default(), key));
            out.push_str(open);
            for (i, (item, key)) in entries.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&key, out);
                out.push_str(": ");
                write_repr(&item, out);
            }
            out.push_str(close);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = match kind_of(value) {
                None => ("[", "]"),
                Some(Kind::Tuple | Kind::Group) if value.len() == Some(1) => ("(", ",)"),
                Some(Kind::Tuple | Kind::Group) => ("(", ")"),
                Some(Kind::Keys) => ("dict_keys([", "])"),
                Some(Kind::Values) => ("dict_values([", "])"),
                Some(Kind::Items) => ("dict_items([", "])"),
                Some(Kind::Range(start, stop, 1)) => return out.push_str(&format!("range({start}, {stop})")),
                Some(Kind::Range(start, stop, by)) => return out.push_str(&format!("range({start}, {stop}, {by})")),
                Some(Kind::Generator) => return out.push_str("<generator object>"),
            };
            out.push_str(open);
            for (i, item) in items().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&item, out);
            }
            out.push_str(close);
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// A float as Python prints it: its shortest digits, with an exponent below 0.0001 and from 1e16 on.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() || x.is_infinite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let short = format!("{x:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    match exponent.parse::<i32>() {
        Ok(n) if x != 0.0 && !(-4..16).contains(&n) => {
            let sign = if n < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", n.abs())
        }
        _ => format!("{x:?}"),
    }
}

/// Whether Python prints a sign as it is; the others are escaped. The standard library's `Debug` knows them: it leaves
/// marks as they are where they follow a letter.
pub(super) fn printable(sign: char) -> bool {
    matches!(sign, '"' | '\'' | '\\') || !format!("{:?}", String::from_iter(['a', sign])).contains("\\")
}

fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for sign in text.chars() {
        match sign {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if sign == quote => out.extend(['\\', sign]),
            ' '..='~' => out.push(sign),
            _ if printable(sign) => out.push(sign),
            _ => escaped(sign, out),
        }
    }
    out.push(quote);
}

fn escaped(sign: char, out: &mut String) {
    let code = u32::from(sign);
    let _ = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// What Python's `ascii` gives.
pub(super) fn ascii(value: &Value) -> String {
    let mut out = String::new();
    for sign in repr(value).chars() {
        if sign.is_ascii() { out.push(sign) } else { escaped(sign, &mut out) }
    }
    out
}

/// How Python orders two values; it refuses those of different types.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Ordering> {
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(match (a, b) {
            (Number::Whole(a), Number::Whole(b)) => a.cmp(&b),
            _ => a.real().partial_cmp(&b.real()).unwrap_or(Ordering::Greater),
        });
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(a.cmp(b));
    }
    if !["list", "tuple"].contains(&type_name(a)) || type_name(a) != type_name(b) {
        return Err(refused(format!("values of type {} and {} have no order", type_name(a), type_name(b))));
    }
    let (mut left, mut right) = (a.try_iter()?, b.try_iter()?);
    loop {
        match (left.next(), right.next()) {
            (Some(x), Some(y)) if x == y => {}
            (Some(x), Some(y)) => return compare(&x, &y),
            (x, y) => return Ok(x.is_some().cmp(&y.is_some())),
        }
    }
}

/// Puts values into Python's order by their keys, equal ones as they stood. With `lists` the keys are compared as lists
/// are, in which what is equal needs no order.
pub(super) fn sorted(mut keyed: Vec<(Vec<Value>, Value)>, reverse: bool, lists: bool) -> Result<Vec<Value>> {
    let mut wrong = None;
    keyed.sort_by(|a, b| {
        let all = a.0.iter().zip(&b.0).map(|(a, b)| if lists && a == b { Ok(Ordering::Equal) } else { compare(a, b) });
        let order = all.clone().find(|order| !matches!(order, Ok(Ordering::Equal))).unwrap_or(Ok(Ordering::Equal));
        let order = order.unwrap_or_else(|error| {
            wrong = Some(error);
            Ordering::Equal
        });
        if reverse { order.reverse() } else { order }
    });
    match wrong {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, value)| value).collect()),
    }
}
