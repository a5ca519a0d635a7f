//! The arguments of an instruction, taken by name and type.

use serde_json::{Map, Value};

/// What an instruction is told. Those that are null count as absent, as in files that list all names with each.
pub(super) struct Arguments<'a> {
    given: Vec<(&'a String, &'a Value)>,
    taken: Vec<&'static str>,
}

/// How a count must stand to a number.
pub(super) struct Relation {
    less: bool,
    number: u64,
}

impl Relation {
    /// In words, why `count` does not hold to it; `None` where it does.
    pub(super) fn miss(&self, count: usize, what: &str) -> Option<String> {
        let (number, name) = (self.number, if self.less { "less than" } else { "at least" });
        (((count as u64) < number) != self.less).then(|| format!("{count} {what}, wanted {name} {number}"))
    }
}

impl<'a> Arguments<'a> {
    pub(super) fn new(given: &'a Map<String, Value>) -> Self {
        Self { given: given.iter().filter(|(_, value)| !value.is_null()).collect(), taken: Vec::new() }
    }

    fn take(&mut self, name: &'static str) -> Result<&'a Value, String> {
        self.taken.push(name);
        let found = self.given.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| *value);
        found.ok_or_else(|| format!("has no argument {name:?} in kwargs"))
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &'static str) -> Result<String, String> {
        match self.take(name)? {
            Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
            other => Err(wrong(name, other, "a text")),
        }
    }

    /// A list of texts, none empty.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, String> {
        let value = self.take(name)?;
        let text = |entry: &Value| entry.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let list = value.as_array().and_then(|list| list.iter().map(text).collect::<Option<Vec<_>>>());
        list.filter(|list| !list.is_empty()).ok_or_else(|| wrong(name, value, "a list of texts"))
    }

    /// A whole number from 0.
    pub(super) fn count(&mut self, name: &'static str) -> Result<u64, String> {
        let value = self.take(name)?;
        // Some copies of the files have all numbers with a point.
        let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 1e15).then_some(x as u64);
        value.as_u64().or_else(|| value.as_f64().and_then(whole)).ok_or_else(|| wrong(name, value, "a whole number"))
    }

    /// A relation by its words, to a number.
    pub(super) fn relation(&mut self, relation: &'static str, number: &'static str) -> Result<Relation, String> {
        let value = self.take(relation)?;
        let less = match value.as_str() {
            Some("less than") => true,
            Some("at least") => false,
            _ => return Err(wrong(relation, value, "\"less than\" or \"at least\"")),
        };
        Ok(Relation { less, number: self.count(number)? })
    }

    /// Names an argument that nothing took.
    pub(super) fn finish(&self) -> Result<(), String> {
        match self.given.iter().find(|(key, _)| !self.taken.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) if self.taken.is_empty() => Err(format!("takes no arguments, but kwargs have {key:?}")),
            Some((key, _)) => Err(format!("takes {}, but kwargs have {key:?}", self.taken.join(", "))),
        }
    }
}

fn wrong(name: &str, value: &Value, wanted: &str) -> String {
    let shown: String = value.to_string().chars().take(60).collect();
    format!("{name} is {shown}; expected {wanted}")
}
