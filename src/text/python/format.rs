//! Formatting: `'%5.1f' % x` and `'{:>5}'.format(x)`.

use minijinja::value::Value;

use super::Room;
use super::arguments::split;
use super::lookups::attribute;
use super::values::{Number, Result, ascii, float, kind_of, number, refused, repr, shown, type_name};

/// Widest field and most digits.
const WIDEST: usize = 9999;

/// How one value is written.
#[derive(Clone, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn wide(n: usize) -> Result<usize> {
    match n {
        n if n > WIDEST => {
            Err(refused(format!("a format's width or precision is too large; up to {WIDEST} are possible")))
        }
        n => Ok(n),
    }
}

/// Reads the digits at the beginning of a text.
fn digits(text: &mut &str) -> Result<Option<usize>> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    match number {
        "" => Ok(None),
        _ => wide(number.parse().unwrap_or(usize::MAX)).map(Some),
    }
}

/// Takes a sign off the beginning of a text, if it is one of `signs`.
fn take(text: &mut &str, signs: &str) -> Option<char> {
    let first = text.chars().next().filter(|c| signs.contains(*c))?;
    *text = &text[first.len_utf8()..];
    Some(first)
}

impl Spec {
    /// Writes the digits of a number, whose sign is apart.
    fn number(&self, negative: bool, prefix: &str, digits: &str) -> String {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let whole = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let whole = if matches!(self.kind, Some('x' | 'X')) {
            digits.len()
        } else {
            digits.find(['.', 'e', 'E']).unwrap_or(whole)
        };
        let every = if matches!(self.kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 };
        let zeros = self.fill == Some('0') && self.align == Some('=');
        let mut grouped =
            self.group.map_or(digits.to_owned(), |mark| grouped(&digits[..whole], every, mark) + &digits[whole..]);
        let own = sign.len() + prefix.len();
        // Zeros in front belong to the number and are grouped with it.
        if let (true, Some(mark)) = (zeros, self.group) {
            let mut front = digits[..whole].to_owned();
            while own + grouped.chars().count() < self.width {
                front.insert(0, '0');
                grouped = self::grouped(&front, every, mark) + &digits[whole..];
            }
        }
        let fill = self.width.saturating_sub(own + grouped.chars().count());
        match self.align {
            Some('=') => {
                let fill: String = std::iter::repeat_n(self.fill.unwrap_or(' '), fill).collect();
                format!("{sign}{prefix}{fill}{grouped}")
            }
            _ => self.padded(&format!("{sign}{prefix}{grouped}"), '>'),
        }
    }

    fn padded(&self, text: &str, usual: char) -> String {
        let fill = self.width.saturating_sub(text.chars().count());
        let left = match self.align.unwrap_or(usual) {
            '<' => 0,
            '^' => fill / 2,
            _ => fill,
        };
        let row = |n: usize| std::iter::repeat_n(self.fill.unwrap_or(' '), n);
        row(left).chain(text.chars()).chain(row(fill - left)).collect()
    }

    fn text(&self, text: &str) -> String {
        match self.precision {
            Some(n) => self.padded(&text.chars().take(n).collect::<String>(), '<'),
            None => self.padded(text, '<'),
        }
    }

    fn whole(&self, n: i128) -> Result<String> {
        let size = n.unsigned_abs();
        let (prefix, digits) = match self.kind {
            Some('x') => ("0x", format!("{size:x}")),
            Some('X') => ("0X", format!("{size:X}")),
            Some('o') => ("0o", format!("{size:o}")),
            Some('b') => ("0b", format!("{size:b}")),
            Some('c') => {
                let sign = u32::try_from(n).ok().and_then(char::from_u32);
                return sign
                    .map(|c| self.padded(&c.to_string(), '<'))
                    .ok_or_else(|| refused(format!("there is no sign {n}")));
            }
            _ => ("", size.to_string()),
        };
        Ok(self.number(n < 0, if self.alternate { prefix } else { "" }, &digits))
    }

