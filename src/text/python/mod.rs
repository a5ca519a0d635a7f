//! What chat templates take from Python and from Jinja in Python, where Jinja in Rust means something else: values as
//! they are printed and compared, operators, methods, filters and tests.

mod arguments;
mod checks;
mod containers;
mod dates;
mod filters;
mod format;
mod json;
mod letters;
mod lookups;
mod macros;
mod markup;
mod numbers;
pub(super) mod operators;
mod text;
mod turns;
mod values;
mod words;

pub(super) use containers::part_of_range;
pub(super) use dates::Date;
pub(super) use lookups::{alike, special};
pub(super) use values::{shown, type_name};

use std::sync::Arc;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, State};
use values::Result;

/// Asks, before they are made, whether so many bytes may be made at once.
pub(super) type Room = dyn Fn(usize) -> Result<()> + Send + Sync;
pub(super) type SharedRoom = Arc<Room>;

/// The function that a tuple in a template's source becomes a call of.
pub(super) const TUPLE: &str = "__tuple__";
/// The function that hides a constant from the compiler, which would else compute with it.
pub(super) const ITSELF: &str = "__itself__";

/// The function that is given each macro; not an identifier, so no template can name or replace it.
pub(super) const MACRO: &str = "(macro)";

/// Whether a value is a row whose entries are there already.
pub(super) fn is_row(value: &Value) -> bool {
    values::kind_of(value).is_some()
}

/// A bound of a slice.
pub(super) fn place(value: &Value) -> Result<i128> {
    match values::number(value) {
        Some(values::Number::Whole(n)) => Ok(n.clamp(i64::MIN.into(), i64::MAX.into())),
        _ => Err(values::refused(format!("a slice's bounds are whole numbers, not of type {}", type_name(value)))),
    }
}

/// Gives an environment Python's meaning.
pub(super) fn install(environment: &mut Environment<'_>, room: &SharedRoom) {
    operators::install(environment, room);
    filters::install(environment, room);
    checks::install(environment);
    environment.add_function(TUPLE, |items: Rest<Value>| values::tuple(items.0));
    environment.add_function(ITSELF, |value: Value| value);
    environment.add_function(MACRO, macros::wrapped);
    environment.add_function("range", |args: Rest<Value>| containers::range(&args));
    environment.add_function("namespace", |args: Rest<Value>| {
        let (places, named) = arguments::split(&args)?;
        if let Some((name, _)) = named.iter().find(|(name, _)| name.starts_with('_')) {
            return Err(values::refused(format!("{name} begins with an underscore, so a namespace cannot hold it")));
        }
        let first = places.first().cloned().map_or_else(Vec::new, |first| vec![first]);
        let named = (!named.is_empty()).then(|| Value::from(minijinja::value::Kwargs::from_iter(named)));
        let all = containers::dict(&first.into_iter().chain(named).collect::<Vec<_>>())?;
        minijinja::functions::namespace(Some(all))
    });
    environment.add_function("cycler", |args: Rest<Value>| turns::cycler(&args));
    environment.add_function("joiner", |args: Rest<Value>| turns::joiner(&args));
    environment.add_function("lipsum", |_: Rest<Value>| -> Result<Value> {
        Err(values::refused("the function lipsum is not supported in templates"))
    });
    environment.add_global("dict", Value::from_object(containers::Dict));
    let r = room.clone();
    environment.set_unknown_method_callback(move |_: &State<'_, '_>, value, method, args| {
        containers::call(value, method, args, &*r)
    });
}
