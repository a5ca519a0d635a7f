//! Wholes: models with towers for images beside a text part, which alone is read.

use serde_json::{Value, json};

use super::keys::Keys;
use super::{FAMILIES, Family, of};
use crate::{Error, Result};

/// Keys that a whole's own configuration says, whatever its text part's says.
const OWN: [&str; 6] =
    ["bos_token_id", "eos_token_id", "dtype", "torch_dtype", "transformers_version", "quantization_config"];

/// The configuration of the text part, as a model of its own would have it, where `config` is that of a whole.
///
/// # Errors
/// The text part is of no family that is read in such a whole; a key has the wrong type.
pub fn text_part(config: &Value) -> Result<Option<Value>> {
    let keys = Keys(config);
    let model_type = keys.text("model_type")?.unwrap_or_default();
    let parts = || FAMILIES.iter().filter(|family| family.whole == Some(model_type));
    if of(model_type).is_some() || parts().next().is_none() {
        return Ok(None);
    }
    let text = keys.typed("text_config", "an object", |value| value.is_object().then_some(value))?;
    let part = text.map_or(Ok(None), |text| Keys(text).text("model_type"))?;
    let (Some(text), Some(family)) = (text, parts().find(|family| part == Some(family.model_type))) else {
        let known: Vec<&str> = parts().map(|family| family.model_type).collect();
        return Err(Error::Input(format!(
            "model_type {model_type:?} holds images too; only its text part is read, where text_config's model_type is \
             {}, not {}",
            known.join(" or "),
            part.unwrap_or("missing")
        )));
    };
    let mut alone = text.clone();
    alone["architectures"] = json!([family.class]);
    for key in OWN {
        if let Some(value) = keys.value(key) {
            alone[key] = value.clone();
        }
    }
    // The whole ties its output matrix, not its text part; a part that says it does is believed, since its files may
    // have no such matrix.
    let of_text = Keys(text).flag("tie_word_embeddings")?.filter(|ties| *ties);
    let ties = keys.flag("tie_word_embeddings")?.or(of_text);
    alone["tie_word_embeddings"] = json!(ties.unwrap_or(family.whole_ties));
    Ok(Some(alone))
}

/// The family of a configuration, of a whole's that of its text part.
pub(crate) fn of_config(config: &Value) -> Option<&'static Family> {
    let model_type = |config: &'_ Value| config.get("model_type").and_then(Value::as_str).and_then(of);
    model_type(config).or_else(|| model_type(&text_part(config).ok()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_gives_its_text_part_alone() {
        let whole = json!({
            "model_type": "mistral3", "eos_token_id": 7, "tie_word_embeddings": false, "vision_config": {},
            "text_config": {"model_type": "mistral", "hidden_size": 24, "eos_token_id": 2, "tie_word_embeddings": true}
        });
        let alone = text_part(&whole).unwrap().unwrap();
        let want = json!({
            "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_size": 24, "eos_token_id": 7,
            "tie_word_embeddings": false
        });
        assert_eq!(alone, want);
        assert_eq!(of_config(&whole).unwrap().model_type, "mistral");
        assert_eq!(text_part(&alone).unwrap(), None);
        assert_eq!(text_part(&json!({"model_type": "mamba", "text_config": {}})).unwrap(), None);
        for (part, word) in [
            (json!({"model_type": "gemma3_text"}), "not gemma3_text"),
            (json!({}), "not missing"),
            (Value::Null, "ministral3 or mistral"),
            (json!(3), "text_config: expected an object"),
        ] {
            let error = text_part(&json!({"model_type": "mistral3", "text_config": part})).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
