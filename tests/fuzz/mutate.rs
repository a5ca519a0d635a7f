//! Mutations of valid files: of any bytes, and such as know a format, since a broken byte alone seldom gets behind the
//! first check. All are a pure function of the stream of random numbers.

use selfreward::rng::Stream;
use serde_json::{Map, Value, json};

/// What a file is made of.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    Json,
    JsonLines,
    Safetensors,
    Gguf,
    Toml,
    Jinja,
}

/// `seed` changed in one to four places.
pub(crate) fn mutate(format: Format, seed: &[u8], draw: &mut Stream) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..draw.between(1, 4) {
        // One in four knows nothing of the format.
        if draw.below(4) == 0 {
            bytes(&mut out, draw);
            continue;
        }
        match format {
            Format::Json => out = json(&out, draw).unwrap_or(out),
            Format::JsonLines => lines(&mut out, draw),
            Format::Safetensors => safetensors(&mut out, draw),
            Format::Gguf => gguf(&mut out, draw),
            Format::Toml => toml(&mut out, draw),
            Format::Jinja => jinja(&mut out, draw),
        }
    }
    // Copies of copies would only cost time.
    out.truncate(seed.len() + (1 << 20));
    out
}

fn word(draw: &mut Stream) -> u64 {
    u64::from(draw.bits()) << 32 | u64::from(draw.bits())
}

/// Numbers at which counts, lengths and offsets break.
fn number(draw: &mut Stream) -> u64 {
    const EDGES: [u64; 20] = [
        0,
        1,
        2,
        3,
        7,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0xff_ffff,
        1 << 28,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 32,
        1 << 40,
        1 << 53,
        u64::MAX / 4 + 1,
        u64::MAX / 2,
        u64::MAX - 7,
        u64::MAX,
    ];
    let edge = EDGES[draw.below(EDGES.len())];
    match draw.below(4) {
        0 => edge.wrapping_add(draw.below(17) as u64).wrapping_sub(8),
        1 => word(draw) >> draw.below(64),
        _ => edge,
    }
}

/// Mutations that know nothing of the format.
fn bytes(out: &mut Vec<u8>, draw: &mut Stream) {
    if out.is_empty() {
        out.push(draw.bits() as u8);
        return;
    }
    // Heads are where formats decide; half of the changes go there.
    let reach = if draw.below(2) == 0 { out.len().min(256) } else { out.len() };
    let at = draw.below(reach);
    let length = draw.between(1, 64).min(out.len() - at);
    match draw.below(9) {
        0 => out[at] ^= 1 << draw.below(8),
        1 => out[at] = *draw.choose(b"\0\x01\x7f\x80\xff {}[]\",:\n").unwrap_or(&0),
        2 => out.truncate(at),
        3 => drop(out.drain(at..at + length)),
        4 => {
            let block = out[at..at + length].to_vec();
            let to = draw.below(out.len());
            out.splice(to..to, block);
        }
        5 => {
            let block = out[at..at + length].repeat(draw.between(2, 40));
            out.splice(at..at + length, block);
        }
        6 => {
            let value = number(draw).to_le_bytes();
            let width = *draw.choose(&[1, 2, 4, 8]).unwrap_or(&8).min(&(out.len() - at));
            out[at..at + width].copy_from_slice(&value[..width]);
        }
        7 => {
            let digits = number(draw).to_string();
            out.splice(at..at + length.min(3), digits.into_bytes());
        }
        _ => (0..length).for_each(|i| out[at + i] = draw.bits() as u8),
    }
}

