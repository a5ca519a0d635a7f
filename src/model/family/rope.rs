//! Rotation frequencies from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
//! The f32 steps are those of transformers' `modeling_rope_utils`.

use serde_json::Value;

use super::{Keys, Rope};
use crate::{Error, Result};

/// Reads the rotary embedding of a configuration.
pub(super) fn rope(keys: &Keys<'_>, head_dim: usize) -> Result<Rope> {
    let object = |key| keys.typed(key, "an object", |v: &Value| v.is_object().then_some(v));
    let nothing = Value::Null;
    let parameters = Keys(object("rope_parameters")?.or(object("rope_scaling")?).unwrap_or(&nothing));
    let theta = parameters.number("rope_theta")?.or(keys.number("rope_theta")?).unwrap_or(10000.0);
    if !(theta.is_finite() && theta > 0.0) {
        return Err(Error::Input(format!("rope_theta is {theta}; expected a positive number")));
    }
    for source in [keys, &parameters] {
        if let Some(part) = source.number("partial_rotary_factor")?
            && part != 1.0
        {
            return Err(Error::Input(format!("partial_rotary_factor {part} is not supported, only 1")));
        }
    }
    let plain: Vec<f32> = (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (theta.powf(f64::from(exponent)) as f32)
        })
        .collect();
    let inv_freq = match parameters.text("rope_type")?.or(parameters.text("type")?).unwrap_or("default") {
        "default" => plain,
        "linear" => {
            let factor = positive(&parameters, "factor")?;
            plain.into_iter().map(|f| f / factor).collect()
        }
        "llama3" => llama3(&parameters, plain)?,
        other => {
            let what = format!("rope_type {other:?} is not supported; supported are default, linear and llama3");
            return Err(Error::Input(what));
        }
    };
    Ok(Rope { inv_freq, scaling: 1.0 })
}

fn positive(parameters: &Keys<'_>, key: &str) -> Result<f32> {
    match parameters.number(key)? {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x as f32),
        Some(x) => Err(Error::Input(format!("rope parameter {key} is {x}; expected a positive number"))),
        None => Err(Error::Input(format!("rope parameter {key} is missing"))),
    }
}

/// Long wavelengths are stretched by `factor`, short ones stay, those between are blended.
fn llama3(parameters: &Keys<'_>, plain: Vec<f32>) -> Result<Vec<f32>> {
    let factor = positive(parameters, "factor")?;
    let low = positive(parameters, "low_freq_factor")?;
    let high = positive(parameters, "high_freq_factor")?;
    let context = positive(parameters, "original_max_position_embeddings")?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn frequencies(config: Value, head_dim: usize) -> Vec<f32> {
        rope(&Keys(&config), head_dim).unwrap().inv_freq
    }

    #[test]
    fn old_and_new_keys_mean_the_same() {
        let new = frequencies(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}), 64);
        assert_eq!(new, frequencies(json!({"rope_theta": 100000}), 64));
        assert_eq!((new[0], new.len()), (1.0, 32));
        let linear = frequencies(json!({"rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4}}), 64);
        assert!(linear.iter().zip(&new).all(|(l, n)| *l == n / 4.0));
    }

    // transformers 5.23: LlamaConfig(head_dim=16, hidden_size=16, num_attention_heads=1, rope_parameters={rope_type: llama3,
    // rope_theta: 500000, factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192});
    // LlamaRotaryEmbedding(config).inv_freq
    #[test]
    fn llama3_scaling_is_that_of_transformers() {
        let got = frequencies(
            json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
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
            json!({"rope_scaling": {"type": "dynamic", "factor": 2}}),
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
                   "original_max_position_embeddings": 8192}}),
            json!({"partial_rotary_factor": 0.5}),
            json!({"rope_parameters": 3}),
        ] {
            assert!(rope(&Keys(&config), 8).is_err(), "{config}");
        }
    }
}
