//! Macros that take more than they name.

use std::sync::Arc;

use minijinja::State;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Value};

use super::arguments::split;
use super::values::{Result, refused, tuple};

/// A macro with a parameter `varargs` or `kwargs`, which gets what no other parameter takes.
#[derive(Debug)]
struct Open {
    own: Value,
    /// The parameters that the template names itself.
    names: Vec<String>,
    varargs: bool,
    kwargs: bool,
}

/// A macro as it is called: the one that was built, or one that takes more.
pub(super) fn wrapped(own: Value) -> Value {
    let names =
        own.get_attr("arguments").and_then(|names| Ok(names.try_iter()?.collect::<Vec<_>>())).unwrap_or_default();
    let mut names: Vec<String> = names.iter().map(super::shown).collect();
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    let (varargs, kwargs) = (has(&names, "varargs"), has(&names, "kwargs"));
    if !varargs && !kwargs {
        return own;
    }
    names.retain(|name| name != "varargs" && name != "kwargs");
    Value::from_object(Open { own, names, varargs, kwargs })
}

impl Object for Open {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str() {
            Some("arguments") => Some(tuple(self.names.iter().map(Value::from).collect::<Vec<_>>())),
            _ => self.own.as_object()?.get_value(key),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value> {
        let (places, named) = split(args)?;
        let (taken, rest) = places.split_at(places.len().min(self.names.len()));
        if !rest.is_empty() && !self.varargs {
            return Err(refused(format!("the macro takes at most {} arguments", self.names.len())));
        }
        let (known, others): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|(name, _)| name == "caller" || self.names.contains(name));
        if let Some((name, _)) = others.first().filter(|_| !self.kwargs) {
            return Err(refused(format!("the macro has no argument named {name}")));
        }
        let mut all = known;
        if self.varargs {
            all.push(("varargs".to_owned(), tuple(rest)));
        }
        if self.kwargs {
            all.push(("kwargs".to_owned(), others.into_iter().collect()));
        }
        let all = all.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let args: Vec<Value> = taken.iter().cloned().chain([Kwargs::from_iter(all).into()]).collect();
        self.own.call(state, &args)
    }
}
