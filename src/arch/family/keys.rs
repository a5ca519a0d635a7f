//! config.json's keys, typed.

use serde_json::Value;

use crate::{Error, Result};

/// The keys of an object. A missing key and null are the same, but for those who look into the value itself.
pub(super) struct Keys<'a>(pub(super) &'a Value);

impl<'a> Keys<'a> {
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it null: then a class's default does not apply.
    pub(super) fn is_there(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    pub(super) fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(Error::Input(format!("{key}: expected {expected}, found {value}"))),
            },
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "text", Value::as_str)
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number, not negative", |v| usize::try_from(v.as_u64()?).ok())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A size whose default a class has for a missing key, but not for null.
    pub(super) fn size_or(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        Ok(self.size(key)?.or(default.filter(|_| !self.is_there(key))))
    }
}