    fn real(&self, x: f64) -> String {
        let precision = self.precision.unwrap_or(6);
        let size = x.abs();
        let upper = self.kind.is_some_and(char::is_uppercase);
        let mut digits = match self.kind {
            _ if size.is_nan() => "nan".to_owned(),
            _ if size.is_infinite() => "inf".to_owned(),
            Some('f' | 'F') => format!("{size:.precision$}"),
            Some('%') => format!("{:.precision$}", size * 100.0),
            Some('e' | 'E') => exponent(size, precision),
            None if self.precision.is_none() => float(size),
            None => general(size, precision, self.alternate, true),
            _ => general(size, precision, self.alternate, false),
        };
        if self.alternate && !digits.contains('.') {
            let at = digits.find('e').unwrap_or(digits.len());
            digits.insert(at, '.');
        }
        if upper {
            digits.make_ascii_uppercase();
        }
        if self.kind == Some('%') {
            digits.push('%');
        }
        self.number(x.is_sign_negative() && !x.is_nan(), "", &digits)
    }
}

fn grouped(digits: &str, every: usize, mark: char) -> String {
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(every) {
            out.push(mark);
        }
        out.push(digit);
    }
    out
}

fn exponent(size: f64, precision: usize) -> String {
    let short = format!("{size:.precision$e}");
    let (digits, n) = short.split_once('e').unwrap_or((&short, "0"));
    let n: i32 = n.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs())
}

/// C's `%g`; `pointed` keeps one digit behind the point, as Python does for a precision without a letter.
fn general(size: f64, precision: usize, alternate: bool, pointed: bool) -> String {
    let precision = precision.max(1);
    let long = exponent(size, precision - 1);
    let (digits, n) = long.split_once('e').unwrap_or((&long, "0"));
    let n: i64 = n.parse().unwrap_or(0);
    let bare = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let last = precision as i64 - i64::from(pointed);
    if n < -4 || n >= last.max(i64::from(!pointed)) {
        return format!("{}e{}{:02}", bare(digits), if n < 0 { '-' } else { '+' }, n.abs());
    }
    let behind = (precision as i64 - 1 - n).max(0) as usize;
    let text = bare(&format!("{size:.behind$}"));
    if pointed && !text.contains('.') { text + ".0" } else { text }
}

