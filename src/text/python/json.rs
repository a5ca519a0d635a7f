//! Python's `json.dumps`, as the filter `tojson`.

use minijinja::value::{Value, ValueKind};

use super::Room;
use super::arguments::{bind, text, truth};
use super::values::{Result, float, number, refused, type_name};

/// Most blanks for each level of indented JSON.
const MAX_INDENT: i64 = 64;

/// How JSON is laid out.
struct Layout {
    indent: Option<String>,
    comma: String,
    colon: String,
    ascii: bool,
    sorted: bool,
}

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(args: &[Value], room: &Room) -> Result<Value> {
    let names = ["x", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ascii, indent, separators, sorted] = bind("tojson", args, names, 1)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match (indent.as_str(), number(&indent)) {
            (Some(text), _) if text.len() <= MAX_INDENT as usize => text.to_owned(),
            (None, Some(super::values::Number::Whole(n))) if n <= MAX_INDENT.into() => " ".repeat(n.max(0) as usize),
            (None, None) => return Err(refused("tojson: the indent is neither a number nor a text")),
            _ => return Err(refused(format!("tojson: an indent of more than {MAX_INDENT} signs, or no whole number"))),
        }),
    };
    let (mut comma, mut colon) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = separators.filter(|separators| !separators.is_none()) {
        let both: Vec<Option<Value>> = separators.try_iter()?.map(Some).collect();
        let [first, second] = &both[..] else { return Err(refused("tojson: separators are two texts")) };
        comma = text("tojson: separators", first)?.unwrap_or_default().to_owned();
        colon = text("tojson: separators", second)?.unwrap_or_default().to_owned();
    }
    let layout = Layout { indent, comma, colon, ascii: truth(&ascii), sorted: truth(&sorted) };
    let mut out = Writer { layout, text: String::new(), counted: 0, room };
    out.write(&value.unwrap_or_default(), 0)?;
    out.count()?;
    Ok(out.text.into())
}

struct Writer<'a> {
    layout: Layout,
    text: String,
    counted: usize,
    room: &'a Room,
}

impl Writer<'_> {
    /// Asks for the room of what was written.
    fn count(&mut self) -> Result<()> {
        self.counted = self.text.len();
        (self.room)(self.counted)
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.layout.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<()> {
        if self.text.len() - self.counted > 1 << 16 {
            self.count()?;
        }
        match (value.kind(), type_name(value)) {
            (ValueKind::None, _) => self.text.push_str("null"),
            (ValueKind::Bool, _) => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            (ValueKind::Number, "int") => self.text.push_str(&value.to_string()),
            (ValueKind::Number, _) => self.text.push_str(&real(value)),
            (ValueKind::String, _) => self.quoted(value.as_str().unwrap_or_default()),
            (_, "list" | "tuple") => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.text.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.begin(i, depth);
                    self.write(item, depth + 1)?;
                }
                self.end(items.is_empty(), depth, ']');
            }
            (ValueKind::Map, "dict") => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.layout.sorted {
                    keys = super::values::sorted(
                        keys.into_iter().map(|key| (vec![key.clone()], key)).collect(),
                        false,
                        false,
                    )?;
                }
                self.text.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.begin(i, depth);
                    match key.kind() {
                        ValueKind::String => self.quoted(key.as_str().unwrap_or_default()),
                        ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                            self.text.push('"');
                            self.write(key, depth)?;
                            self.text.push('"');
                        }
                        _ => return Err(refused(format!("tojson: a key of type {}", type_name(key)))),
                    }
                    let colon = self.layout.colon.clone();
                    self.text.push_str(&colon);
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.end(keys.is_empty(), depth, '}');
            }
            (_, name) => return Err(refused(format!("tojson: a value of type {name} has no JSON"))),
        }
        Ok(())
    }

    fn begin(&mut self, i: usize, depth: usize) {
        if i > 0 {
            let comma = self.layout.comma.clone();
            self.text.push_str(&comma);
        }
        self.line(depth + 1);
    }

    fn end(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.line(depth);
        }
        self.text.push(bracket);
    }

    fn quoted(&mut self, text: &str) {
        self.text.push('"');
        for sign in text.chars() {
            match sign {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '\0'..='\u{1f}' => self.escaped(sign),
                _ if self.layout.ascii && !sign.is_ascii() => self.escaped(sign),
                _ => self.text.push(sign),
            }
        }
        self.text.push('"');
    }

    fn escaped(&mut self, sign: char) {
        for unit in sign.encode_utf16(&mut [0; 2]) {
            self.text.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

fn real(value: &Value) -> String {
    let x = number(value).map_or(f64::NAN, super::values::Number::real);
    match x {
        _ if x.is_nan() => "NaN".to_owned(),
        _ if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => float(x),
    }
}
