//! Arguments of functions, by place or by name, as Python hands them over.

use minijinja::value::{Kwargs, Value, ValueKind};

use super::values::{Number, Result, number, refused, type_name};

/// The arguments of a call in the order of `names`; the first `needed` of them must be there.
pub(super) fn bind<const N: usize>(
    what: &str,
    args: &[Value],
    names: [&str; N],
    needed: usize,
) -> Result<[Option<Value>; N]> {
    let (places, named) = split(args)?;
    if places.len() > N {
        return Err(refused(format!("{what} takes at most {N} arguments, not {}", places.len())));
    }
    let mut bound = std::array::from_fn(|i| places.get(i).cloned());
    for (name, value) in named {
        match names.iter().position(|n| *n == name) {
            Some(i) if bound[i].is_none() => bound[i] = Some(value),
            Some(_) => return Err(refused(format!("{what}: {name} is given twice"))),
            None => return Err(refused(format!("{what} has no argument named {name}"))),
        }
    }
    match (0..needed).find(|i| bound[*i].is_none()) {
        Some(i) => Err(refused(format!("{what}: the argument {} is missing", names[i]))),
        None => Ok(bound),
    }
}

/// Arguments by name.
pub(super) type Named = Vec<(String, Value)>;

/// The arguments by place and those by name.
pub(super) fn split(args: &[Value]) -> Result<(&[Value], Named)> {
    match args.split_last() {
        Some((last, places)) if last.is_kwargs() => {
            let named = Kwargs::try_from(last.clone())?;
            let read = |name: &str| Ok((name.to_owned(), named.get::<Value>(name)?));
            let all = named.args().map(str::to_owned).collect::<Vec<_>>();
            Ok((places, all.iter().map(|name| read(name)).collect::<Result<_>>()?))
        }
        _ => Ok((args, Vec::new())),
    }
}

/// An argument that must be a text, if it is given.
pub(super) fn text<'a>(what: &str, value: &'a Option<Value>) -> Result<Option<&'a str>> {
    match value {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(refused(format!("{what} expects a text, not a value of type {}", type_name(value)))),
        },
    }
}

/// An argument that must be a text, or None.
pub(super) fn text_or_none<'a>(what: &str, value: &'a Option<Value>) -> Result<Option<&'a str>> {
    match value {
        Some(none) if none.is_none() => Ok(None),
        _ => text(what, value),
    }
}

/// An argument that must be a whole number, if it is given.
pub(super) fn whole(what: &str, value: &Option<Value>) -> Result<Option<i64>> {
    let Some(value) = value else { return Ok(None) };
    match number(value) {
        Some(Number::Whole(n)) => Ok(Some(n.clamp(i64::MIN.into(), i64::MAX.into()) as i64)),
        _ => Err(refused(format!("{what} expects a whole number, not a value of type {}", type_name(value)))),
    }
}

/// An argument that must be a whole number, or None.
pub(super) fn whole_or_none(what: &str, value: &Option<Value>) -> Result<Option<i64>> {
    match value {
        Some(none) if none.kind() == ValueKind::None => Ok(None),
        _ => whole(what, value),
    }
}

/// Whether an argument is given and true.
pub(super) fn truth(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

/// The place in a text or list of `n` entries that a bound of a search means.
pub(super) fn place(bound: Option<i64>, n: usize, without: usize) -> usize {
    match bound {
        None => without,
        Some(at) if at < 0 => n.saturating_sub(at.unsigned_abs() as usize),
        Some(at) => at as usize,
    }
}
