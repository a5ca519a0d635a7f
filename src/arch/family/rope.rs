//! Rotation frequencies from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
//! The f32 steps are those of transformers' `modeling_rope_utils`.

use std::borrow::Cow;

use serde_json::Value;

use super::keys::Keys;
use super::row::Family;
use crate::arch::shape::{Rope, Stretch};
use crate::{Error, Result};

/// What the rest of a configuration says about its ropes.
pub(super) struct RopeContext {
    /// Channels of a head.
    pub(super) head_dim: usize,
    /// The base where the parameters have none.
    pub(super) theta: f64,
    /// `max_position_embeddings`
    pub(super) longest: usize,
    /// `original_max_position_embeddings` outside the parameters; it takes precedence.
    pub(super) original: Option<usize>,
}

/// Reads the rotary embedding of a configuration that has one for all blocks.
pub(super) fn rope(keys: &Keys<'_>, context: &RopeContext) -> Result<Rope> {
    let nothing = Value::Null;
    let parameters = parameters(keys)?.unwrap_or(&nothing);
    for nested in ["full_attention", "sliding_attention"] {
        if parameters.get(nested).is_some() {
            return Err(Error::Input(format!(
                "rope parameters by layer type ({nested}) are not read for this model_type"
            )));
        }
    }
    let parameters = Keys(parameters);
    let mut all = serde_json::Map::new();
    for key in ["rope_theta", "partial_rotary_factor"] {
        if let Some(value) = parameters.value(key).or(keys.value(key)) {
            all.insert(key.into(), value.clone());
        }
    }
    if let Some(given) = parameters.0.as_object() {
        all.extend(given.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    }
    scaled(&Keys(&Value::Object(all)), context)
}

/// A configuration with its class's own rope parameters, where it has none.
pub(crate) fn with_usual<'a>(config: &'a Value, family: &Family) -> Cow<'a, Value> {
    let keys = Keys(config);
    match family.usual_rope {
        Some(usual) if keys.value("rope_parameters").or(keys.value("rope_scaling")).is_none() => {
            let mut filled = config.clone();
            filled["rope_parameters"] = usual();
            Cow::Owned(filled)
        }
        _ => Cow::Borrowed(config),
    }
}

/// The object that holds a configuration's rope parameters.
pub(super) fn parameters<'a>(keys: &Keys<'a>) -> Result<Option<&'a Value>> {
    let object = |key| keys.typed(key, "an object", |v: &Value| v.is_object().then_some(v));
    Ok(object("rope_scaling")?.or(object("rope_parameters")?))
}

/// `rope_type` of a configuration.
pub(super) fn kind<'a>(keys: &Keys<'a>) -> Result<&'a str> {
    match parameters(keys)? {
        Some(p) => Ok(Keys(p).text("rope_type")?.or(Keys(p).text("type")?).unwrap_or("default")),
        None => Ok("default"),
    }
}

/// The ropes of a configuration that has two: that of blocks that see everything, then that of blocks with a window,
/// which is not scaled unless it says so. `thetas` are their bases where the parameters have none.
pub(super) fn by_type(keys: &Keys<'_>, head_dim: usize, longest: usize, thetas: [f64; 2]) -> Result<Vec<Rope>> {
    let object = |keys: &Keys<'_>, key: &str| {
        let found = keys.typed(key, "an object", |v: &Value| v.is_object().then(|| v.clone()))?;
        Ok::<_, Error>(found.unwrap_or_else(|| Value::Object(serde_json::Map::new())))
    };
    let nested = object(keys, "rope_parameters")?;
    if nested.get("rope_type").is_some() || nested.get("rope_theta").is_some() {
        let what = "rope_parameters of this model_type: expected full_attention and sliding_attention in it";
        return Err(Error::Input(what.into()));
    }
    let mut full = object(&Keys(&nested), "full_attention")?;
    if let (Value::Object(scaling), Some(full)) = (object(keys, "rope_scaling")?, full.as_object_mut()) {
        full.extend(scaling);
    }
    let local = object(&Keys(&nested), "sliding_attention")?;
    [full, local]
        .iter()
        .zip(thetas)
        .map(|(parameters, theta)| {
            let context = RopeContext { head_dim, theta, longest, original: None };
            let found = scaled(&Keys(parameters), &context)?;
            if 2 * found.inv_freq.len() != head_dim {
                return Err(Error::Input(format!("head_dim is {head_dim}; expected an even number")));
            }
            Ok(found)
        })
        .collect()
}

