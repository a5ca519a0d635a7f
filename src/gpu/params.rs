//! The parameters of a launch: each is sent under the name that the shader's `struct Params` gives it, and another
//! name, number, order or type is refused before anything runs.

use crate::{Error, Result};

/// Bytes of one launch's parameters: WebGPU's largest alignment of a uniform's dynamic offset.
pub(super) const SLOT: usize = 256;

/// What a launch sends for one parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// A count or an index, for a `u32`; the launch refuses one that 32 bits do not hold.
    Size(usize),
    /// Any other `u32`.
    Word(u32),
    /// An `f32`.
    Float(f32),
    /// All words of a `vec2u`, a `vec4u` or an array of `vec4u`.
    Words(&'a [u32]),
}

/// A parameter's name and value.
pub(crate) type Param<'a> = (&'static str, Value<'a>);

impl Value<'_> {
    fn fits(&self, parameter: &Parameter) -> bool {
        match self {
            Value::Size(_) | Value::Word(_) => parameter.kind == "u32",
            Value::Float(_) => parameter.kind == "f32",
            Value::Words(all) => !["u32", "f32"].contains(&parameter.kind.as_str()) && all.len() == parameter.words,
        }
    }

    /// As a message says it.
    fn kind(&self) -> String {
        match self {
            Value::Size(_) | Value::Word(_) => "u32".into(),
            Value::Float(_) => "f32".into(),
            Value::Words(all) => format!("{} words", all.len()),
        }
    }
}

/// A member of a shader's `struct Params`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name of the member.
    pub name: String,
    /// Type of the member in WGSL: `u32`, `f32`, `vec2u`, `vec4u` or `array<vec4u, N>`.
    pub kind: String,
    /// How many 32-bit words the member takes.
    pub words: usize,
}

/// The members of the `struct Params` of a text that [`super::Source::wgsl`] gave, in their order; a member is one
/// line.
///
/// # Errors
/// A member of a type that launches cannot send, or that lies behind a gap.
pub fn parameters(text: &str) -> Result<Vec<Parameter>> {
    let body = text.split_once("struct Params {").and_then(|(_, rest)| rest.split_once('}'));
    let lines = body.map_or("", |(body, _)| body).lines();
    let members = lines.map(|line| line.split("//").next().unwrap_or_default().trim()).filter(|l| !l.is_empty());
    let all: Vec<Parameter> = members.map(parameter).collect::<Result<_>>()?;
    let mut words = 0;
    for p in &all {
        // WGSL aligns a vector to its size, and words are sent without gaps.
        if words % p.words.min(4) != 0 {
            return Err(Error::Bug(format!("there is a gap before the parameter '{}'", p.name)));
        }
        words += p.words;
    }
    Ok(all)
}

fn parameter(member: &str) -> Result<Parameter> {
    let unknown = || Error::Bug(format!("a launch cannot send the parameter '{member}'"));
    let (name, kind) = member.trim_end_matches(',').split_once(": ").ok_or_else(unknown)?;
    let words = match kind {
        "u32" | "f32" => 1,
        "vec2u" => 2,
        "vec4u" => 4,
        _ => {
            let count = kind.strip_prefix("array<vec4u, ").and_then(|rest| rest.strip_suffix('>'));
            4 * count.and_then(|n| n.parse::<usize>().ok()).ok_or_else(unknown)?
        }
    };
    Ok(Parameter { name: name.into(), kind: kind.into(), words })
}

/// Compares what a launch sends with what its shader declares; `launch` names both in the error.
pub(super) fn check(launch: impl Fn() -> String, declared: &[Parameter], sent: &[Param]) -> Result<()> {
    let same = |(d, (name, value)): (&Parameter, &Param)| d.name == *name && value.fits(d);
    if declared.len() == sent.len() && declared.iter().zip(sent).all(same) {
        return Ok(());
    }
    let first = declared.iter().zip(sent).take_while(|pair| same(*pair)).count();
    let declared = declared.get(first).map_or("no more".into(), |d| format!("'{}: {}'", d.name, d.kind));
    let sent = sent.get(first).map_or("no more".into(), |(name, value)| format!("'{name}' ({})", value.kind()));
    let number = first + 1;
    Err(Error::Bug(format!("{}: for parameter {number} the shader has {declared}, the launch sends {sent}", launch())))
}

/// Refuses a size that 32 bits do not hold.
pub(super) fn check_sizes(launch: impl Fn() -> String, sent: &[Param]) -> Result<()> {
    let large = sent.iter().find_map(|(name, value)| match value {
        Value::Size(n) if u32::try_from(*n).is_err() => Some((name, n)),
        _ => None,
    });
    let Some((name, n)) = large else { return Ok(()) };
    Err(Error::Input(format!("{}: {name} is {n}, more than 32 bits hold; use a smaller batch", launch())))
}

/// The words one after another, as bytes; sizes were checked before.
pub(super) fn append(bytes: &mut Vec<u8>, sent: &[Param]) {
    for (_, value) in sent {
        match value {
            Value::Size(n) => bytes.extend_from_slice(&(*n as u32).to_ne_bytes()),
            Value::Word(word) => bytes.extend_from_slice(&word.to_ne_bytes()),
            Value::Float(x) => bytes.extend_from_slice(&x.to_ne_bytes()),
            Value::Words(all) => bytes.extend_from_slice(bytemuck::cast_slice(all)),
        }
    }
}
