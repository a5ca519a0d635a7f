//! Chat templates: Jinja as `transformers` runs it (trimmed blocks, Python's string methods, `raise_exception`,
//! `strftime_now`, Python's `tojson`), run in the [`sandbox`].

use crate::clock;

use minijinja::{Environment, Error as JinjaError, ErrorKind};
use serde_json::{Map, Value};

use super::python::strftime;
use super::sandbox;
use crate::{Error, Result};
use minijinja::value::Value as Jinja;

/// Keys of tokenizer_config.json whose tokens the template sees under the same names.
const TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// What the caller says by other means, so that no variable may say it again.
const GIVEN: [&str; 4] = ["messages", "conversation", "tools", "add_generation_prompt"];

/// What a chat template writes.
#[derive(Clone, Copy, Default)]
pub(super) struct ChatInputs<'a> {
    /// The conversation: each message with whatever the template reads of it.
    pub(super) messages: &'a [Value],
    /// The functions that the model may call.
    pub(super) tools: Option<&'a Value>,
    /// Whether the text ends where the assistant begins to speak.
    pub(super) add_generation_prompt: bool,
    /// Further variables by name, such as `enable_thinking`. They go before the special tokens of the same name.
    pub(super) variables: Option<&'a Map<String, Value>>,
}

/// A chat template, with the special tokens that it may name.
pub(super) struct Template {
    source: String,
    tokens: Vec<(&'static str, String)>,
}

/// The text of the template in a tokenizer_config.json; of several named ones, the one called default.
pub(super) fn source(config: &Value) -> Result<Option<&str>> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source)),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
            let source = default.or(named.first()).and_then(|entry| entry.get("template")).and_then(Value::as_str);
            let wrong = || Error::Input("tokenizer_config.json: chat_template is a list without templates".into());
            source.map(Some).ok_or_else(wrong)
        }
        Some(_) => Err(Error::Input("tokenizer_config.json: chat_template is neither text nor a list".into())),
    }
}

/// The chat template of a tokenizer_config.json, if it has one.
pub(super) fn from_config(config: &Value) -> Result<Option<Template>> {
    let Some(source) = source(config)? else { return Ok(None) };
    let tokens = TOKENS.iter().filter_map(|key| Some((*key, token_text(config.get(*key)?)?.to_string()))).collect();
    Ok(Some(Template { source: without_generation_tags(source), tokens }))
}

/// The content of a special token, which is given as a text or as an object with `content`.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The source without its `generation` tags, which mark the assistant's words for loss masks and write nothing
/// themselves. An `if` that is always true takes their place.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        // The search begins after the "{%", since the two do not share their sign, as in "{%}".
        let Some(end) = tag[2..].find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(2 + end + 2);
        let word = tag[2..2 + end].trim_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

impl Template {
    pub(super) fn render(&self, inputs: ChatInputs<'_>) -> Result<String> {
        let variables = || inputs.variables.into_iter().flatten();
        if let Some((name, _)) = variables().find(|(name, _)| GIVEN.contains(&name.as_str())) {
            let what = format!("template variable {name}: the chat has it already; leave it out of the variables");
            return Err(Error::Input(what));
        }
        let mut context: Vec<(&str, Jinja)> = vec![
            ("messages", Jinja::from_serialize(inputs.messages)),
            ("add_generation_prompt", inputs.add_generation_prompt.into()),
            ("tools", inputs.tools.map_or_else(|| ().into(), Jinja::from_serialize)),
            ("documents", ().into()),
        ];
        context.extend(self.tokens.iter().map(|(key, token)| (*key, Jinja::from(token.as_str()))));
        context.extend(variables().map(|(name, value)| (name.as_str(), Jinja::from_serialize(value))));
        sandbox::render(environment(), &self.source, context.into_iter().collect::<Jinja>())
            .map_err(|error| Error::Input(format!("the chat template failed: {}", sandbox::explain(&error))))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Jinja, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, clock::since_epoch().as_secs()));
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Message;
    use serde_json::json;

    fn render(source: &str, messages: &[Message], prompt: bool) -> Result<String> {
        let config = json!({"chat_template": source, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
        let messages: Vec<Value> = messages.iter().map(Message::to_json).collect();
        let inputs = ChatInputs { messages: &messages, add_generation_prompt: prompt, ..ChatInputs::default() };
        from_config(&config)?.unwrap().render(inputs)
    }

    #[test]
    fn variables_go_before_special_tokens_but_not_before_the_chat() {
        let source = "{{ enable_thinking }} {{ bos_token }} {{ documents }} {{ messages | length }}";
        let template = from_config(&json!({"chat_template": source, "bos_token": "<s>"})).unwrap().unwrap();
        let render = |variables: Value| {
            let inputs = ChatInputs { variables: variables.as_object(), ..ChatInputs::default() };
            template.render(inputs).map_err(|error| error.to_string())
        };
        assert_eq!(render(json!({"enable_thinking": false})).as_deref(), Ok("False <s> None 0"));
        let more = json!({"bos_token": "<b>", "documents": "d", "unused": [1]});
        assert_eq!(render(more).as_deref(), Ok(" <b> d 0"));
        for name in GIVEN {
            assert!(render(json!({name: []})).unwrap_err().contains(name));
        }
    }

    #[test]
    fn conventions_are_those_of_transformers() {
        let messages = [Message::new("user", " Hi "), Message::new("assistant", "Ho")];
        for (source, want) in [
            (
                "{% for m in messages %}\n    {% if true %}\n{{ m.content.strip() }}|{% endif %}\n{% endfor %}\n",
                "Hi|Ho|",
            ),
            ("{{ bos_token }}{{ eos_token }}{{ messages[1:] | length }}{{ messages[-1].role }}", "<s></s>1assistant"),
            ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " Hi "}"#),
            (
                "{{ {'a': [1, 'ü'], 'b': {}} | tojson(indent=2) }}",
                "{\n  \"a\": [\n    1,\n    \"ü\"\n  ],\n  \"b\": {}\n}",
            ),
            ("{{ add_generation_prompt }} {{ none }} {{ nothing }}|{% if tools %}no{% endif %}", "True None |"),
            ("{%- generation -%} a {%- endgeneration %} b", "a b"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m['content'] }}{% endfor %}", "Ho"),
            ("{{ 'a-b'.split('-')[-1].upper() + '<b>' }}", "B<b>"),
        ] {
            assert_eq!(render(source, &messages, true).unwrap(), want, "{source}");
        }
    }

    #[test]
    fn refusals_and_mistakes_are_errors() {
        for (source, word) in [
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% for %}", "syntax"),
            ("{%}", "syntax"),
            ("{% include '/etc/passwd' %}", "failed"),
            ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "did not end"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed"),
        ] {
            let error = render(source, &[], false).unwrap_err().to_string();
            assert!(error.contains(word), "{source}: {error}");
        }
        assert!(from_config(&json!({"chat_template": 3})).is_err());
        assert!(from_config(&json!({"chat_template": []})).is_err());
        assert!(from_config(&json!({"chat_template": null})).unwrap().is_none());
    }
}
