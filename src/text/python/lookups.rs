//! Attributes, entries and membership with Python's meaning.

use minijinja::value::{Value, ValueKind};

use super::values::{Kind, Method, Result, Row, kind_of, namespace, refused, type_name};

/// The methods of a dict.
pub(super) const MAP: [&str; 11] =
    ["items", "keys", "values", "get", "copy", "fromkeys", "pop", "popitem", "update", "setdefault", "clear"];

/// Whether an attribute's name means more than an entry of that name.
pub(crate) fn special(name: &str) -> bool {
    MAP.contains(&name)
}

/// A list or a tuple, as `model` is one.
pub(crate) fn alike(model: &Value, items: Vec<Value>) -> Value {
    match kind_of(model) {
        Some(Kind::Tuple | Kind::Group) => Row::value(Kind::Tuple, items),
        _ => Value::from(items),
    }
}

/// `a == b`; a tuple is not equal to a list.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    let apart = a.kind() == ValueKind::Seq && b.kind() == ValueKind::Seq && type_name(a) != type_name(b);
    !apart && a == b
}

/// Whether a value has no hash in Python, so that it can be neither a key nor an entry of a set.
pub(super) fn without_hash(value: &Value) -> bool {
    match type_name(value) {
        "list" | "dict" | "dict_keys" | "dict_items" => true,
        "tuple" => value.try_iter().is_ok_and(|mut items| items.any(|item| without_hash(&item))),
        _ => false,
    }
}

/// `value in container`.
pub(super) fn contains(container: &Value, value: &Value) -> Result<bool> {
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => match (container.as_str(), value.as_str()) {
            (Some(text), Some(part)) => Ok(text.contains(part)),
            _ => Err(refused(format!("a text holds texts only, not a value of type {}", type_name(value)))),
        },
        _ if namespace(container) => Err(refused("a namespace holds attributes only")),
        ValueKind::Map if without_hash(value) => Err(refused(format!("a {} is no key of a dict", type_name(value)))),
        ValueKind::Map => Ok(container.as_object().is_some_and(|map| map.get_value(value).is_some())),
        ValueKind::Seq | ValueKind::Iterable => Ok(container.try_iter()?.any(|one| equal(&one, value))),
        _ => Err(refused(format!("a value of type {} holds nothing", type_name(container)))),
    }
}

fn method(value: &Value, name: &str) -> Option<Value> {
    let known = value.kind() == ValueKind::Map && !namespace(value) && special(name);
    known.then(|| Method::value(value, name))
}

/// `value.name`: methods go before entries of the same name.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value> {
    method(value, name).map_or_else(|| value.get_attr(name), Ok)
}

/// `value[key]`: entries go before methods of the same name.
pub(super) fn item(value: &Value, key: &Value) -> Result<Value> {
    if let (ValueKind::Seq | ValueKind::String, ValueKind::Bool) = (value.kind(), key.kind()) {
        return value.get_item(&Value::from(i64::from(key.is_true())));
    }
    let found = value.get_item(key)?;
    match key.as_str().filter(|_| found.is_undefined()) {
        Some(name) if special(name) => attribute(value, name),
        _ => Ok(found),
    }
}