/// A value of any kind, most of them unwelcome.
fn hostile(draw: &mut Stream) -> Value {
    let long = |n: usize| "A".repeat(n);
    match draw.below(22) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(number(draw)),
        3 => json!(-(draw.below(1 << 20) as i64)),
        4 => json!(i64::MIN),
        5 => json!(*draw.choose(&[0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1e30, 3.5e38]).unwrap_or(&0.0)),
        6 => json!(""),
        7 => json!(long(draw.between(100, 100_000))),
        8 => json!("\u{0}\u{1}\u{fffd}\u{202e}🦀"),
        9 => json!("../../../../../../../../etc/passwd"),
        10 => json!("/etc/passwd"),
        11 => json!("C:\\windows\\..\\x"),
        12 => json!([]),
        13 => json!({}),
        14 => json!(vec![0; draw.between(1, 5000)]),
        15 => (0..draw.between(2, 400)).fold(json!([]), |inner, _| json!([inner])),
        16 => (0..draw.between(2, 120)).fold(json!({}), |inner, _| json!({ "a": inner })),
        17 => json!("(((((a*)*)*)*)*)*$"),
        18 => json!(".*(?=(a|aa)+b)\\1{999}"),
        19 => json!("{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}"),
        20 => json!(["default", "linear", "llama3", "yarn", "longrope", "dynamic", "sliding_attention"][draw.below(7)]),
        _ => json!(number(draw).to_string()),
    }
}

/// Calls `change` on the `left`-th value in depth-first order.
fn at_value(value: &mut Value, left: &mut usize, change: &mut dyn FnMut(&mut Value)) {
    if *left == 0 {
        change(value);
        *left = usize::MAX;
        return;
    }
    *left -= 1;
    let mut inner = |v: &mut Value| {
        if *left != usize::MAX {
            at_value(v, left, change);
        }
    };
    match value {
        Value::Array(list) => list.iter_mut().for_each(&mut inner),
        Value::Object(entries) => entries.values_mut().for_each(&mut inner),
        _ => {}
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// A JSON document with one value changed; None where it is none any more.
fn json(text: &[u8], draw: &mut Stream) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(text).ok()?;
    let mut place = match draw.below(2) {
        // Near the top, where the settings are.
        0 => draw.below(count(&document).min(40)),
        _ => draw.below(count(&document)),
    };
    let mut twice = false;
    at_value(&mut document, &mut place, &mut |value| match (draw.below(8), &mut *value) {
        (0, Value::Object(entries)) => {
            let key = draw.choose(&entries.keys().cloned().collect::<Vec<_>>()).cloned();
            key.and_then(|key| entries.shift_remove(&key));
        }
        (1, Value::Object(entries)) => {
            let key = draw.choose(&entries.keys().cloned().collect::<Vec<_>>()).cloned().unwrap_or_default();
            let name = format!("{key}{}", *draw.choose(&["", "x", "_scaling", ".weight"]).unwrap_or(&""));
            entries.insert(name, hostile(draw));
        }
        (2, Value::Array(list)) if !list.is_empty() => {
            let one = list[draw.below(list.len())].clone();
            list.extend(vec![one; draw.between(1, 100)]);
        }
        (3, Value::Array(list)) => list.clear(),
        (4, Value::Object(entries)) => {
            let mut all: Vec<(String, Value)> = std::mem::take(entries).into_iter().collect();
            draw.shuffle(&mut all);
            *entries = all.into_iter().collect::<Map<_, _>>();
        }
        (5, Value::Object(_)) => twice = true,
        (6, Value::Number(n)) => *value = json!(n.as_f64().unwrap_or(1.0) * [-1.0, 0.5, 2.0, 1e6][draw.below(4)]),
        (_, value) => *value = hostile(draw),
    });
    let mut out = serde_json::to_string(&document).ok()?;
    if twice && let Some(at) = out.match_indices("{\"").map(|(at, _)| at).nth(draw.below(8)) {
        // A key that is there already.
        let key = out[at + 2..].split('"').next().unwrap_or_default().to_owned();
        out.insert_str(at + 1, &format!("\"{key}\":{},", hostile(draw)));
    }
    Some(out.into_bytes())
}

fn lines(out: &mut Vec<u8>, draw: &mut Stream) {
    let mut all: Vec<Vec<u8>> = out.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let at = draw.below(all.len());
    match draw.below(8) {
        0 => all.insert(at, all[at].clone()),
        1 => drop(all.remove(at)),
        2 => all.insert(at, hostile(draw).to_string().into_bytes()),
        3 => all[at] = vec![b'['; draw.between(1, 3000)],
        _ => all[at] = json(&all[at], draw).unwrap_or_default(),
    }
    *out = all.join(&b'\n');
}

fn safetensors(out: &mut Vec<u8>, draw: &mut Stream) {
    let length = out.first_chunk::<8>().map(|b| u64::from_le_bytes(*b) as usize);
    let header = length.and_then(|n| out.get(8..n.checked_add(8)?)).map(<[u8]>::to_vec);
    let changed = header.as_ref().and_then(|header| json(header, draw));
    match (draw.below(6), header, changed) {
        (0, Some(_), _) => out[..8].copy_from_slice(&number(draw).to_le_bytes()),
        (1, Some(header), _) => {
            // Poison: a NaN, an infinity or a giant among the values.
            let data = 8 + header.len();
            let value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38][draw.below(4)].to_le_bytes();
            let at = data + draw.below((out.len() - data) / 4 + 1) * 4;
            if at + 4 <= out.len() {
                out[at..at + 4].copy_from_slice(&value);
            }
        }
        (_, Some(header), Some(changed)) => {
            out[..8].copy_from_slice(&(changed.len() as u64).to_le_bytes());
            out.splice(8..8 + header.len(), changed);
        }
        _ => bytes(out, draw),
    }
}