/// `format % values`.
pub(super) fn percent(format: &str, values: &Value, room: &Room) -> Result<String> {
    let places: Option<Vec<Value>> = match kind_of(values) {
        Some(super::values::Kind::Tuple | super::values::Kind::Group) => Some(values.try_iter()?.collect()),
        _ => None,
    };
    let mut next = places.as_deref().unwrap_or(std::slice::from_ref(values)).iter();
    let (mut out, mut rest, mut keyed) = (String::new(), format, false);
    let few = || refused("a format has more places than values");
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut key = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = inner.find(')').ok_or_else(|| refused("a format's name does not end"))?;
            if super::values::namespace(values) {
                return Err(refused("a format's names are keys of a dict, not of a namespace"));
            }
            key = Some(values.get_item(&Value::from(&inner[..end]))?);
            keyed = true;
            rest = &inner[end + 1..];
        }
        let mut spec = Spec::default();
        while let Some(flag) = take(&mut rest, "#0- +") {
            match flag {
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                '-' => spec.align = Some('<'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                _ => spec.sign = Some('+'),
            }
        }
        let mut counted = |rest: &mut &str| -> Result<Option<i64>> {
            match take(rest, "*") {
                None => Ok(digits(rest)?.map(|n| n as i64)),
                Some(_) => super::arguments::whole("a format's *", &Some(next.next().ok_or_else(few)?.clone())),
            }
        };
        let width = counted(&mut rest)?.unwrap_or(0);
        if width < 0 {
            spec.align = Some('<');
        }
        spec.width = wide(width.unsigned_abs() as usize)?;
        if take(&mut rest, ".").is_some() {
            spec.precision = Some(wide(counted(&mut rest)?.unwrap_or(0).max(0) as usize)?);
        }
        while take(&mut rest, "hlL").is_some() {}
        let kind = rest.chars().next().ok_or_else(|| refused("a format ends within a place"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match &key {
            Some(value) if value.is_undefined() => return Err(refused("a format names a key that is missing")),
            Some(value) => value,
            None => next.next().ok_or_else(few)?,
        };
        let written = one_percent(&mut spec, kind, value)?;
        room(out.len() + written.len())?;
        out.push_str(&written);
    }
    let mapping = values.kind() == minijinja::value::ValueKind::Map;
    if next.next().is_some() && !keyed && !(places.is_none() && mapping) {
        return Err(refused("a format has fewer places than values"));
    }
    Ok(out + rest)
}

fn one_percent(spec: &mut Spec, kind: char, value: &Value) -> Result<String> {
    let wrong = |what: &str| refused(format!("%{kind} expects {what}, not a value of type {}", type_name(value)));
    let usual = spec.align;
    spec.kind = Some(kind);
    if spec.zero && spec.align.is_none() && !matches!(kind, 's' | 'r' | 'a' | 'c') {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    Ok(match kind {
        's' | 'r' | 'a' => {
            let text = match kind {
                's' => shown(value),
                'r' => repr(value),
                _ => ascii(value),
            };
            spec.align = usual.or(Some('>'));
            spec.text(&text)
        }
        'c' => {
            spec.align = usual.or(Some('>'));
            match value.as_str() {
                Some(text) if text.chars().count() == 1 => spec.padded(text, '>'),
                Some(_) => return Err(wrong("one sign")),
                None => match number(value) {
                    Some(Number::Whole(n)) => spec.whole(n)?,
                    _ => return Err(wrong("one sign")),
                },
            }
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let n = match number(value) {
                Some(Number::Whole(n)) => n,
                Some(Number::Real(x)) if x.is_finite() && matches!(kind, 'd' | 'i' | 'u') => x.trunc() as i128,
                _ => return Err(wrong("a whole number")),
            };
            let least = spec.precision.unwrap_or(0);
            let digits = match kind {
                'x' => format!("{:x}", n.unsigned_abs()),
                'X' => format!("{:X}", n.unsigned_abs()),
                'o' => format!("{:o}", n.unsigned_abs()),
                _ => n.unsigned_abs().to_string(),
            };
            let zeros: String = std::iter::repeat_n('0', least.saturating_sub(digits.len())).collect();
            let prefix = match kind {
                'x' => "0x",
                'X' => "0X",
                'o' => "0o",
                _ => "",
            };
            spec.number(n < 0, if spec.alternate { prefix } else { "" }, &(zeros + &digits))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match number(value) {
            Some(x) => spec.real(x.real()),
            None => return Err(wrong("a number")),
        },
        _ => return Err(refused(format!("a format has no place of kind %{kind}"))),
    })
}

/// `format.format(*args)`.
pub(super) fn braces(format: &str, args: &[Value], room: &Room) -> Result<String> {
    let (places, named) = split(args)?;
    let values = Fields { places, named: &named, room };
    let mut counter = Counter::Unknown;
    values.fill(format, &mut counter, 0)
}

/// Whether fields are counted by themselves or by numbers in them; one format has one way.
enum Counter {
    Unknown,
    Next(usize),
    Given,
}

struct Fields<'a> {
    places: &'a [Value],
    named: &'a [(String, Value)],
    room: &'a Room,
}

impl Fields<'_> {
    fn fill(&self, format: &str, counter: &mut Counter, depth: usize) -> Result<String> {
        let (mut out, mut rest) = (String::new(), format);
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let (brace, behind) = rest[at..].split_at(1);
            if behind.starts_with(brace) {
                out.push_str(brace);
                rest = &behind[1..];
                continue;
            }
            if brace == "}" || depth > 1 {
                return Err(refused("a format has a brace without its counterpart"));
            }
            let mut open = 1;
            let end = behind.find(|c| {
                open += i32::from(c == '{') - i32::from(c == '}');
                open == 0
            });
            let end = end.ok_or_else(|| refused("a format has a brace without its counterpart"))?;
            let written = self.field(&behind[..end], counter, depth)?;
            (self.room)(out.len() + written.len())?;
            out.push_str(&written);
            rest = &behind[end + 1..];
        }
        Ok(out + rest)
    }

    fn field(&self, field: &str, counter: &mut Counter, depth: usize) -> Result<String> {
        let mut within = false;
        let end = field.find(|c| {
            within = c == '[' || within && c != ']';
            !within && matches!(c, '!' | ':')
        });
        let (path, rest) = field.split_at(end.unwrap_or(field.len()));
        let value = self.value(path, counter)?;
        let (how, spec) = match rest.strip_prefix('!') {
            Some(rest) => (rest.chars().next(), rest.get(1..).unwrap_or_default()),
            None => (None, rest),
        };
        let value = match how {
            None => value,
            Some('s') => Value::from(shown(&value)),
            Some('r') => Value::from(repr(&value)),
            Some('a') => Value::from(ascii(&value)),
            Some(other) => return Err(refused(format!("a format has no conversion !{other}"))),
        };
        match spec.strip_prefix(':') {
            Some(spec) => formatted(&value, &self.fill(spec, counter, depth + 1)?),
            None if spec.is_empty() => formatted(&value, ""),
            None => Err(refused("a format expects ':' behind a conversion")),
        }
    }

    fn value(&self, path: &str, counter: &mut Counter) -> Result<Value> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, mut rest) = path.split_at(end);
        let at = match (name.parse::<usize>(), &*counter) {
            (Ok(n), Counter::Unknown | Counter::Given) => {
                *counter = Counter::Given;
                Some(n)
            }
            (Err(_), Counter::Unknown) if name.is_empty() => {
                *counter = Counter::Next(1);
                Some(0)
            }
            (Err(_), Counter::Next(n)) if name.is_empty() => {
                let n = *n;
                *counter = Counter::Next(n + 1);
                Some(n)
            }
            (Err(_), _) if !name.is_empty() => None,
            _ => return Err(refused("a format counts its places in two ways")),
        };
        let found = match at {
            Some(n) => self.places.get(n).cloned(),
            None => self.named.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()),
        };
        let mut value = found.ok_or_else(|| refused(format!("a format names {path}, which is not given")))?;
        while !rest.is_empty() {
            let wrong = || refused(format!("a format's field {path} cannot be read"));
            if let Some(inner) = rest.strip_prefix('[') {
                let end = inner.find(']').ok_or_else(wrong)?;
                let key = inner[..end].parse::<usize>().map_or_else(|_| Value::from(&inner[..end]), Value::from);
                value = value.get_item(&key)?;
                rest = &inner[end + 1..];
            } else {
                let inner = rest.strip_prefix('.').ok_or_else(wrong)?;
                let end = inner.find(['.', '[']).unwrap_or(inner.len());
                value = attribute(&value, &inner[..end])?;
                rest = &inner[end..];
            }
        }
        Ok(value)
    }
}

