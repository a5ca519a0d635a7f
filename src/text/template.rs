//! Chat templates: Jinja as `transformers` runs it (trimmed blocks, Python's string methods, `raise_exception`,
//! `strftime_now`, Python's `tojson`), run in the [`sandbox`].

use std::path::Path;

use crate::clock;
use crate::disk::{self, OnDisk};

use minijinja::{Environment, Error as JinjaError, ErrorKind};
use serde_json::{Map, Value, json};

use super::python::{Date, shown};
use super::sandbox;
use crate::{Error, Result};
use minijinja::value::Value as Jinja;

/// Most bytes of a date's format.
const FORMAT: usize = 1000;
/// The template that is used where nothing speaks for another.
const DEFAULT: &str = "default";

/// What the caller says by other means, so that no variable may say it again.
const GIVEN: [&str; 4] = ["messages", "conversation", "tools", "add_generation_prompt"];

/// What a chat template is given.
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

/// Names under which a message's thoughts are handed over; the first is the one that templates read.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A chat template by each of its names, with the special tokens that it may name.
pub(super) struct Template {
    named: Vec<(String, String)>,
    tokens: Vec<(String, String)>,
}

/// The name and text of an entry in a list of templates.
fn pair(entry: &Value) -> Option<(&str, &str)> {
    Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?))
}

/// The name and text of each template in a tokenizer_config.json.
pub(super) fn named(config: &Value) -> Result<Vec<(&str, &str)>> {
    let wrong = |what: &str| Error::Input(format!("tokenizer_config.json: chat_template {what}"));
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT, source)]),
        Some(Value::Array(list)) if list.is_empty() => Err(wrong("is an empty list")),
        Some(Value::Array(list)) => {
            let expected = "is a list with an entry that is not {\"name\": …, \"template\": …}";
            list.iter().map(|entry| pair(entry).ok_or_else(|| wrong(expected))).collect()
        }
        Some(_) => Err(wrong("is neither text nor a list")),
    }
}

/// The text of the template in a tokenizer_config.json; of several, the one called default.
pub(super) fn source(config: &Value) -> Result<Option<&str>> {
    Ok(named(config)?.into_iter().find(|(name, _)| *name == DEFAULT).map(|(_, source)| source))
}

/// Puts the templates that lie beside a tokenizer_config.json in place of its own: `chat_template.jinja`, and those of
/// other names in `additional_chat_templates/`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn add_files(folder: &Path, config: &mut Map<String, Value>) -> Result<()> {
    let read = |path: &Path| disk::read_to_string(path).map_err(Error::io(path));
    let mut files = Vec::new();
    let default = folder.join("chat_template.jinja");
    if default.is_there() {
        files.push((DEFAULT.to_owned(), read(&default)?));
    }
    let more = folder.join("additional_chat_templates");
    if more.is_there() {
        let mut paths = Vec::new();
        for entry in disk::read_dir(&more).map_err(Error::io(&more))? {
            paths.push(entry.map_err(Error::io(&more))?.path());
        }
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jinja")) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, read(path)?));
        }
    }
    match &files[..] {
        [] => {}
        [(name, source)] if name == DEFAULT => drop(config.insert("chat_template".into(), source.as_str().into())),
        all => {
            let entry = |(name, source): &(String, String)| json!({"name": name, "template": source});
            config.insert("chat_template".into(), all.iter().map(entry).collect());
        }
    }
    Ok(())
}

/// The chat templates of a tokenizer_config.json, if it has any.
pub(super) fn from_config(config: &Value) -> Result<Option<Template>> {
    let named = named(config)?;
    if named.is_empty() {
        return Ok(None);
    }
    let named = named.into_iter().map(|(name, source)| (name.to_owned(), prepared(source))).collect();
    // Models name tokens of their own, such as image_token, in the same way.
    let keys = config.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    let tokens = keys.filter_map(|(key, value)| Some((key.clone(), token_text(value)?.to_owned()))).collect();
    Ok(Some(Template { named, tokens }))
}