/// Where the head of a GGUF file has numbers: offset and width. Ends where the head cannot be followed.
fn gguf_fields(head: &[u8]) -> Vec<(usize, usize)> {
    struct Walk<'a>(&'a [u8], usize, Vec<(usize, usize)>);
    impl Walk<'_> {
        fn number(&mut self, width: usize) -> Option<u64> {
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(self.0.get(self.1..self.1 + width)?);
            self.2.push((self.1, width));
            self.1 += width;
            Some(u64::from_le_bytes(wide))
        }
        fn string(&mut self) -> Option<()> {
            let length = usize::try_from(self.number(8)?).ok()?;
            self.1 = self.1.checked_add(length).filter(|end| *end <= self.0.len())?;
            Some(())
        }
        fn value(&mut self, kind: u64) -> Option<()> {
            match kind {
                0 | 1 | 7 => drop(self.number(1)?),
                2 | 3 => drop(self.number(2)?),
                4..=6 => drop(self.number(4)?),
                10..=12 => drop(self.number(8)?),
                8 => self.string()?,
                9 => {
                    let (kind, length) = (self.number(4)?, self.number(8)?);
                    for _ in 0..length {
                        self.value(kind)?;
                    }
                }
                _ => return None,
            }
            Some(())
        }
        fn head(&mut self) -> Option<()> {
            self.number(4)?;
            let (tensors, values) = (self.number(8)?, self.number(8)?);
            for _ in 0..values {
                self.string()?;
                let kind = self.number(4)?;
                self.value(kind)?;
            }
            for _ in 0..tensors {
                self.string()?;
                for _ in 0..self.number(4)? {
                    self.number(8)?;
                }
                self.number(4)?;
                self.number(8)?;
            }
            Some(())
        }
    }
    let mut walk = Walk(head, 4, Vec::new());
    walk.head();
    walk.2
}

