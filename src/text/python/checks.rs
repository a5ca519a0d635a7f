//! Jinja's tests (`x is …`) with Python's meaning.

use minijinja::Environment;
use minijinja::value::{Value, ValueKind};

use super::values::{Kind, Number, Result, compare, kind_of, namespace, number, refused, shown, type_name};
use super::{letters, lookups};

/// Every filter of Jinja in Python.
#[rustfmt::skip]
const FILTERS: [&str; 54] = [
    "abs", "attr", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape",
    "filesizeformat", "first", "float", "forceescape", "format", "groupby", "indent", "int", "items", "join", "last",
    "length", "list", "lower", "map", "max", "min", "pprint", "random", "reject", "rejectattr", "replace", "reverse",
    "round", "safe", "select", "selectattr", "slice", "sort", "string", "striptags", "sum", "title", "tojson", "trim",
    "truncate", "unique", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
];

/// Every test of Jinja in Python.
#[rustfmt::skip]
const TESTS: [&str; 39] = [
    "!=", "<", "<=", "==", ">", ">=", "boolean", "callable", "defined", "divisibleby", "eq", "equalto", "escaped",
    "even", "false", "filter", "float", "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan",
    "lower", "lt", "mapping", "ne", "none", "number", "odd", "sameas", "sequence", "string", "test", "true",
    "undefined", "upper",
];

fn known(name: &Value, all: &[&str]) -> Result<bool> {
    match lookups::without_hash(name) {
        true => Err(refused(format!("a {} is no name", type_name(name)))),
        false => Ok(name.as_str().is_some_and(|name| all.contains(&name))),
    }
}

pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_test("iterable", iterable);
    environment.add_test("sequence", sequence);
    environment.add_test("mapping", |value: Value| type_name(&value) == "dict");
    environment.add_test("string", |value: Value| value.as_str().is_some());
    environment.add_test("boolean", |value: Value| value.kind() == ValueKind::Bool);
    environment.add_test("number", |value: Value| number(&value).is_some());
    environment.add_test("integer", |value: Value| type_name(&value) == "int");
    environment.add_test("float", |value: Value| type_name(&value) == "float");
    environment.add_test("true", |value: Value| value.kind() == ValueKind::Bool && value.is_true());
    environment.add_test("false", |value: Value| value.kind() == ValueKind::Bool && !value.is_true());
    environment.add_test("callable", |value: Value| matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined));
    environment.add_test("filter", |value: Value| known(&value, &FILTERS));
    environment.add_test("test", |value: Value| known(&value, &TESTS));
    environment.add_test("escaped", |value: Value| value.is_safe());
    environment.add_test("odd", |value: Value| Ok::<_, minijinja::Error>(rest(&value, &Value::from(2))? == 1.0));
    environment.add_test("even", |value: Value| Ok::<_, minijinja::Error>(rest(&value, &Value::from(2))? == 0.0));
    environment.add_test("divisibleby", |value: Value, by: Value| Ok::<_, minijinja::Error>(rest(&value, &by)? == 0.0));
    environment.add_test("lower", |value: Value| letters::test(&shown(&value), "islower"));
    environment.add_test("upper", |value: Value| letters::test(&shown(&value), "isupper"));
    environment.add_test("sameas", same);
    environment.add_test("in", |value: Value, container: Value| lookups::contains(&container, &value));
    for name in ["eq", "equalto", "=="] {
        environment.add_test(name, |a: Value, b: Value| lookups::equal(&a, &b));
    }
    for name in ["ne", "!="] {
        environment.add_test(name, |a: Value, b: Value| !lookups::equal(&a, &b));
    }
    for name in ["lt", "lessthan", "<"] {
        environment.add_test(name, |a: Value, b: Value| compare(&a, &b).map(|order| order.is_lt()));
    }
    for name in ["le", "<="] {
        environment.add_test(name, |a: Value, b: Value| compare(&a, &b).map(|order| order.is_le()));
    }
    for name in ["gt", "greaterthan", ">"] {
        environment.add_test(name, |a: Value, b: Value| compare(&a, &b).map(|order| order.is_gt()));
    }
    for name in ["ge", ">="] {
        environment.add_test(name, |a: Value, b: Value| compare(&a, &b).map(|order| order.is_ge()));
    }
}

fn iterable(value: Value) -> bool {
    let kind = value.kind();
    if namespace(&value) {
        return false;
    }
    matches!(kind, ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

fn sequence(value: Value) -> bool {
    match kind_of(&value) {
        Some(kind) => matches!(kind, Kind::Tuple | Kind::Group | Kind::Range(..)),
        None => iterable(value),
    }
}

fn rest(value: &Value, by: &Value) -> Result<f64> {
    match (number(value), number(by)) {
        (Some(_), Some(by)) if by.real() == 0.0 => Err(refused("division by zero")),
        (Some(Number::Whole(x)), Some(Number::Whole(by))) => Ok(x.rem_euclid(by) as f64),
        (Some(x), Some(by)) => Ok(x.real().rem_euclid(by.real())),
        _ => Err(refused(format!("values of type {} and {} have no rest", type_name(value), type_name(by)))),
    }
}

/// Whether two values are one: what is equal and of one type counts as such.
fn same(a: Value, b: Value) -> bool {
    type_name(&a) == type_name(&b) && a == b && !a.is_undefined()
}