/// What Python's `format(value, spec)` gives.
fn formatted(value: &Value, text: &str) -> Result<String> {
    if text.is_empty() {
        return Ok(shown(value));
    }
    let wrong = || refused(format!("a value of type {} has no format {text:?}", type_name(value)));
    let (mut spec, mut rest) = (Spec::default(), text);
    let mut signs = text.chars();
    let (first, second) = (signs.next(), signs.next());
    if second.is_some_and(|c| "<>=^".contains(c)) {
        (spec.fill, spec.align) = (first, second);
        rest = signs.as_str();
    } else if let Some(align) = take(&mut rest, "<>=^") {
        spec.align = Some(align);
    }
    spec.sign = take(&mut rest, "+- ");
    spec.alternate = take(&mut rest, "#").is_some();
    if take(&mut rest, "0").is_some() {
        spec.fill = spec.fill.or(Some('0'));
        spec.align = spec.align.or(Some('='));
        spec.zero = true;
    }
    spec.width = digits(&mut rest)?.unwrap_or(0);
    spec.group = take(&mut rest, ",_");
    if take(&mut rest, ".").is_some() {
        spec.precision = Some(digits(&mut rest)?.ok_or_else(wrong)?);
    }
    spec.kind = rest.chars().next();
    if rest.chars().count() > 1 {
        return Err(wrong());
    }
    match number(value) {
        Some(Number::Whole(n)) => match spec.kind {
            None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c') if spec.precision.is_none() => spec.whole(n),
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => Ok(spec.real(n as f64)),
            _ => Err(wrong()),
        },
        Some(Number::Real(x)) => match spec.kind {
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%') => Ok(spec.real(x)),
            _ => Err(wrong()),
        },
        None => match value.as_str() {
            Some(_) if spec.sign.is_some() || spec.alternate || spec.group.is_some() => Err(wrong()),
            Some(text) if matches!(spec.kind, None | Some('s')) && (spec.align != Some('=') || spec.zero) => {
                if spec.zero && spec.align == Some('=') {
                    spec.align = Some('<');
                }
                Ok(spec.text(text))
            }
            // Other values know no format but the empty one.
            _ => Err(wrong()),
        },
    }
}
