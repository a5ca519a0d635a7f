//! Jinja's filters with Python's meaning.

use std::collections::HashSet;

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};

use super::arguments::{bind, split, truth, whole, whole_or_none};
use super::format::percent;
use super::values::{
    Kind, Number, Result, Row, compare, entries, kind_of, lengthless, namespace, number, refused, shown, sorted, tuple,
    type_name, weight,
};
use super::{Room, SharedRoom, json, lookups, markup, numbers, operators, text, words};

type Filter = fn(&State<'_, '_>, &[Value], &Room) -> Result<Value>;

/// Filters of Jinja that lay out pages or draw at random, which no conversation needs.
const LEFT_OUT: [&str; 5] = ["pprint", "random", "striptags", "urlize", "wordwrap"];

pub(super) fn install(environment: &mut Environment<'_>, room: &SharedRoom) {
    let all: [(&'static str, Filter); 49] = [
        ("abs", |_, args, _| numbers::absolute(args)),
        ("attr", |_, args, _| attr(args)),
        ("batch", |_, args, room| batch(args, room)),
        ("capitalize", |_, args, room| method("capitalize", args, room)),
        ("center", |_, args, room| center(args, room)),
        ("count", |_, args, _| length(args)),
        ("d", |_, args, _| default(args)),
        ("default", |_, args, _| default(args)),
        ("dictsort", |_, args, _| dictsort(args)),
        ("e", |_, args, room| markup::escape(args, room)),
        ("escape", |_, args, room| markup::escape(args, room)),
        ("filesizeformat", |_, args, _| numbers::file_size(args)),
        ("first", |_, args, _| end("first", args)),
        ("float", |_, args, _| numbers::float(args)),
        ("forceescape", |_, args, room| markup::escape(args, room)),
        ("format", |_, args, room| format(args, room)),
        ("groupby", |_, args, _| groupby(args)),
        ("indent", |_, args, room| words::indent(args, room)),
        ("int", |_, args, _| numbers::int(args)),
        ("items", |_, args, _| items(args)),
        ("join", |_, args, room| join(args, room)),
        ("last", |_, args, _| end("last", args)),
        ("length", |_, args, _| length(args)),
        ("list", |_, args, _| list("list", args).map(Value::from)),
        ("lower", |_, args, room| method("lower", args, room)),
        ("map", map),
        ("max", |_, args, _| extreme("max", args)),
        ("min", |_, args, _| extreme("min", args)),
        ("reject", |state, args, room| select(state, "reject", args, room)),
        ("rejectattr", |state, args, room| select(state, "rejectattr", args, room)),
        ("replace", |_, args, room| replace(args, room)),
        ("reverse", |_, args, _| reverse(args)),
        ("round", |_, args, _| numbers::round(args)),
        ("safe", |_, args, _| Ok(Value::from_safe_string(shown(&one("safe", args)?)))),
        ("select", |state, args, room| select(state, "select", args, room)),
        ("selectattr", |state, args, room| select(state, "selectattr", args, room)),
        ("slice", |_, args, room| slice(args, room)),
        ("sort", |_, args, _| sort(args)),
        ("string", |_, args, _| one("string", args).map(|value| shown(&value).into())),
        ("sum", |_, args, room| sum(args, room)),
        ("title", |_, args, _| Ok(words::title(&shown(&one("title", args)?)).into())),
        ("tojson", |_, args, room| json::to_json(args, room)),
        ("trim", |_, args, room| trim(args, room)),
        ("truncate", |_, args, _| words::truncate(args)),
        ("unique", |_, args, _| unique(args)),
        ("upper", |_, args, room| method("upper", args, room)),
        ("urlencode", |_, args, room| markup::address(args, room)),
        ("wordcount", |_, args, _| Ok(words::count(&shown(&one("wordcount", args)?)).into())),
        ("xmlattr", |_, args, room| markup::attributes(args, room)),
    ];
    for (name, filter) in all {
        let room = room.clone();
        environment.add_filter(name, move |state: &State<'_, '_>, args: Rest<Value>| {
            let strict = state.env().undefined_behavior() == UndefinedBehavior::Strict;
            match strict && !matches!(name, "d" | "default") && args.first().is_some_and(Value::is_undefined) {
                true => Err(ErrorKind::UndefinedError.into()),
                false => filter(state, &args, &*room),
            }
        });
    }
    for name in LEFT_OUT {
        environment.add_filter(name, move |_: Rest<Value>| -> Result<Value> {
            Err(refused(format!("the filter {name} is not supported in templates")))
        });
    }
}

/// The only argument of a filter.
fn one(what: &str, args: &[Value]) -> Result<Value> {
    bind(what, args, ["value"], 1).map(|[value]| value.unwrap_or_default())
}

/// The entries of the only argument.
fn list(what: &str, args: &[Value]) -> Result<Vec<Value>> {
    entries(what, &one(what, args)?)
}

/// The entries of the first argument, of which there are none where it counts as false.
fn entries_or_none(what: &str, args: &[Value]) -> Result<Vec<Value>> {
    args.first().filter(|value| value.is_true()).map_or_else(|| Ok(Vec::new()), |value| entries(what, value))
}

fn generator(items: Vec<Value>) -> Value {
    Row::value(Kind::Generator, items)
}

/// A method of a text as a filter, which takes any value as text.
fn method(name: &str, args: &[Value], room: &Room) -> Result<Value> {
    Ok(text::call(&shown(&one(name, args)?), name, &[], room)?.unwrap_or_default())
}

fn trim(args: &[Value], room: &Room) -> Result<Value> {
    let [value, signs] = bind("trim", args, ["value", "chars"], 1)?;
    let signs: Vec<Value> = signs.into_iter().collect();
    Ok(text::call(&shown(&value.unwrap_or_default()), "strip", &signs, room)?.unwrap_or_default())
}

fn center(args: &[Value], room: &Room) -> Result<Value> {
    let [value, width] = bind("center", args, ["value", "width"], 1)?;
    let width = width.unwrap_or_else(|| 80.into());
    Ok(text::call(&shown(&value.unwrap_or_default()), "center", &[width], room)?.unwrap_or_default())
}

fn replace(args: &[Value], room: &Room) -> Result<Value> {
    let [value, old, new, count] = bind("replace", args, ["s", "old", "new", "count"], 3)?;
    let [value, old, new] = [value, old, new].map(|value| shown(&value.unwrap_or_default()));
    let count = whole_or_none("replace", &count)?.unwrap_or(-1);
    text::replaced(&value, &old, &new, count, room).map(Value::from)
}

fn format(args: &[Value], room: &Room) -> Result<Value> {
    let (places, named) = split(args)?;
    let Some((format, places)) = places.split_first() else { return Err(refused("format expects a text")) };
    if !places.is_empty() && !named.is_empty() {
        return Err(refused("format takes arguments by place or by name, not both"));
    }
    let values = if named.is_empty() { tuple(places) } else { named.into_iter().collect() };
    percent(&shown(format), &values, room).map(Value::from)
}

fn length(args: &[Value]) -> Result<Value> {
    let value = one("length", args)?;
    match value.kind() {
        ValueKind::Undefined => Ok(0.into()),
        _ if value.as_str().is_some() => Ok(shown(&value).chars().count().into()),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map if !lengthless(&value) => {
            Ok(value.len().unwrap_or(0).into())
        }
        _ => Err(refused(format!("a value of type {} has no length", type_name(&value)))),
    }
}

fn default(args: &[Value]) -> Result<Value> {
    let [value, default, boolean] = bind("default", args, ["value", "default_value", "boolean"], 1)?;
    let value = value.unwrap_or_default();
    let missing = value.is_undefined() || truth(&boolean) && !value.is_true();
    Ok(if missing { default.unwrap_or_else(|| "".into()) } else { value })
}

fn attr(args: &[Value]) -> Result<Value> {
    let [value, name] = bind("attr", args, ["obj", "name"], 2)?;
    let (value, name) = (value.unwrap_or_default(), name.unwrap_or_default());
    // An attribute is no entry in Python, and of attributes a template may see none but methods.
    let found = lookups::attribute(&value, name.as_str().unwrap_or_default())?;
    let entry = value.kind() == ValueKind::Map && found.kind() != ValueKind::Plain && !namespace(&value);
    Ok(if entry { Value::UNDEFINED } else { found })
}

/// Reads a path such as `name.0.x` from each entry, as `map(attribute=…)` does.
fn path(value: &Value, attribute: &Value, default: &Option<Value>) -> Result<Value> {
    let mut value = value.clone();
    let text = attribute.as_str();
    let parts: Vec<Value> = match text {
        Some(text) => text.split('.').map(|p| p.parse::<u32>().map_or_else(|_| p.into(), Value::from)).collect(),
        None => vec![attribute.clone()],
    };
    for part in parts {
        value = lookups::item(&value, &part)?;
        if let (true, Some(default)) = (value.is_undefined(), default.as_ref().filter(|default| !default.is_none())) {
            value = default.clone();
        }
    }
    Ok(value)
}

fn folded(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => text.to_lowercase().into(),
        _ => value,
    }
}