/// The content of a special token, which is given as a text or as an object with `content`.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A message as templates see it: without the keys whose value is null, and with its thoughts under the name that
/// templates read.
fn message(given: &Value) -> Result<Value> {
    let Value::Object(given) = given else {
        return Err(Error::Input(format!("a message of the chat is no object with a role and a content but {given}")));
    };
    let mut message: Map<String, Value> =
        given.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(thoughts) = THOUGHTS.iter().find_map(|key| message.get(*key)).cloned() {
        if !message.contains_key("thinking") {
            let rest = std::mem::take(&mut message);
            message.insert("thinking".to_owned(), thoughts.clone());
            message.extend(rest);
        }
        message.insert(THOUGHTS[0].to_owned(), thoughts);
    }
    Ok(Value::Object(message))
}

/// The source with lines that end as Jinja has them, and without its `generation` tags, which mark the assistant's
/// words for loss masks and write nothing themselves. A `with` takes their place: what is set in them ends with them.
fn prepared(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
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
            "generation" => out.push_str(&tag.replace("generation", "with")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

impl Template {
    /// The chat as the template writes it.
    ///
    /// # Errors
    /// A variable says what the chat says, no template has the name that is wanted, or the template fails or refuses
    /// the chat.
    pub(super) fn render(&self, inputs: ChatInputs<'_>) -> Result<String> {
        let now = clock::since_epoch();
        self.render_at(inputs, Date::new(now.as_secs() as i64, now.subsec_micros(), clock::local_offset(now)))
    }

    /// [`Template::render`] at a time of one's own.
    pub(super) fn render_at(&self, inputs: ChatInputs<'_>, now: Date) -> Result<String> {
        let variables = || inputs.variables.into_iter().flatten();
        if let Some((name, _)) = variables().find(|(name, _)| GIVEN.contains(&name.as_str())) {
            let what = format!("template variable {name}: the chat has it already; leave it out of the variables");
            return Err(Error::Input(what));
        }
        let messages = inputs.messages.iter().map(message).collect::<Result<Vec<_>>>()?;
        let tools = inputs.tools.filter(|tools| !tools.is_null());
        if tools.is_some_and(|tools| !tools.as_array().is_some_and(|list| list.iter().all(Value::is_object))) {
            return Err(Error::Input("tools are not a list of objects, each the JSON schema of a function".into()));
        }
        let mut context: Vec<(&str, Jinja)> = vec![
            ("messages", Jinja::from_serialize(messages)),
            ("add_generation_prompt", inputs.add_generation_prompt.into()),
            ("tools", tools.map_or_else(|| ().into(), Jinja::from_serialize)),
            ("documents", ().into()),
        ];
        context.extend(self.tokens.iter().map(|(key, token)| (key.as_str(), Jinja::from(token.as_str()))));
        context.extend(variables().map(|(name, value)| (name.as_str(), Jinja::from_serialize(value))));
        sandbox::render(environment(now), self.choose(tools.is_some())?, context.into_iter().collect::<Jinja>())
            .map_err(|error| Error::Input(format!("the chat template failed: {}", sandbox::explain(&error))))
    }

    /// The template for chats with tools, or else the one called default.
    fn choose(&self, tools: bool) -> Result<&str> {
        let find = |wanted: &str| self.named.iter().find(|(name, _)| name == wanted).map(|(_, source)| source.as_str());
        find("tool_use").filter(|_| tools).or_else(|| find(DEFAULT)).ok_or_else(|| {
            let names: Vec<&str> = self.named.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            Error::Input(format!("the model's chat templates are called {names}, and none of them is called default"))
        })
    }
}

fn environment(now: Date) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_function("raise_exception", |message: Jinja| -> std::result::Result<Jinja, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, shown(&message)))
    });
    environment.add_function("strftime_now", move |format: Jinja| match format.as_str() {
        None => Err(JinjaError::new(ErrorKind::InvalidOperation, "strftime_now expects a text, the date's format")),
        Some(format) if format.len() > FORMAT => {
            let what = format!("a date's format has {} bytes", format.len());
            Err(JinjaError::new(ErrorKind::InvalidOperation, what))
        }
        Some(format) => Ok(now.format(format)),
    });
    // Jinja in Python does not know these.
    for filter in ["bool", "chain", "lines", "split", "zip"] {
        environment.remove_filter(filter);
    }
    for test in ["startingwith", "endingwith", "safe"] {
        environment.remove_test(test);
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Message;

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
            let messages = [json!({"role": "user", "content": "Hi"})];
            let inputs = ChatInputs { messages: &messages, variables: variables.as_object(), ..ChatInputs::default() };
            template.render(inputs).map_err(|error| error.to_string())
        };
        assert_eq!(render(json!({"enable_thinking": false})).as_deref(), Ok("False <s> None 1"));
        let more = json!({"bos_token": "<b>", "documents": "d", "unused": [1]});
        assert_eq!(render(more).as_deref(), Ok(" <b> d 1"));
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
            let error = render(source, &[Message::new("user", "Hi")], false).unwrap_err().to_string();
            assert!(error.contains(word), "{source}: {error}");
        }
        assert!(from_config(&json!({"chat_template": 3})).is_err());
        assert!(from_config(&json!({"chat_template": [{"name": "default"}]})).is_err());
        assert!(from_config(&json!({"chat_template": []})).is_err());
        assert!(from_config(&json!({"chat_template": null})).unwrap().is_none());
    }

    #[test]
    fn tools_choose_among_named_templates() {
        let render = |names: &[&str], tools: Option<&Value>| {
            let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "template": name})).collect();
            let template = from_config(&json!({"chat_template": list})).unwrap().unwrap();
            let messages = [json!({"role": "user", "content": "Hi"})];
            let inputs = ChatInputs { messages: &messages, tools, ..ChatInputs::default() };
            template.render(inputs).map_err(|error| error.to_string())
        };
        let tools = json!([{"type": "function"}]);
        assert_eq!(render(&["rag", "tool_use", "default"], None).as_deref(), Ok("default"));
        assert_eq!(render(&["default", "tool_use"], Some(&tools)).as_deref(), Ok("tool_use"));
        assert_eq!(render(&["default", "rag"], Some(&tools)).as_deref(), Ok("default"));
        assert_eq!(render(&["tool_use"], Some(&tools)).as_deref(), Ok("tool_use"));
        let error = render(&["rag", "tool_use"], None).unwrap_err();
        assert!(error.contains("rag, tool_use") && error.contains("default"), "{error}");
        assert!(render(&["default"], Some(&json!("f"))).unwrap_err().contains("tools"));
    }

    #[test]
    fn templates_in_files_go_before_those_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let read = || {
            let mut config = Map::from_iter([("chat_template".to_owned(), json!("own"))]);
            add_files(folder.path(), &mut config).unwrap();
            Value::Object(config)
        };
        assert_eq!(source(&read()).unwrap(), Some("own"));
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        std::fs::write(folder.path().join("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
        assert_eq!(read()["chat_template"], json!([{"name": "tool_use", "template": "tools"}]));
        assert_eq!(source(&read()).unwrap(), None);
        std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
        assert_eq!(source(&read()).unwrap(), Some("file"));
    }

    #[test]
    fn messages_lose_what_is_null_and_thoughts_get_their_name() {
        let seen = |given: Value| message(&given).unwrap();
        let call = json!({"role": "assistant", "content": null, "tool_calls": [{"a": null}]});
        assert_eq!(seen(call), json!({"role": "assistant", "tool_calls": [{"a": null}]}));
        let thought = seen(json!({"role": "assistant", "reasoning": "hm"}));
        assert_eq!(
            thought.to_string(),
            r#"{"thinking":"hm","role":"assistant","reasoning":"hm","reasoning_content":"hm"}"#
        );
        assert!(message(&json!("Hi")).is_err());
    }
}
