//! A validator for the part of JSON Schema that `schemas/` uses.

use serde_json::Value;
use std::path::Path;

/// A schema by its file's stem.
pub fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Whether `value` holds to `schema`; the error says where it does not. A
/// keyword that this does not know is an error too.
pub fn validate(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let Some(rules) = schema.as_object() else { return Err(format!("{at}: the schema is no object")) };
    for (keyword, rule) in rules {
        match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" => {}
            "$ref" => {
                let name = rule.as_str().unwrap_or_default().trim_end_matches(".json");
                validate(&self::schema(name), value, at)?;
            }
            "anyOf" => {
                let tried = rule.as_array().into_iter().flatten().map(|one| validate(one, value, at));
                let failed: Vec<String> = tried.filter_map(Result::err).collect();
                if failed.len() == rule.as_array().map_or(0, Vec::len) {
                    return Err(failed.join("; or "));
                }
            }
            "type" => {
                let allowed: Vec<&str> = match rule {
                    Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                if !allowed.iter().any(|t| is(value, t)) {
                    return Err(format!("{at}: {value} is not {}", allowed.join(" or ")));
                }
            }
            "required" => {
                for key in rule.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.is_object() && value.get(key).is_none() {
                        return Err(format!("{at}: {key} is missing"));
                    }
                }
            }
            "properties" => {
                for (key, inner) in rule.as_object().into_iter().flatten() {
                    if let Some(found) = value.get(key) {
                        validate(inner, found, &format!("{at}.{key}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                for (key, found) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|k| !k.contains_key(key)) {
                        match rule {
                            Value::Bool(true) => {}
                            Value::Bool(false) => return Err(format!("{at}: {key} is not in the schema")),
                            inner => validate(inner, found, &format!("{at}.{key}"))?,
                        }
                    }
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, item, &format!("{at}[{i}]"))?;
                }
            }
            "enum" => {
                if !rule.as_array().is_some_and(|list| list.contains(value)) {
                    return Err(format!("{at}: {value} is not one of {rule}"));
                }
            }
            "minimum" | "maximum" => {
                if let (Some(v), Some(limit)) = (value.as_f64(), rule.as_f64())
                    && (if keyword == "minimum" { v < limit } else { v > limit })
                {
                    return Err(format!("{at}: {v} is beyond the {keyword} {limit}"));
                }
            }
            other => return Err(format!("{at}: the validator does not know {other:?}")),
        }
    }
    Ok(())
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}