fn sort(args: &[Value]) -> Result<Value> {
    let [value, reverse, case, attribute] = bind("sort", args, ["v", "reverse", "case_sensitive", "attribute"], 1)?;
    let attributes: Vec<Value> = match &attribute {
        Some(list) if list.as_str().is_some() => shown(list).split(',').map(Value::from).collect(),
        Some(other) if !other.is_none() => vec![other.clone()],
        _ => Vec::new(),
    };
    let keys = |item: &Value| -> Result<Vec<Value>> {
        match attributes.is_empty() {
            true => Ok(vec![folded(item.clone(), truth(&case))]),
            false => attributes.iter().map(|a| Ok(folded(path(item, a, &None)?, truth(&case)))).collect(),
        }
    };
    let items = entries("sort", &value.unwrap_or_default())?;
    let keyed = items.into_iter().map(|item| Ok((keys(&item)?, item))).collect::<Result<_>>()?;
    // Attributes are compared as lists are: what is equal, though it has no order, is passed over.
    sorted(keyed, truth(&reverse), !attributes.is_empty()).map(Value::from)
}

fn dictsort(args: &[Value]) -> Result<Value> {
    let [value, case, by, reverse] = bind("dictsort", args, ["value", "case_sensitive", "by", "reverse"], 1)?;
    let value = value.unwrap_or_default();
    if value.kind() != ValueKind::Map || namespace(&value) {
        return Err(refused(format!("dictsort expects a dict, not a value of type {}", type_name(&value))));
    }
    let by_value = match by.as_ref().map_or("key", |by| by.as_str().unwrap_or_default()) {
        "key" => false,
        "value" => true,
        _ => return Err(refused("dictsort sorts by 'key' or by 'value'")),
    };
    let mut keyed = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        let order = folded(if by_value { item.clone() } else { key.clone() }, truth(&case));
        keyed.push((vec![order], tuple([key, item])));
    }
    sorted(keyed, truth(&reverse), false).map(Value::from)
}

