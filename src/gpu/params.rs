//! The parameters of a launch: each is sent under the name that the shader's `struct Params` gives it, and another
//! name, number, order or type is refused before anything runs.

use super::Source;
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

impl Source {
    /// The members of the `struct Params` of a text that [`Source::wgsl`] gave, in their order; a member is one line.
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

#[cfg(test)]
mod tests {
    use super::Value::{Float, Size, Word, Words};
    use super::*;
    use crate::gpu::{Gpu, Launch};

    static SOURCE: Source = Source { name: "named", soft: TEXT, tile: TEXT, libs: &[], tile_size: 1 };

    const TEXT: &str = "struct Params {
    seed: vec2u,
    rows: u32, // R, or more: as it comes
    eps: f32,
    stop: array<vec4u, 1>,
}

//@ write
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>; // [1]
@compute @workgroup_size(WG)
fn write() {
    y[0] = vec4f(f32(p.rows), f32(p.seed.y), p.eps, f32(p.stop[0].w));
}
";

    /// What the shader writes, or why the launch is refused.
    fn written(params: &[Param]) -> Result<Vec<f32>> {
        let gpu = Gpu::with(&crate::gpu::Options::default())?;
        let y = gpu.zeros(1, 4)?;
        let mut rec = gpu.record();
        rec.launch(Launch {
            source: &SOURCE,
            entry: "write",
            constants: vec![],
            params,
            bind: &[&y],
            groups: [1, 1, 1],
            cost: crate::gpu::Cost::default(),
        })?;
        rec.submit()?;
        gpu.download(&y)
    }

    const RIGHT: [Param; 4] =
        [("seed", Words(&[1, 2])), ("rows", Size(7)), ("eps", Float(0.5)), ("stop", Words(&[3, 4, 5, 6]))];

    #[test]
    fn parameters_arrive_under_their_names() {
        assert_eq!(written(&RIGHT).unwrap(), [7.0, 2.0, 0.5, 6.0]);
    }

    #[test]
    fn another_name_number_order_or_type_is_refused() {
        let with = |i: usize, param: Param<'static>| {
            let mut all = RIGHT;
            all[i] = param;
            all.to_vec()
        };
        let [seed, rows, eps, stop] = RIGHT;
        let wrong = [
            (with(1, ("row", Size(7))), "parameter 2 the shader has 'rows: u32', the launch sends 'row' (u32)"),
            (vec![seed, eps, rows, stop], "parameter 2 the shader has 'rows: u32', the launch sends 'eps' (f32)"),
            (vec![seed, rows, eps], "parameter 4 the shader has 'stop: array<vec4u, 1>', the launch sends no more"),
            (vec![seed, rows, eps, stop, eps], "parameter 5 the shader has no more, the launch sends 'eps' (f32)"),
            (with(2, ("eps", Word(1))), "parameter 3 the shader has 'eps: f32', the launch sends 'eps' (u32)"),
            (
                with(0, ("seed", Words(&[1]))),
                "parameter 1 the shader has 'seed: vec2u', the launch sends 'seed' (1 words)",
            ),
        ];
        for (params, says) in wrong {
            let Err(Error::Bug(message)) = written(&params) else { panic!("{params:?} is taken") };
            assert_eq!(message, format!("named.write: for {says}"));
        }
    }

    #[test]
    fn a_size_of_more_than_32_bits_is_refused() {
        let mut params = RIGHT;
        params[1].1 = Size(1 << 32);
        let Err(Error::Input(message)) = written(&params) else { panic!("it is taken") };
        assert_eq!(message, "named.write: rows is 4294967296, more than 32 bits hold; use a smaller batch");
    }

    #[test]
    fn a_member_that_cannot_be_sent_is_named() {
        let refused =
            |members: &str| Source::parameters(&format!("struct Params {{\n{members}}}\n")).unwrap_err().to_string();
        let unknown = refused("    x: vec3f,\n");
        assert!(unknown.ends_with("a launch cannot send the parameter 'x: vec3f,'"), "{unknown}");
        let gap = refused("    rows: u32,\n    seed: vec2u,\n");
        assert!(gap.ends_with("there is a gap before the parameter 'seed'"), "{gap}");
    }
}