/// One rope from its parameters alone.
fn scaled(parameters: &Keys<'_>, context: &RopeContext) -> Result<Rope> {
    let theta = parameters.number("rope_theta")?.unwrap_or(context.theta);
    if !(theta.is_finite() && theta > 0.0) {
        return Err(Error::Input(format!("rope_theta is {theta}; expected a positive number")));
    }
    let part = parameters.number("partial_rotary_factor")?.unwrap_or(1.0);
    let turned = (context.head_dim as f64 * part) as usize;
    if !(part > 0.0 && part <= 1.0) || turned == 0 || turned % 2 == 1 {
        return Err(Error::Input(format!(
            "partial_rotary_factor {part} would turn {turned} of {} channels; expected an even number of them",
            context.head_dim
        )));
    }
    let plain = plain(theta, turned);
    let original = || match context.original {
        Some(n) => Ok(n),
        None => Ok(parameters.size("original_max_position_embeddings")?.unwrap_or(context.longest)),
    };
    let lengths = || Ok::<_, Error>(Lengths { original: original()?, longest: context.longest });
    let fixed = |inv_freq| Ok(Rope { inv_freq, scaling: 1.0, stretch: Stretch::Never });
    match parameters.text("rope_type")?.or(parameters.text("type")?).unwrap_or("default") {
        "default" => fixed(plain),
        "linear" => {
            let factor = positive(parameters, "factor")?;
            fixed(plain.into_iter().map(|f| f / factor).collect())
        }
        "llama3" => fixed(llama3(parameters, original()?, plain)?),
        "yarn" => yarn(parameters, lengths()?, theta, turned),
        "longrope" | "su" => longrope(parameters, lengths()?, theta, turned),
        "dynamic" => {
            let factor = positive(parameters, "factor")?;
            if turned == 2 || factor < 1.0 {
                return Err(Error::Input(
                    "rope_type dynamic needs a factor of at least 1 and more than 2 channels".into(),
                ));
            }
            let stretch = Stretch::Dynamic { theta, factor, original: context.longest };
            Ok(Rope { inv_freq: plain, scaling: 1.0, stretch })
        }
        other => {
            let known = "default, linear, llama3, dynamic, yarn and longrope";
            Err(Error::Input(format!("rope_type {other:?} is not supported; supported are {known}")))
        }
    }
}

/// theta^(2 i / turned), in f32.
fn powers(theta: f64, turned: usize) -> Vec<f32> {
    (0..turned / 2).map(|i| theta.powf(f64::from((2 * i) as f32 / turned as f32)) as f32).collect()
}

fn plain(theta: f64, turned: usize) -> Vec<f32> {
    powers(theta, turned).into_iter().map(|p| 1.0 / p).collect()
}

fn positive(parameters: &Keys<'_>, key: &str) -> Result<f32> {
    optional(parameters, key)?
        .map_or_else(|| Err(Error::Input(format!("rope parameter {key} is missing"))), |x| Ok(x as f32))
}

fn optional(parameters: &Keys<'_>, key: &str) -> Result<Option<f64>> {
    match parameters.number(key)? {
        Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
        Some(x) => Err(Error::Input(format!("rope parameter {key} is {x}; expected a positive number"))),
        None => Ok(None),
    }
}

/// Long wavelengths are stretched by `factor`, short ones stay, those between are blended.
fn llama3(parameters: &Keys<'_>, original: usize, plain: Vec<f32>) -> Result<Vec<f32>> {
    let factor = positive(parameters, "factor")?;
    let low = positive(parameters, "low_freq_factor")?;
    let high = positive(parameters, "high_freq_factor")?;
    let context = original as f32;
    if high <= low {
        return Err(Error::Input(format!("rope parameter high_freq_factor {high} is not above low_freq_factor {low}")));
    }
    let scale = |f: f32| {
        let wavelength = 2.0 * std::f32::consts::PI / f;
        if wavelength > context / low {
            f / factor
        } else if wavelength < context / high {
            f
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        }
    };
    Ok(plain.into_iter().map(scale).collect())
}

/// NTK-aware scaling of sequences of `length` tokens, more than `original` (transformers' `dynamic`): `pairs`
/// frequencies.
pub(crate) fn dynamic(theta: f64, factor: f32, original: usize, length: u32, pairs: usize) -> Vec<f32> {
    let turned = 2 * pairs;
    let grown = factor * length as f32 / original as f32 - (factor - 1.0);
    let exponent = turned as f64 / (turned - 2) as f64;
    let base = theta as f32 * f64::from(grown).powf(exponent) as f32;
    plain(f64::from(base), turned)
}

/// The longest sequences of the first training and of the model as it is, in tokens.
#[derive(Clone, Copy)]
struct Lengths {
    original: usize,
    longest: usize,
}

/// How far the context is extended: by the given factor, or else by the ratio of the two lengths.
fn stretched(parameters: &Keys<'_>, Lengths { original, longest }: Lengths) -> Result<f64> {
    if original == 0 {
        return Err(Error::Input("original_max_position_embeddings is 0; expected 1 or more".into()));
    }
    Ok(optional(parameters, "factor")?.unwrap_or(longest as f64 / original as f64))
}