fn extreme(name: &str, args: &[Value]) -> Result<Value> {
    let [value, case, attribute] = bind(name, args, ["value", "case_sensitive", "attribute"], 1)?;
    let mut best: Option<(Value, Value)> = None;
    for item in entries(name, &value.unwrap_or_default())? {
        let key = match &attribute {
            Some(attribute) => path(&item, attribute, &None)?,
            None => item.clone(),
        };
        let key = folded(key, truth(&case));
        let better = match &best {
            None => true,
            Some((_, most)) if name == "max" => compare(&key, most)?.is_gt(),
            Some((_, least)) => compare(&key, least)?.is_lt(),
        };
        if better {
            best = Some((item, key));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(item, _)| item))
}

fn unique(args: &[Value]) -> Result<Value> {
    let [value, case, attribute] = bind("unique", args, ["value", "case_sensitive", "attribute"], 1)?;
    let (mut seen, mut kept) = (HashSet::new(), Vec::new());
    for item in entries("unique", &value.unwrap_or_default())? {
        let key = match &attribute {
            Some(attribute) => path(&item, attribute, &None)?,
            None => item.clone(),
        };
        let key = folded(key, truth(&case));
        if lookups::without_hash(&key) {
            return Err(refused(format!("unique: a {} cannot be compared", type_name(&key))));
        }
        // 1, 1.0 and True are one value.
        let known = match number(&key) {
            Some(Number::Real(x)) if x.fract() != 0.0 || x.abs() > 1e15 => super::values::float(x),
            Some(Number::Real(x)) => (x as i128).to_string(),
            Some(Number::Whole(n)) => n.to_string(),
            None => super::values::repr(&key),
        };
        if seen.insert(known) {
            kept.push(item);
        }
    }
    Ok(generator(kept))
}