fn gguf(out: &mut Vec<u8>, draw: &mut Stream) {
    let fields = gguf_fields(out);
    let Some(&(at, width)) = draw.choose(&fields) else { return bytes(out, draw) };
    let value = match draw.below(5) {
        // Types are small numbers.
        0 => draw.below(32) as u64,
        1 => u64::from([f32::NAN, f32::INFINITY, -1.0, 0.0, 1e30][draw.below(5)].to_bits()),
        _ => number(draw),
    };
    if draw.below(12) == 0 {
        // Poison in the data.
        let end = out.len();
        let from = fields.last().map_or(0, |(at, width)| at + width);
        let at = (from + draw.below(end - from + 1)).next_multiple_of(4);
        if at + 4 <= end {
            out[at..at + 4].copy_from_slice(&[0xff; 4]);
        }
        return;
    }
    out[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

fn toml(out: &mut Vec<u8>, draw: &mut Stream) {
    let text = String::from_utf8_lossy(out).into_owned();
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    if all.is_empty() {
        return;
    }
    let at = draw.below(all.len());
    let value = match draw.below(10) {
        0 => "nan".into(),
        1 => "-inf".into(),
        2 => "1e999".into(),
        3 => format!("{}1{}", "[".repeat(draw.between(1, 3000)), "]".repeat(draw.between(0, 3000))),
        4 => format!("{{ {} }}", "a.".repeat(draw.between(1, 2000))),
        5 => "2026-01-01T00:00:00Z".into(),
        6 => "'''\n".into(),
        7 => number(draw).to_string(),
        _ => hostile(draw).to_string(),
    };
    match (draw.below(6), all[at].split_once('=').map(|(key, _)| key.to_owned())) {
        (0, _) => all.insert(at, all[at].clone()),
        (1, _) => drop(all.remove(at)),
        (2, _) => all.insert(at, format!("{} = {value}", "a.".repeat(draw.between(1, 500)) + "b")),
        (3, _) => all.insert(at, format!("[{}]", ["model", "dpo", "a.b.c", "[x]", "pairs.by_round"][draw.below(5)])),
        (_, Some(key)) => all[at] = format!("{key}= {value}"),
        _ => all[at] = value,
    }
    *out = all.join("\n").into_bytes();
}

/// What templates are made of, and what they could do harm with.
const PIECES: [&str; 41] = [
    "{{ messages }}",
    "{{ messages | tojson(indent=99999999) }}",
    "{% for a in range(99999) %}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% if x %}",
    "{% endif %}",
    "{% set ns = namespace(x='ab') %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "{% set ns.x = [ns.x, ns.x] %}",
    "{% set ns.x = ns %}{{ ns }}",
    "{{ ns.x }}",
    "{{ 'a' * 99999999 }}",
    "{{ [1] * 999999999 }}",
    "{{ ([1] * 99999999) | list | length }}",
    "{{ ('a' * 99999) | replace('', 'b' * 99999) }}",
    "{{ range(99999) | join('a' * 99999) }}",
    "{{ ('\n' * 99999) | indent(99999) }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ '%.999999999f' % 1 }}",
    "{{ messages[::-1] }}",
    "{{ 'abc'[5:1:-2] }}",
    "{{ messages[-9223372036854775808:] }}",
    "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaa') }}",
    "{% include '/etc/passwd' %}",
    "{% import '../../x' as x %}{% extends 'y' %}",
    "{{ 2 ** 99999999 }}{{ -9223372036854775808 // -1 }}{{ 1 % 0 }}",
    "{{ strftime_now('%Y%Q%999Y%') }}",
    "{{ '%*.*f%(a)s%-#c' % (999999999, 9999, 1) }}",
    "{{ '{:>{}}{[}{0.__class__}'.format(1, 999999999) }}",
    "{{ messages | tojson(indent=99, separators=('aaa', 'b'), sort_keys=true) }}",
    "{{ (messages * 9999) | map('center', 99999) | map('zfill') | list }}",
    "{{ (1, (2,), ()) + ((),) * 99999 }}{% set x = 1, -2 %}",
    "{{ messages | groupby('role') | sort(attribute='0,1') | unique | list }}",
    "{{ 'ǆßİ'.title().casefold().expandtabs(-1).rsplit(none, 1)[-1].center(9, 'é') }}",
    "{{ raise_exception(messages) }}",
    "{{ debug() }}{{ self }}{{ loop }}",
    "{% generation %}",
    "{% set x %}",
    "{{ (((((((((((((((((((((((((((((((((((((((((((((((((",
];

fn jinja(out: &mut Vec<u8>, draw: &mut Stream) {
    let at = draw.below(out.len() + 1);
    let piece = *draw.choose(&PIECES).unwrap_or(&"");
    let digits = |b: &u8| b.is_ascii_digit();
    match (draw.below(5), out.iter().position(digits)) {
        (0, Some(at)) => drop(out.splice(at..=at, number(draw).to_string().into_bytes())),
        (1, _) => {
            let open: Vec<usize> = (0..out.len()).filter(|i| out[*i..].starts_with(b"{%")).collect();
            let at = draw.choose(&open).copied().unwrap_or(at);
            out.splice(at..at, piece.bytes());
        }
        (2, _) => drop(out.splice(at..at, b"(".repeat(draw.between(1, 3000)))),
        _ => drop(out.splice(at..at, piece.bytes())),
    }
}