/// YaRN (arXiv 2309.00071): long wavelengths are stretched, short ones stay, a linear ramp between; q and k grow a
/// little.
fn yarn(parameters: &Keys<'_>, lengths: Lengths, theta: f64, turned: usize) -> Result<Rope> {
    let factor = stretched(parameters, lengths)?;
    let grow = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let scaling = match (parameters.number("mscale")?, parameters.number("mscale_all_dim")?) {
        _ if parameters.value("attention_factor").is_some() => optional(parameters, "attention_factor")?.unwrap_or(1.0),
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => grow(m) / grow(all),
        _ => grow(1.0),
    };
    let fast = optional(parameters, "beta_fast")?.unwrap_or(32.0);
    let slow = optional(parameters, "beta_slow")?.unwrap_or(1.0);
    let dim = turned as f64;
    // The channel whose wavelength fits `rotations` times into the original context.
    let original = lengths.original as f64;
    let channel =
        |rotations: f64| dim * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (channel(fast), channel(slow));
    if parameters.flag("truncate")?.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    if !(low.is_finite() && high.is_finite()) {
        return Err(Error::Input(format!("rope_type yarn with rope_theta {theta} gives no finite ramp")));
    }
    let blend = |(i, p): (usize, f32)| {
        let stay = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        1.0 / (factor as f32 * p) * (1.0 - stay) + 1.0 / p * stay
    };
    let inv_freq = powers(theta, turned).into_iter().enumerate().map(blend).collect();
    Ok(Rope { inv_freq, scaling: scaling as f32, stretch: Stretch::Never })
}

/// LongRoPE (arXiv 2402.13753): each frequency has a divisor, one list for sequences up to the original context, one
/// beyond.
fn longrope(parameters: &Keys<'_>, lengths: Lengths, theta: f64, turned: usize) -> Result<Rope> {
    let factor = stretched(parameters, lengths)?;
    let original = lengths.original;
    let scaling = match optional(parameters, "attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None if original < 2 => {
            return Err(Error::Input(format!("original_max_position_embeddings is {original}; expected 2 or more")));
        }
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    };
    let divided = |key: &str| {
        let wrong = || Error::Input(format!("rope parameter {key}: expected {} positive numbers", turned / 2));
        let list = parameters.typed(key, "a list", Value::as_array)?.ok_or_else(wrong)?;
        let list: Vec<f32> = list.iter().filter_map(Value::as_f64).map(|x| x as f32).filter(|x| *x > 0.0).collect();
        if list.len() != turned / 2 {
            return Err(wrong());
        }
        Ok::<_, Error>(powers(theta, turned).into_iter().zip(list).map(|(p, d)| 1.0 / (d * p)).collect::<Vec<f32>>())
    };
    let stretch = Stretch::Long { original, inv_freq: divided("long_factor")? };
    Ok(Rope { inv_freq: divided("short_factor")?, scaling: scaling as f32, stretch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: &Value, head_dim: usize) -> Result<Rope> {
        rope(&Keys(config), &RopeContext { head_dim, theta: 10000.0, longest: 512, original: None })
    }

    fn frequencies(config: Value, head_dim: usize) -> Vec<f32> {
        read(&config, head_dim).unwrap().inv_freq
    }

    #[test]
    fn old_and_new_keys_mean_the_same() {
        let new = frequencies(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}), 64);
        assert_eq!(new, frequencies(json!({"rope_theta": 100000}), 64));
        assert_eq!((new[0], new.len()), (1.0, 32));
        let linear = frequencies(json!({"rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4}}), 64);
        assert!(linear.iter().zip(&new).all(|(l, n)| *l == n / 4.0));
    }

    // transformers 5.23: LlamaConfig(head_dim=16, hidden_size=16, num_attention_heads=1, rope_parameters={rope_type:
    // llama3, rope_theta: 500000, factor: 32, low_freq_factor: 1, high_freq_factor: 4,
    // original_max_position_embeddings: 8192}); LlamaRotaryEmbedding(config).inv_freq
    #[test]
    fn llama3_scaling_is_that_of_transformers() {
        let got = frequencies(
            json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0,
                   "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
            16,
        );
        let want = [1.0, 0.19392276, 0.03760603, 0.007292665, 4.295567e-04, 8.570256e-06, 1.6619674e-06, 3.222933e-07];
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= 1e-6 * w, "{got:?}");
        }
        assert_eq!(got.len(), want.len());
    }

    #[test]
    fn nonsense_is_refused() {
        for config in [
            json!({"rope_theta": -1.0}),
            json!({"rope_scaling": {"type": "linear"}}),
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            json!({"rope_scaling": {"type": "dynamic", "factor": 0.5}}),
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 1, 1]}}),
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 1, 1, -1]}}),
            json!({"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2}}),
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
                   "original_max_position_embeddings": 8192}}),
            json!({"partial_rotary_factor": 0.4}),
            json!({"partial_rotary_factor": 2.0}),
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            json!({"rope_parameters": 3}),
        ] {
            assert!(read(&config, 8).is_err(), "{config}");
        }
    }
}