fn reverse(args: &[Value]) -> Result<Value> {
    let value = one("reverse", args)?;
    if let Some(text) = value.as_str() {
        return Ok(text.chars().rev().collect::<String>().into());
    }
    let mut items = entries("reverse", &value)?;
    items.reverse();
    // What cannot be walked through from its end is made a list.
    Ok(if kind_of(&value) == Some(Kind::Generator) { items.into() } else { generator(items) })
}

fn end(name: &str, args: &[Value]) -> Result<Value> {
    let value = one(name, args)?;
    if name == "last" && kind_of(&value) == Some(Kind::Generator) {
        return Err(refused("last: a generator has no end to begin at; make it a list"));
    }
    let items = entries(name, &value)?;
    Ok(if name == "first" { items.first() } else { items.last() }.cloned().unwrap_or_default())
}

fn items(args: &[Value]) -> Result<Value> {
    let value = one("items", args)?;
    match value.kind() {
        ValueKind::Undefined => Ok(generator(Vec::new())),
        ValueKind::Map if !namespace(&value) => {
            let pair = |key: Value| Ok(tuple([key.clone(), value.get_item(&key)?]));
            value.try_iter()?.map(pair).collect::<Result<_>>().map(generator)
        }
        _ => Err(refused(format!("items expects a dict, not a value of type {}", type_name(&value)))),
    }
}

fn join(args: &[Value], room: &Room) -> Result<Value> {
    let [value, separator, attribute] = bind("join", args, ["value", "d", "attribute"], 1)?;
    let separator = separator.map_or_else(String::new, |separator| shown(&separator));
    let items = entries("join", &value.unwrap_or_default())?;
    room(items.len().saturating_mul(separator.len()))?;
    let separators = items.len() * separator.len();
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let item = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            Some(attribute) => shown(&path(item, attribute, &None)?),
            None => shown(item),
        };
        room(out.len() + item.len() + separators)?;
        out.push_str(if i > 0 { &separator } else { "" });
        out.push_str(&item);
    }
    Ok(out.into())
}

fn sum(args: &[Value], room: &Room) -> Result<Value> {
    let [value, attribute, start] = bind("sum", args, ["iterable", "attribute", "start"], 1)?;
    let mut sum = start.unwrap_or_else(|| 0.into());
    if sum.as_str().is_some() {
        return Err(refused("sum cannot add texts"));
    }
    let mut total = 0usize;
    for item in entries("sum", &value.unwrap_or_default())? {
        let item = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            Some(attribute) => path(&item, attribute, &None)?,
            None => item,
        };
        sum = operators::add(&sum, &item, room)?;
        total = total.saturating_add(sum.len().unwrap_or(0).saturating_mul(size_of::<Value>()));
        room(total)?;
    }
    Ok(sum)
}

fn map(state: &State<'_, '_>, args: &[Value], room: &Room) -> Result<Value> {
    let (places, named) = split(args)?;
    let items = entries_or_none("map", places)?;
    let option = |name: &str| named.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let mapped = match (places.get(1), option("attribute")) {
        (None, Some(attribute)) => {
            let default = option("default");
            if let Some((other, _)) = named.iter().find(|(key, _)| key != "attribute" && key != "default") {
                return Err(refused(format!("map has no argument named {other}")));
            }
            items.iter().map(|item| path(item, &attribute, &default)).collect::<Result<_>>()?
        }
        (Some(filter), _) => {
            let filter = filter.as_str().ok_or_else(|| refused("map expects the name of a filter"))?;
            let mut total = 0usize;
            let apply = |item: &Value| {
                let args = std::iter::once(item).chain(&args[2..]).cloned().collect::<Vec<_>>();
                let mapped = state.apply_filter(filter, &args)?;
                total = total.saturating_add(weight(&mapped));
                room(total)?;
                Ok(mapped)
            };
            items.iter().map(apply).collect::<Result<_>>()?
        }
        _ => return Err(refused("map expects a filter or an attribute")),
    };
    Ok(generator(mapped))
}

