//! The methods of Python's lists, tuples and dicts that leave them as they are, and its `range` and `dict`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::arguments::{bind, place, split, whole};
use super::lookups::{MAP, equal, without_hash};
use super::values::{Kind, Result, Row, kind_of, namespace, number, refused, tuple, type_name};
use super::{Room, text};

/// Longest range, which is that of the reference.
const RANGE: i64 = 100_000;

/// What would change a list or a dict.
const CHANGES: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "add",
];

/// Calls a method of a value that has none of its own.
pub(super) fn call(value: &Value, name: &str, args: &[Value], room: &Room) -> Result<Value> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if let Some(own) = value.as_str() {
        return text::call(own, name, args, room)?.ok_or_else(unknown);
    }
    let rows = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map);
    if rows && CHANGES.contains(&name) && value.get_attr(name).is_ok_and(|entry| entry.is_undefined()) {
        return Err(refused(format!("{name} would change a {}, which templates cannot", type_name(value))));
    }
    match (type_name(value), name) {
        ("dict", _) => map(value, name, args)?.ok_or_else(unknown),
        ("list" | "tuple" | "range", "count") => {
            let [what] = bind(name, args, ["value"], 1)?;
            let what = what.unwrap_or_default();
            Ok(value.try_iter()?.filter(|one| equal(one, &what)).count().into())
        }
        ("list" | "tuple" | "range", "index") => {
            let [what, from, to] = bind(name, args, ["value", "start", "stop"], 1)?;
            let (what, n) = (what.unwrap_or_default(), value.len().unwrap_or(0));
            let (from, to) = (place(whole(name, &from)?, n, 0), place(whole(name, &to)?, n, n));
            let found = value.try_iter()?.enumerate().find(|(i, one)| (from..to).contains(i) && equal(one, &what));
            found.map(|(i, _)| i.into()).ok_or_else(|| refused("index: the list does not hold the value"))
        }
        ("list", "copy") => bind(name, args, [], 0).map(|_: [_; 0]| value.clone()),
        ("float", "is_integer") => Ok((number(value).is_some_and(|x| x.real().fract() == 0.0)).into()),
        ("int" | "bool", "bit_length") => {
            let size = i128::try_from(value.clone()).map_or(0, i128::unsigned_abs);
            Ok((u128::BITS - size.leading_zeros()).into())
        }
        _ => Err(unknown()),
    }
}

fn map(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>> {
    let entries = || value.try_iter().into_iter().flatten().map(|key| (value.get_item(&key).unwrap_or_default(), key));
    if !matches!(name, "get" | "fromkeys") && MAP.contains(&name) {
        bind(name, args, [], 0)?;
    }
    Ok(Some(match name {
        "keys" => Row::value(Kind::Keys, entries().map(|(_, key)| key).collect()),
        "values" => Row::value(Kind::Values, entries().map(|(value, _)| value).collect()),
        "items" => Row::value(Kind::Items, entries().map(|(value, key)| tuple([key, value])).collect()),
        "copy" => value.clone(),
        "get" => {
            // These have no names in Python.
            if args.last().is_some_and(Value::is_kwargs) {
                return Err(refused("get takes no named arguments"));
            }
            let [key, default] = bind(name, args, ["key", "default"], 1)?;
            let found = value.as_object().and_then(|map| map.get_value(&key.unwrap_or_default()));
            found.unwrap_or_else(|| default.unwrap_or_else(|| ().into()))
        }
        "fromkeys" => from_keys(args)?,
        _ => return Ok(None),
    }))
}

fn from_keys(args: &[Value]) -> Result<Value> {
    let [keys, value] = bind("fromkeys", args, ["keys", "value"], 1)?;
    let value = value.unwrap_or_else(|| ().into());
    let keys = super::values::entries("fromkeys", &keys.unwrap_or_default())?;
    if let Some(key) = keys.iter().find(|key| without_hash(key)) {
        return Err(refused(format!("a {} is no key of a dict", type_name(key))));
    }
    Ok(keys.into_iter().map(|key| (key, value.clone())).collect())
}

/// A slice of a range, which is a range as well; none where the value is none.
pub(crate) fn part_of_range(value: &Value, (first, end): (i128, i128), step: i128) -> Option<Value> {
    let Some(Kind::Range(start, _, by)) = kind_of(value) else { return None };
    let number = |place: i128| Value::from((i128::from(start) + place * i128::from(by)) as i64);
    let step = i64::try_from(step.saturating_mul(by.into())).ok()?;
    range(&[number(first), number(end), step.into()]).ok()
}

/// `range(…)`.
pub(super) fn range(args: &[Value]) -> Result<Value> {
    let [first, second, step] = bind("range", args, ["start", "stop", "step"], 1)?;
    let one = |value: &Option<Value>| whole("range", value);
    let (start, stop) = match one(&second)? {
        None => (0, one(&first)?.unwrap_or(0)),
        Some(stop) => (one(&first)?.unwrap_or(0), stop),
    };
    let step = one(&step)?.unwrap_or(1);
    if step == 0 {
        return Err(refused("range: the step is 0"));
    }
    let way = if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
    let size = i128::from(step).abs();
    let length = ((way + size - 1) / size).max(0);
    if way > 0 && length > i128::from(RANGE) {
        return Err(refused(format!("range: more than {RANGE} numbers")));
    }
    let length = if way > 0 { length as i64 } else { 0 };
    let items = (0..length).map(|i| Value::from(start + i * step)).collect();
    Ok(Row::value(Kind::Range(start, stop, step), items))
}

/// `dict(…)`: of another dict or of pairs, and of named arguments.
pub(super) fn dict(args: &[Value]) -> Result<Value> {
    let (places, named) = split(args)?;
    let mut entries: Vec<(Value, Value)> = Vec::new();
    match places {
        [] => {}
        [one] if one.is_none() || one.is_undefined() || namespace(one) => {
            return Err(refused(format!("dict expects a dict or pairs, not a value of type {}", type_name(one))));
        }
        [one] if one.kind() == ValueKind::Map => {
            for key in one.try_iter()? {
                entries.push((key.clone(), one.get_item(&key)?));
            }
        }
        [pairs] => {
            for pair in pairs.try_iter()? {
                match &pair.try_iter()?.collect::<Vec<_>>()[..] {
                    [key, value] => entries.push((key.clone(), value.clone())),
                    _ => return Err(refused("dict expects pairs")),
                }
            }
        }
        _ => return Err(refused("dict takes at most 1 argument without a name")),
    }
    entries.extend(named.into_iter().map(|(name, value)| (name.into(), value)));
    Ok(entries.into_iter().collect())
}

/// The function `dict`, which has a method as well.
#[derive(Debug)]
pub(super) struct Dict;

impl minijinja::value::Object for Dict {
    fn repr(self: &std::sync::Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn call(self: &std::sync::Arc<Self>, _: &minijinja::State<'_, '_>, args: &[Value]) -> Result<Value> {
        dict(args)
    }
    fn call_method(
        self: &std::sync::Arc<Self>,
        _: &minijinja::State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value> {
        match method {
            "fromkeys" => from_keys(args),
            _ => Err(ErrorKind::UnknownMethod.into()),
        }
    }
}
