//! Jinja's `cycler` and `joiner`, which remember how often they were asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Object, ObjectRepr, Value};
use minijinja::{ErrorKind, State};

use super::arguments::bind;
use super::values::{Result, refused};

/// `cycler(…)`: its values in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

pub(super) fn cycler(args: &[Value]) -> Result<Value> {
    if args.is_empty() || args.last().is_some_and(Value::is_kwargs) {
        return Err(refused("cycler expects at least one value, and none by name"));
    }
    Ok(Value::from_object(Cycler { items: args.to_vec(), at: AtomicUsize::new(0) }))
}

impl Cycler {
    fn current(&self) -> Value {
        self.items.get(self.at.load(Ordering::Relaxed)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &State<'_, '_>, method: &str, args: &[Value]) -> Result<Value> {
        let _: [Option<Value>; 0] = bind(method, args, [], 0)?;
        match method {
            "next" => {
                let current = self.current();
                self.at.store((self.at.load(Ordering::Relaxed) + 1) % self.items.len(), Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(().into())
            }
            _ => Err(ErrorKind::UnknownMethod.into()),
        }
    }
}

/// `joiner(sep=', ')`: nothing when it is called first, then what stands between two parts.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    calls: AtomicUsize,
}

pub(super) fn joiner(args: &[Value]) -> Result<Value> {
    let [separator] = bind("joiner", args, ["sep"], 0)?;
    let separator = separator.unwrap_or_else(|| ", ".into());
    Ok(Value::from_object(Joiner { separator, calls: AtomicUsize::new(0) }))
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &State<'_, '_>, args: &[Value]) -> Result<Value> {
        let _: [Option<Value>; 0] = bind("joiner", args, [], 0)?;
        Ok(if self.calls.fetch_add(1, Ordering::Relaxed) == 0 { "".into() } else { self.separator.clone() })
    }
}