/// `select`, `reject`, `selectattr` and `rejectattr`.
fn select(state: &State<'_, '_>, name: &str, args: &[Value], room: &Room) -> Result<Value> {
    let (keep, by_attribute) = (name.starts_with("select"), name.ends_with("attr"));
    let (places, _) = split(args)?;
    let items = entries_or_none(name, places)?;
    let attribute = args.get(1).filter(|_| by_attribute);
    if by_attribute && attribute.is_none() {
        return Err(refused(format!("{name} expects an attribute")));
    }
    let rest = &args[(1 + usize::from(by_attribute)).min(args.len())..];
    let mut kept = Vec::new();
    for item in items {
        // Each test may take long, so the time is looked at.
        room(0)?;
        let value = match attribute {
            Some(attribute) => path(&item, attribute, &None)?,
            None => item.clone(),
        };
        let passed = match rest.split_first() {
            None => value.is_true(),
            Some((test, more)) => {
                let test = test.as_str().ok_or_else(|| refused(format!("{name} expects the name of a test")))?;
                let args = std::iter::once(&value).chain(more).cloned().collect::<Vec<_>>();
                state.perform_test(test, &args)?
            }
        };
        if passed == keep {
            kept.push(item);
        }
    }
    Ok(generator(kept))
}

fn groupby(args: &[Value]) -> Result<Value> {
    let [value, attribute, default, case] =
        bind("groupby", args, ["value", "attribute", "default", "case_sensitive"], 2)?;
    let attribute = attribute.unwrap_or_default();
    let read = |item: Value| Ok((path(&item, &attribute, &default)?, item));
    let items = entries("groupby", &value.unwrap_or_default())?.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    let keyed = items.into_iter().map(|(key, item)| (vec![folded(key.clone(), truth(&case))], tuple([key, item])));
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for pair in sorted(keyed.collect(), false, false)? {
        let (key, item) = (pair.get_item_by_index(0)?, pair.get_item_by_index(1)?);
        let order = folded(key.clone(), truth(&case));
        match groups.last_mut().filter(|group| lookups::equal(&group.0, &order)) {
            Some(group) => group.2.push(item),
            None => groups.push((order, key, vec![item])),
        }
    }
    Ok(groups.into_iter().map(|(_, key, items)| Row::value(Kind::Group, vec![key, items.into()])).collect())
}

fn batch(args: &[Value], room: &Room) -> Result<Value> {
    let [value, size, fill] = bind("batch", args, ["value", "linecount", "fill_with"], 2)?;
    let items = entries("batch", &value.unwrap_or_default())?;
    // A row is full where its length equals the size, which no other value does.
    let size = match size.as_ref().and_then(number) {
        Some(Number::Whole(n)) if n >= 0 => usize::try_from(n).unwrap_or(usize::MAX),
        Some(Number::Real(x)) if x >= 0.0 && x.fract() == 0.0 => x as usize,
        _ if fill.as_ref().is_some_and(|fill| !fill.is_none()) => {
            return Err(refused("batch: rows are filled up to a whole number of entries"));
        }
        _ => usize::MAX,
    };
    if size == 0 {
        // The empty batch counts as full before the first entry, and none after it does.
        let none: Vec<Value> = Vec::new();
        return Ok(generator(if items.is_empty() { none } else { vec![none.into(), items.into()] }));
    }
    let mut rows: Vec<Vec<Value>> = items.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(last), Some(fill)) = (rows.last_mut(), fill.filter(|fill| !fill.is_none())) {
        room((size - last.len()).saturating_mul(size_of::<Value>()))?;
        last.resize(size, fill);
    }
    Ok(generator(rows.into_iter().map(Value::from).collect()))
}

fn slice(args: &[Value], room: &Room) -> Result<Value> {
    let [value, count, fill] = bind("slice", args, ["value", "slices", "fill_with"], 2)?;
    let count = whole("slice", &count)?.unwrap_or(0);
    let items = entries("slice", &value.unwrap_or_default())?;
    if count == 0 {
        return Err(refused("slice: division by zero"));
    }
    let Ok(count) = usize::try_from(count) else { return Ok(generator(Vec::new())) };
    room(count.saturating_mul(2 * size_of::<Value>()))?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let fill = fill.filter(|fill| !fill.is_none());
    let (mut rest, mut rows) = (&items[..], Vec::new());
    for i in 0..count {
        let (row, behind) = rest.split_at(each + usize::from(i < longer));
        let more = fill.clone().filter(|_| i >= longer);
        rows.push(row.iter().cloned().chain(more).collect::<Vec<_>>().into());
        rest = behind;
    }
    Ok(generator(rows))
}
